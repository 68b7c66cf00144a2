"""Recordings of event cameras: N-MNIST's files, frames of events, and a simulator that moves still images.

An event camera tells when a pixel's brightness has changed: x, y, a polarity (1: brighter, 0: darker) and a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from pellucid.core import DataError, Stream, first_line, write_atomic

SIZE = 34
"""Pixels of N-MNIST's sensor on a side, after its makers' cropping."""

SACCADE = 105_000
"""Microseconds of one of the three straight moves of the sensor."""

DURATION = 3 * SACCADE

_OVERFLOW, _WRAP = 240, 2**13
_MOST_BYTES = 8 * 2**20
_LATEST = 2**23 - 1
_TURNS = ((0.0, 0.0), (3.5, 7.0), (7.0, 0.0), (0.0, 0.0))
"""Where the image stands in the wider sensor at the ends of the moves, (x, y) in pixels."""

_MARGIN = 8
"""Pixels that the image moves at most, and one for the part of a pixel."""

_LARGEST = 28
_FLOOR, _STEP = 0.05, 0.2


@dataclass(frozen=True)
class Events:
    """Events of one recording, in the order they were recorded.

    Args:
        x, y: pixel, from 0.
        polarity: 1 brighter, 0 darker.
        time: microseconds from the start.
    """

    x: Int64[Tensor, " n"]
    y: Int64[Tensor, " n"]
    polarity: Int64[Tensor, " n"]
    time: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.x)


def read_n_mnist(path: str | Path) -> Events:
    """Return the events in a `.bin` file of N-MNIST.

    Five bytes an event: x, y, one bit of polarity and 23 bits of time in microseconds, high ones first. A record with
    y = 240 says that the clock has wrapped: later times are 8,192 microseconds later.

    Raises:
        DataError: the file cannot be read, is cut off, holds no event, or a pixel outside the sensor.

    Source: Orchard et al. 2015.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from None
    if len(raw) > _MOST_BYTES:
        raise DataError(f"{path} is larger than {_MOST_BYTES:,} bytes, which no recording of N-MNIST is")
    if len(raw) % 5:
        raise DataError(f"{path} has {len(raw):,} bytes, but every event takes five; copy it again")
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 5).astype(np.int64)
    wraps = rows[:, 1] == _OVERFLOW
    outside = ((rows[:, 0] >= SIZE) | (rows[:, 1] >= SIZE)) & ~wraps
    if outside.any():
        row = int(outside.argmax())
        raise DataError(
            f"{path} has an event at pixel ({rows[row, 0]}, {rows[row, 1]}), outside the sensor's {SIZE} x {SIZE}; "
            "it is no recording of N-MNIST"
        )
    time = ((rows[:, 2] & 0x7F) << 16) + (rows[:, 3] << 8) + rows[:, 4] + _WRAP * np.cumsum(wraps)
    kept = ~wraps
    if not kept.any():
        raise DataError(f"{path} holds no event; remove it")
    x, y, polarity, time = (
        torch.from_numpy(column[kept].copy()) for column in (rows[:, 0], rows[:, 1], rows[:, 2] >> 7, time)
    )
    return Events(x, y, polarity, time)


def write_n_mnist(path: str | Path, events: Events) -> None:
    """Write events in the layout that `read_n_mnist` reads.

    Raises:
        DataError: a pixel outside the sensor, a polarity but 0 and 1, or a time that 23 bits do not hold.
    """
    if not _within(events, SIZE):
        raise DataError(f"events lie outside the sensor's {SIZE} x {SIZE} pixels, or have a polarity but 0 and 1")
    if len(events) and not 0 <= int(events.time.min()) <= int(events.time.max()) <= _LATEST:
        raise DataError(f"times must lie between 0 and {_LATEST:,} microseconds")
    high = (events.polarity << 7) + (events.time >> 16)
    rows = torch.stack((events.x, events.y, high, (events.time >> 8) & 0xFF, events.time & 0xFF), dim=1)
    write_atomic(Path(path), rows.to(torch.uint8).numpy().tobytes())


