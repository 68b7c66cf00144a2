"""`pellucid sweep`."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ._console import say, table, warn

if TYPE_CHECKING:
    from pellucid.reports import SubjectCard
    from pellucid.training import Event, OnEvent, Sweep


def sweep(
    recipe: Annotated[str, tyro.conf.Positional],
    /,
    *,
    over: str,
    out: Path,
    seeds: str = "0",
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    device: str = "cpu",
) -> int:
    """Train a recipe over the values of one setting, and draw what each gains and costs.

    Every model is measured as the recipe's test says: accuracy, and accuracy under each of its attacks. Those that no
    other model beats are the front. Run it again on the same folder to continue, or to add values and seeds.

    Args:
        recipe: a TOML file, or the name of a shipped recipe, such as pareto-fashion-mnist.
        over: the key and its values, such as `--over weighting.rho=0,0.25,0.5,0.75,1`.
        out: folder for the models, `front.json` and the page.
        seeds: every value is trained once with each of these, such as `--seeds 0,1,2`.
        set: change one key of the recipe for all models, such as `--set test.limit=200`; may be given several times.
        device: cpu, cuda, or one card such as cuda:1.
    """
    from pellucid.training import sweep as run_sweep

    from ._out import output_folder

    key, values = _values(over)
    numbers = _seeds(seeds)
    folder = output_folder(out, "", kind="sweep", resume=True)
    command = shlex.join(
        ["pellucid", "sweep", recipe, "--over", over, "--seeds", seeds, *(word for s in set for word in ("--set", s))]
    )
    try:
        with _Watched(len(values) * len(numbers)) as watched:
            found = run_sweep(
                recipe,
                folder,
                over=key,
                values=values,
                seeds=numbers,
                overrides=set,
                device=device,
                on_event=watched,
            )
    except KeyboardInterrupt:
        warn("interrupted; the same command goes on from the end of the last whole epoch")
        return 130
    _show(found, command)
    return 0


def _values(over: str) -> tuple[str, list[str]]:
    from pellucid.core import RecipeError

    key, equals, values = over.partition("=")
    found = [value.strip() for value in values.split(",") if value.strip()]
    if not (key.strip() and equals and found):
        raise RecipeError(f"--over takes key=value,value,..., such as weighting.rho=0,0.5,1; got {over!r}")
    return key.strip(), found


def _seeds(text: str) -> list[int]:
    from pellucid.core import RecipeError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(f"--seeds takes whole numbers with commas between, such as 0,1,2; got {text!r}") from None


class _Watched:
    """Shows each training of a sweep as `pellucid train` shows one, and which of how many it is."""

    def __init__(self, count: int) -> None:
        self.count, self.title, self.place = count, "", 0
        self.stack = ExitStack()
        self.tell: OnEvent | None = None

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def __call__(self, title: str, event: Event) -> None:
        from ._progress import watch

        if title != self.title or self.tell is None:
            self.stack.close()
            self.title, self.place = title, self.place + 1
            self.tell = self.stack.enter_context(watch(title))
        self.tell(event)


def _show(found: Sweep, command: str) -> None:
    from pellucid.audits import front_report

    front = found.front
    report = front_report(front, _subject(found), command=command)
    page = report.save(found.folder.path)
    rows = [
        (model.label, model.seed, *(f"{value:.1%}" for value in model.values), "yes" if model.member else "")
        for model in front.models
    ]
    say(table((front.over, "seed", *front.axes, "not beaten"), rows))
    seeds = "" if len(front.by_seed) < 2 else f"; by seed {', '.join(f'{v:.3g}' for v in front.by_seed.values())}"
    say(f"\nhypervolume {front.hypervolume:.3g}{seeds}")
    say(report.findings[0].answer)
    say(f"\nreport: {page}")


def _subject(found: Sweep) -> SubjectCard:
    from pellucid.reports import SubjectCard

    card = found.run(found.front.models[0]).card
    start = card["start"].get("from", "")
    return SubjectCard(
        model=found.front.name,
        data=found.front.data,
        modality=str(card["task"]).partition(" ")[0],
        n_samples=found.front.samples,
        n_classes=len(card["class_names"]),
        class_names=tuple(card["class_names"]),
        input_shape=tuple(card["input_shape"]),
        parameters=card["parameters"],
        notes=(f"{len(found.front.models)} models, all trained from {start}." if start else "Trained from scratch.",),
    )
