"""What do our attacks cost beyond their gradients, and do they find at least what other libraries' find?

    python benchmarks/bench_attacks.py [--rounds 15] [--batch 256] [--steps 20] [--samples 512] [--peers] [--note]
        [--models fashion-standard,fashion-robust] [--only time,accuracy,turns,ensemble] [--ensemble] [--quick]

(time) PGD in both norms over as many bare passes forward and back to the input; with `--peers` the same attack of
foolbox, torchattacks and ART at the same radius, steps, step length and start. (accuracy) What each leaves, with
Wilson's interval, on the same samples, and the samples that one fools and the other does not. (turns) The grid of
rotations and translations per sample against foolbox's SpatialAttack and ART's SpatialTransformation. (ensemble) With
`--ensemble`: `standard_ensemble` beside PGD and, where the package is installed, AutoAttack itself.

Peers: pip install "pellucid[peers]", and pip install --no-deps torchattacks (it asks for torchvision but needs none
here). A peer that cannot be imported is left out and the reason is printed.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid import data, models
from pellucid.attacks import L2, PGD, AutoAttack, GridSearch, Linf, RotateTranslate, standard_ensemble
from pellucid.core import Stream, wilson
from pellucid.metrics import attacked

Fooled = Callable[[Tensor, Tensor], Tensor]
RADII = {"fashion-standard": (0.02, 0.4), "fashion-robust": (0.1, 1.0)}
TURNED = ((30, 3), (10, 1))  # degrees and pixels
PEERS = {"foolbox": "foolbox", "torchattacks": "torchattacks", "ART": "art.attacks.evasion"}


@dataclass(frozen=True)
class Case:
    """A network with the samples on which everything is run."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor

    @property
    def spaces(self) -> dict[str, Linf | L2]:
        """Return a ball of each norm that leaves some samples standing and fools others."""
        linf, l2 = RADII.get(self.name, (0.03, 0.4))
        return {"linf": Linf(linf), "l2": L2(l2)}


def case(name: str, samples: int, device: str) -> Case:
    """Return a shipped network and test images."""
    images = data.load("fashion-mnist", limit=samples)
    x = images.inputs.float() / 255 if images.inputs.dtype == torch.uint8 else images.inputs
    model = models.load(name).model.to(device).eval().requires_grad_(False)
    assert images.labels is not None
    return Case(name, model, x.to(device), images.labels.to(device))


def bare(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Callable[[], object]:
    """Return the passes alone: forward, cross-entropy, back to the input; parameters frozen."""

    def run() -> None:
        for _ in range(steps):
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)

    return run


# -- the same attack by others: each returns which samples it fooled ----------------------------------------------


def foolbox_pgd(model: nn.Module, norm: str, eps: float, steps: int) -> Fooled:
    """Return foolbox's PGD at our settings."""
    foolbox = importlib.import_module("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=next(model.parameters()).device)
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(rel_stepsize=2.5 / steps, steps=steps)
    return lambda x, y: attack(wrapped, x, y, epsilons=eps)[2]


def torchattacks_pgd(model: nn.Module, norm: str, eps: float, steps: int) -> Fooled:
    """Return torchattacks' PGD at our settings."""
    torchattacks = importlib.import_module("torchattacks")
    kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
    attack = kind(model, eps=eps, alpha=2.5 / steps * eps, steps=steps)
    return lambda x, y: model(attack(x, y)).argmax(1) != y


def art_classifier(model: nn.Module, shape: tuple[int, ...]) -> object:
    """Return the network as ART sees it."""
    made = importlib.import_module("art.estimators.classification").PyTorchClassifier
    place = "gpu" if next(model.parameters()).is_cuda else "cpu"
    return made(model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, 1.0), device_type=place)