def event_frames(
    events: Events, steps: int, *, size: int = SIZE, duration: int = DURATION, counts: bool = False
) -> UInt8[Tensor, "steps 2 size size"]:
    """Return events as frames: time in equal parts, darker and brighter apart.

    Args:
        events: one recording; events at `duration` or later are left out.
        steps: frames.
        size: pixels of the sensor on a side.
        duration: microseconds that the frames cover together.
        counts: how many events each pixel had, at most 255; otherwise 1 where there was any.

    Raises:
        ValueError: no steps, no duration, or events that lie outside the sensor or before the start.

    Example:
        >>> one = torch.tensor([1])
        >>> frames = event_frames(Events(one, one, one, one * 500), steps=2, size=3, duration=1000)
        >>> frames[1, 1, 1, 1].item(), int(frames.sum())
        (1, 1)
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if duration < 1:
        raise ValueError(f"duration must be at least 1 microsecond, got {duration}")
    if not _within(events, size) or bool((events.time < 0).any()):
        raise ValueError(f"events must lie in {size} x {size} pixels, with polarity 0 or 1 and times from 0")
    part = events.time * steps // duration
    kept = part < steps
    place = ((part * 2 + events.polarity) * size + events.y) * size + events.x
    total = torch.bincount(place[kept], minlength=steps * 2 * size * size)
    return total.clamp(max=255 if counts else 1).to(torch.uint8).view(steps, 2, size, size)


def _within(events: Events, size: int) -> bool:
    """Whether all events lie on the sensor and are brighter or darker."""
    if not len(events):
        return True
    bounds = ((events.x, size), (events.y, size), (events.polarity, 2))
    return all(int(each.min()) >= 0 and int(each.max()) < most for each, most in bounds)


def simulate_saccades(images: Float[Tensor, "n h w"], *, rng: Stream, noise: float = 0.0) -> list[Events]:
    """Return events that a camera would send that moves before still images as N-MNIST's does: simulated recordings.

    The image moves along a triangle in three straight moves of 105 ms. Every millisecond each pixel's
    `log(brightness + 0.05)` is compared with what it was at the pixel's last event: a change by 0.2 is an event, by 0.4
    two, and so on.

    Args:
        images: brightness in [0, 1], at most 28 pixels on a side; smaller ones are centered. Where the sensor is
            farthest away, the last row and column leave it.
        rng: of the noise, at the images' ids.
        noise: events per pixel and second that nothing caused.

    Raises:
        ValueError: images of another shape, too large or not in [0, 1], or a negative noise.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    for time, fired in _fired(images, rng, noise):
        # Several events of a pixel in one millisecond are as many equal rows.
        found = fired.nonzero()
        found = found.repeat_interleave(fired[tuple(found.T)].long(), dim=0)
        parts.append((found, torch.full((len(found),), time)))
    rows, times = (torch.cat([part[k] for part in parts]) for k in range(2))
    recordings = []
    for k in range(len(images)):
        here = rows[:, 0] == k
        _, polarity, y, x = rows[here].T
        recordings.append(Events(x, y, polarity, times[here]))
    return recordings


def saccade_frames(
    images: Float[Tensor, "n h w"], steps: int, *, rng: Stream, noise: float = 0.0
) -> UInt8[Tensor, "n steps 2 34 34"]:
    """Return the frames of `simulate_saccades`, 1 where a pixel had any event; for many images at once."""
    frames = torch.zeros((len(images), steps, 2, SIZE, SIZE), dtype=torch.bool)
    for time, fired in _fired(images, rng, noise):
        frames[:, time * steps // DURATION] |= fired > 0
    return frames.to(torch.uint8)


def _fired(images: Tensor, rng: Stream, noise: float) -> Iterator[tuple[int, Tensor]]:
    """Yield each millisecond's time in microseconds and its events per pixel, `(n, 2, 34, 34)`."""
    if images.ndim != 3 or max(images.shape[1:]) > _LARGEST:
        raise ValueError(
            f"images must be (n, h, w) with at most {_LARGEST} pixels on a side, got {tuple(images.shape)}"
        )
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images must lie between 0 and 1")
    if not noise >= 0:
        raise ValueError(f"noise must not be negative, got {noise}")
    n, height, width = images.shape
    canvas = torch.zeros((n, SIZE + _MARGIN, SIZE + _MARGIN))
    top, left = (_MARGIN + (_LARGEST - side) // 2 for side in (height, width))
    canvas[:, top : top + height, left : left + width] = images
    last = _seen(canvas, 0.0, 0.0)
    step = 1000
    for time in range(step, DURATION, step):
        # Rounding shall not hide a change that is a whole step.
        change = (_seen(canvas, *_place(time)) - last).mul_(1 / _STEP)
        change = change.add_(1e-6 * change.sign()).trunc_()
        last.add_(change, alpha=_STEP)
        fired = torch.stack((change.neg(), change), dim=1).clamp_(min=0)
        if noise:
            fired += rng.child("noise", time).uniform((n, 2, SIZE, SIZE)) < noise * step / 2e6
        yield time, fired


def _place(time: int) -> tuple[float, float]:
    """Return how far the image has moved, (x, y) in pixels."""
    move, part = divmod(time, SACCADE)
    share = part / SACCADE
    (x0, y0), (x1, y1) = _TURNS[move], _TURNS[move + 1]
    return x0 + share * (x1 - x0), y0 + share * (y1 - y0)


def _seen(canvas: Tensor, x: float, y: float) -> Tensor:
    """Return the logarithm of the brightness that the sensor sees when the image has moved, bilinear."""
    column, row = int(x), int(y)
    # A pixel shows the brightness of what has moved there: from up and left of it.
    top, left = _MARGIN - 1 - row, _MARGIN - 1 - column
    part = canvas[:, top : top + SIZE + 1, left : left + SIZE + 1]
    part = torch.lerp(part[:, 1:], part[:, :-1], y - row)
    part = torch.lerp(part[:, :, 1:], part[:, :, :-1], x - column)
    return part.add_(_FLOOR).log_()
