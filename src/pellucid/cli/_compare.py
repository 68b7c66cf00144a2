"""`pellucid compare A B`: two audits side by side."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ._console import say, table

if TYPE_CHECKING:
    from pellucid.reports import Difference, Report


def compare(
    before: Annotated[Path, tyro.conf.Positional],
    after: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Path | None = None,
    seed: int = 0,
) -> int:
    """Set two audits side by side, with paired tests.

    Both must be audits of the same data; numbers are tested on the samples that both used. Concepts are matched too,
    pattern by pattern, where both runs hold And-Or graphs of the same samples.

    Args:
        before: Folder of the first audit, or of a recorded training.
        after: Folder of the second one.
        out: Folder for the comparison; runs/compare-BEFORE-AFTER if not given.
        seed: Root of the bootstrap's chance.
    """
    from pellucid import audits
    from pellucid.core import RunFolder

    folder = out if out is not None else Path("runs") / f"compare-{before.resolve().name}-{after.resolve().name}"
    names = " ".join(shlex.quote(path.name if path.is_absolute() else str(path)) for path in (before, after))
    command = f"pellucid compare {names} --seed {seed}"
    reports = _loaded(before), _loaded(after)
    graphs = tuple(found for run in (before, after) if (found := audits.graphs_beside(run)) is not None)
    both = (graphs[0], graphs[1]) if len(graphs) == 2 else None
    comparison = audits.compare(*reports, graphs=both, seed=seed, command=command)
    # An earlier comparison may be replaced: it takes no time, and the audits it is made of stay.
    with RunFolder.create(folder, kind="comparison", command=command, resume=True) as run:
        comparison.save(run.path)
    say(table(("number", "before", "after", "difference", "verdict"), [_row(d) for d in comparison.differences]))
    for caution in comparison.cautions:
        say(f"note: {caution}")
    say(f"\n{comparison.answer}")
    say(f"\nreport: {folder / 'index.html'}")
    return 0


def _loaded(run: Path) -> Report:
    """Return the report of an audit, or of a recorded training."""
    from pellucid.reports import Report

    from ._training_report import is_record, training_report

    return training_report(run) if is_record(run) else Report.load(run)


def _row(d: Difference) -> tuple[str, str, str, str, str]:
    def shown(value: float | None, sign: str = "") -> str:
        unit = d.before.unit if d.before.unit in ("", "%") else f" {d.before.unit}"
        return "undefined" if value is None else f"{value:{sign}.3g}{unit}"

    return d.label, shown(d.before.value), shown(d.after.value), shown(d.difference, "+"), d.verdict