def art_pgd(model: nn.Module, norm: str, eps: float, steps: int) -> Fooled:
    """Return ART's PGD at our settings."""
    evasion = importlib.import_module("art.attacks.evasion")

    def run(x: Tensor, y: Tensor) -> Tensor:
        attack = evasion.ProjectedGradientDescent(
            art_classifier(model, tuple(x.shape[1:])),
            norm="inf" if norm == "linf" else 2,
            eps=eps,
            eps_step=2.5 / steps * eps,
            max_iter=steps,
            num_random_init=1,
            batch_size=len(x),
            verbose=False,
        )
        found = torch.from_numpy(attack.generate(x.cpu().numpy(), F.one_hot(y.cpu(), 10).numpy())).to(x)
        return model(found).argmax(1) != y

    return run


PGDS = {"foolbox": foolbox_pgd, "torchattacks": torchattacks_pgd, "ART": art_pgd}


def foolbox_turns(model: nn.Module, grid: tuple[int, int, int], limits: tuple[int, int]) -> Fooled:
    """Return foolbox's grid of rotations and translations; it never says which candidate fooled."""
    foolbox = importlib.import_module("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=next(model.parameters()).device)
    attack = foolbox.attacks.SpatialAttack(limits[1], limits[0], num_translations=grid[1], num_rotations=grid[0])
    return lambda x, y: attack(wrapped, x, y)[2]


def art_turns(model: nn.Module, grid: tuple[int, int, int], limits: tuple[int, int]) -> Fooled:
    """Return ART's, which picks one turn and shift for the whole batch."""
    evasion = importlib.import_module("art.attacks.evasion")

    def run(x: Tensor, y: Tensor) -> Tensor:
        attack = evasion.SpatialTransformation(
            art_classifier(model, tuple(x.shape[1:])),
            max_translation=100 * limits[1] / x.shape[-1],
            num_translations=grid[1],
            max_rotation=float(limits[0]),
            num_rotations=grid[0],
            verbose=False,
        )
        return model(torch.from_numpy(attack.generate(x.cpu().numpy())).to(x)).argmax(1) != y

    return run


TURNS = {"foolbox": foolbox_turns, "ART": art_turns}


def importable(wanted: bool) -> tuple[list[str], list[str]]:
    """Return the peers that can be imported, and a line for each that cannot."""
    found, reasons = [], []
    for name, module in PEERS.items() if wanted else ():
        try:
            importlib.import_module(module)
            found.append(name)
        except ImportError as error:
            reasons.append(f"{name} is left out: {error}")
    return found, reasons


# -- sections ------------------------------------------------------------------------------------------------------


def times(case: Case, peers: list[str], settings: argparse.Namespace) -> str:
    """Return the time of PGD over its bare passes."""
    x, y, steps = case.x[: settings.batch], case.y[: settings.batch], settings.steps
    reference, rows = f"{steps} bare passes", []
    for norm, space in case.spaces.items():
        attack = PGD(space, steps=steps)
        runs: dict[str, Callable[[], object]] = {
            reference: bare(case.model, x, y, steps),
            f"pellucid PGD {norm}": lambda attack=attack: attack(case.model, x, y, rng=Stream(0)),  # type: ignore[misc]
        }
        for peer in peers:
            run = PGDS[peer](case.model, norm, space.eps, steps)
            runs[f"{peer} PGD {norm}"] = lambda run=run: run(x, y)  # type: ignore[misc]
        found = interleave(runs, reference=reference, rounds=settings.rounds, warmup=settings.warmup)
        rows += [timing.row() for timing in found.values()]
    pace = f"{1e3 * found[reference].second / steps:.1f} ms a bare pass"
    what = f"Batch of {len(x)}, {steps} steps of 2.5 / {steps} of the radius, one random start; {pace}."
    return f"{what}\n\n{markdown_table(TIMING_HEAD, rows)}"


def left(fooled: Tensor) -> str:
    """Return the accuracy left with its interval."""
    found = wilson(int((~fooled).sum()), len(fooled))
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def accuracies(case: Case, peers: list[str], settings: argparse.Namespace) -> str:
    """Return what PGD of each library leaves on the same samples."""
    rows = []
    for norm, space in case.spaces.items():
        attack = PGD(space, steps=settings.steps)
        ours = attacked(case.model, case.x, case.y, attack, rng=Stream(0), batch_size=settings.batch).success
        rows.append((f"pellucid PGD {norm}", f"{space.eps:g}", left(ours), "", ""))
        for peer in peers:
            theirs = in_batches(PGDS[peer](case.model, norm, space.eps, settings.steps), case, settings.batch)
            only = (int((theirs & ~ours).sum()), int((ours & ~theirs).sum()))
            rows.append((f"{peer} PGD {norm}", f"{space.eps:g}", left(theirs), *map(str, only)))
    return markdown_table(("attack", "radius", "accuracy left", "only it fools", "only ours fools"), rows)


def in_batches(run: Fooled, case: Case, batch: int) -> Tensor:
    """Return which samples are fooled, attacked batch by batch."""
    return torch.cat([run(a, b).cpu() for a, b in zip(case.x.split(batch), case.y.split(batch), strict=True)])


def turns(case: Case, peers: list[str], settings: argparse.Namespace) -> str:
    """Return the worst of a grid of rotations and translations, ours and theirs, with the time of one run."""
    n, grid, rows = settings.turned, settings.grid, []
    part = Case(case.name, case.model, case.x[:n], case.y[:n])
    for degrees, pixels in TURNED:
        name, space, found, took = f"{degrees} degrees, {pixels} px", RotateTranslate(degrees, pixels), {}, {}
        for label, first, stop in (
            ("", "either", False),
            (", early stop", "either", True),
            (", turn first", "turn", False),
            (", turn first, early stop", "turn", True),
        ):
            search = GridSearch(replace(space, first=first), grid=grid, early_stop=stop)  # type: ignore[arg-type]
            start = time.perf_counter()
            done = attacked(part.model, part.x, part.y, search, rng=Stream(0), batch_size=settings.batch)
            found[label], took[label] = done.success, time.perf_counter() - start
            spent = f"{done.evaluations / n:.0f}"
            rows.append((f"pellucid{label}", name, left(done.success), "", "", spent, f"{took[label]:.1f}", ""))
        ours = found[""]
        for peer in (peer for peer in peers if peer in TURNS):
            start = time.perf_counter()
            theirs = in_batches(TURNS[peer](part.model, grid, (degrees, pixels)), part, settings.batch)
            seconds = time.perf_counter() - start
            missed, ahead = str(int((theirs & ~ours).sum())), str(int((ours & ~theirs).sum()))
            if peer == "foolbox":
                missed += f" / {int((theirs & ~ours & ~at_foolbox_turns(part, grid, (degrees, pixels))).sum())}"
            ratios = " / ".join(f"{seconds / took[label]:.2f}" for label in ("", ", early stop", ", turn first"))
            rows.append((peer, name, left(theirs), missed, ahead, "", f"{seconds:.1f}", ratios))
    head = (
        "grid search",
        "limits",
        "accuracy left",
        "only it fools",
        "only ours fools",
        "evaluations per sample",
        "seconds",
        "time over ours",
    )
    both = len(GridSearch(RotateTranslate(), grid=grid).candidates())
    what = (
        f"{grid[0] * grid[1] * grid[2]} candidates in one order of turn and shift, {both} in both, our default; "
        f"{n} samples. Times over ours: all candidates in both orders / early stop / all candidates, turn first. "
        "foolbox shifts before it turns, by (n - 1) / n of the pixels asked for, and stops early batch by batch; "
        "its second count is of samples that our rendering of its own turns does not fool either."
    )
    return f"{what}\n\n{markdown_table(head, rows)}"


def at_foolbox_turns(part: Case, grid: tuple[int, int, int], limits: tuple[int, int]) -> Tensor:
    """Return which samples are fooled at foolbox's candidates, rendered by us."""
    side = part.x.shape[-1]
    search = GridSearch(RotateTranslate(limits[0], limits[1] * (side - 1) / side, first="shift"), grid=grid)
    return attacked(part.model, part.x, part.y, search, rng=Stream(0)).success


def ensembles(case: Case, settings: argparse.Namespace) -> str:
    """Return what the ensemble leaves beside PGD, and AutoAttack where it is installed."""
    n, rows = settings.turned, []
    x, y = case.x[:n], case.y[:n]
    for norm, space in case.spaces.items():
        every = standard_ensemble(space, 10, steps=settings.ensemble_steps, queries=settings.queries)
        runs = {"standard_ensemble": every, f"PGD of {settings.steps} steps": PGD(space, steps=settings.steps)}
        try:
            importlib.import_module("autoattack")
            runs["AutoAttack, the package"] = AutoAttack(space)
        except ImportError as error:
            print(f"AutoAttack is left out: {error}")
        fooled = {}
        for name, attack in runs.items():
            start = time.perf_counter()
            found = attacked(case.model, x, y, attack, rng=Stream(0), batch_size=settings.batch)
            fooled[name] = found.success
            beside = fooled.get("standard_ensemble")
            only = "" if beside is None else str(int((found.success & ~beside).sum()))
            by = ""
            if found.found_by is not None:
                by = ", ".join(f"{who}: {int((found.found_by == i).sum())}" for i, who in enumerate(every.names))
            spent = f"{found.evaluations / n:.0f}"
            rows.append((f"{name}, {norm}", left(found.success), only, spent, f"{time.perf_counter() - start:.0f}", by))
    head = ("attack", "accuracy left", "only it fools", "evaluations per sample", "seconds", "fooled by")
    return markdown_table(head, rows)


def main() -> None:
    """Run what the flags ask for and print it; `--note` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--samples", type=int, default=512, help="images for the accuracies")
    parser.add_argument("--turned", type=int, default=128, help="images for the grid and the ensemble")
    parser.add_argument("--grid", type=int, nargs=3, default=(31, 5, 5))
    parser.add_argument("--ensemble-steps", type=int, default=100)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--models", default="fashion-standard,fashion-robust")
    parser.add_argument("--only", default="time,accuracy,turns,ensemble")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peers", action="store_true", help="also run foolbox, torchattacks and ART")
    parser.add_argument("--ensemble", action="store_true", help="also run the ensembles (minutes to hours)")
    parser.add_argument("--quick", action="store_true", help="seconds: shows that everything runs, measures nothing")
    parser.add_argument(
        "--note", nargs="?", const="attacks", help="write a dated note of this name (attacks) to benchmarks/results"
    )
    settings = parser.parse_args()
    if settings.quick:
        settings.rounds, settings.warmup, settings.batch, settings.steps, settings.samples = 1, 0, 8, 3, 16
        settings.turned, settings.grid, settings.ensemble_steps, settings.queries = 8, (3, 3, 3), 3, 5
    settings.grid = tuple(settings.grid)
    warnings.filterwarnings("ignore", module=r"foolbox|art|torchattacks|pkg_resources")
    peers, reasons = importable(settings.peers)
    print("\n".join(reasons))
    only, sections = settings.only.split(","), {}
    for name in settings.models.split(","):
        made = case(name, max(settings.samples, settings.batch), settings.device)
        parts = {"time": times, "accuracy": accuracies, "turns": turns}
        titles = {
            "time": "Time over bare passes forward and back",
            "accuracy": f"Accuracy left on {len(made.x)} images",
            "turns": "Rotations and translations, worst of a grid per sample",
        }
        for part, run in parts.items():
            if part in only:
                sections[f"{titles[part]}: {name}"] = run(made, peers, settings)
        if settings.ensemble and "ensemble" in only:
            sections[f"Ensembles on {settings.turned} images: {name}"] = ensembles(made, settings)
    print("\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items()))
    if settings.note:
        packages = ("foolbox", "torchattacks", "adversarial-robustness-toolbox") if settings.peers else ()
        print(write_note(settings.note, sections, packages=("numpy", *packages)))


if __name__ == "__main__":
    main()
