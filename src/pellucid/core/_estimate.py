"""A number with its uncertainty and its cost."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ._panel import MOST_ROWS, Panel, showing


def _panel(estimate: Estimate) -> Panel:
    shown = [estimate.values, estimate.stderr, *([] if estimate.floor is None else [estimate.floor])]
    columns = [part.detach().reshape(-1).double().cpu()[:MOST_ROWS].tolist() for part in shown]
    shape, size = tuple(estimate.values.shape), estimate.values.numel()
    sizes = " x ".join(map(str, shape)) or "one number"
    places = (", ".join(map(str, _place(k, shape))) for k in range(len(columns[0])))
    return Panel(
        "Estimate",
        facts=(
            ("values", size),
            ("shape", sizes),
            ("evaluations", estimate.evaluations),
        ),
        columns=("index", "value", "standard error", "floor")[: 1 + len(shown)],
        rows=tuple(zip(places, *columns, strict=True)),
        notes=(f"The first {MOST_ROWS} of {size:,} values.",) if size > MOST_ROWS else (),
    )


def _place(k: int, shape: tuple[int, ...]) -> list[int]:
    """Return the index of the k-th value in row-major order."""
    place: list[int] = []
    for width in reversed(shape):
        k, rest = divmod(k, width)
        place.append(rest)
    return place[::-1]


@showing(_panel)
@dataclass(frozen=True)
class Estimate:
    """What an estimator returns: no number without its standard error and its price.

    Args:
        values: the estimates, any shape.
        stderr: standard error of each value, same shape; zero where the value is exact.
        evaluations: model evaluations spent (one forward of one sample is one, one gradient is two).
        floor: size that pure sampling noise would reach, same shape, where that is meaningful.
    """

    values: Tensor
    stderr: Tensor
    evaluations: int
    floor: Tensor | None = None
