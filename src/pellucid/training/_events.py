"""What a training tells while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Event:
    """One moment of a training.

    Args:
        kind: "start" (also of a resumed run), "step", "checkpoint", "test" or "end".
        done, total: steps of the training; for "test", samples measured and to measure.
        epoch, epochs: the epoch under way, from 0, and how many there are.
        values: for "step", the rate, the loss, and the objective's terms; for "end", the final figures by name.
        text: for "notice", what a recorder has seen, as one sentence.
    """

    kind: Literal["start", "step", "notice", "checkpoint", "test", "end"]
    done: int
    total: int
    epoch: int
    epochs: int
    values: Mapping[str, float] = field(default_factory=dict)
    text: str = ""


OnEvent = Callable[[Event], None]


def unheard(event: Event) -> None:
    """The `on_event` of a caller who does not watch."""
