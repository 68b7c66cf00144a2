"""How `pellucid train` shows a training: a bar with loss, accuracy and time left, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pellucid.training import Event, OnEvent

_QUIET = 15.0  # seconds between lines when stderr is no terminal


@contextmanager
def watch(name: str) -> Iterator[OnEvent]:
    """Show the events of the training `name` on stderr inside the block."""
    if not sys.stderr.isatty():
        yield _lines(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        training = progress.add_task(name, total=None)
        testing = progress.add_task("final test", total=None, visible=False)
        smooth = _Smooth()

        def on_event(event: Event) -> None:
            if event.kind == "notice":
                progress.console.print(event.text, highlight=False)
            elif event.kind == "test":
                progress.update(testing, completed=event.done, total=event.total, visible=True)
            elif event.kind != "end":
                text = f"{name}  epoch {event.epoch + 1}/{event.epochs}  {smooth(event)}"
                progress.update(training, completed=event.done, total=event.total, description=text)

        yield on_event


def _lines(name: str) -> OnEvent:
    smooth = _Smooth()
    started = last = time.monotonic()
    first: int | None = None

    def on_event(event: Event) -> None:
        nonlocal last, first
        if event.kind == "notice":
            sys.stderr.write(f"{name}: {event.text}\n")
            return
        now = time.monotonic()
        numbers = smooth(event)
        if first is None:
            first = event.done
        if event.kind == "checkpoint" or (event.kind == "step" and now - last > _QUIET):
            last = now
            left = (now - started) / max(1, event.done - first) * (event.total - event.done)
            line = f"{name}: epoch {event.epoch + 1}/{event.epochs}, step {event.done:,}/{event.total:,}, {numbers}"
            sys.stderr.write(f"{line}, {left / 60:.1f} min left\n")

    return on_event


class _Smooth:
    """Running means of the loss and the accuracy, over about the last fifty steps."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def __call__(self, event: Event) -> str:
        for key in ("loss", "accuracy"):
            if key in event.values:
                before = self.values.get(key, event.values[key])
                self.values[key] = before + 0.04 * (event.values[key] - before)
        return ", ".join(f"{key} {value:.3f}" for key, value in self.values.items())
