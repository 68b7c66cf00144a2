"""Event files, frames and simulated events: what is written is read, and hostile files are refused."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from pellucid.core import DataError, Stream
from pellucid.data import Events, event_frames, read_n_mnist, saccade_frames, simulate_saccades, write_n_mnist

ROWS = st.lists(
    st.tuples(st.integers(0, 33), st.integers(0, 33), st.integers(0, 1), st.integers(0, 2**23 - 1)),
    min_size=1,
    max_size=50,
)
QUICK = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def events(rows: list[tuple[int, int, int, int]]) -> Events:
    return Events(*(torch.tensor(column) for column in zip(*rows, strict=True)))


def record(x: int, y: int, polarity: int, time: int) -> bytes:
    return bytes((x, y, polarity << 7 | time >> 16, time >> 8 & 255, time & 255))


@QUICK
@given(ROWS)
def test_what_is_written_is_read(tmp_path: Path, rows: list[tuple[int, int, int, int]]) -> None:
    path = tmp_path / "a.bin"
    write_n_mnist(path, events(rows))
    assert path.read_bytes() == b"".join(record(*row) for row in rows)
    found = read_n_mnist(path)
    assert list(zip(*(getattr(found, name).tolist() for name in ("x", "y", "polarity", "time")), strict=True)) == rows


@QUICK
@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(raw)
    try:
        found = read_n_mnist(path)
    except DataError:
        return
    assert 0 < len(found) <= len(raw) // 5
    assert 0 <= int(found.x.min()) <= int(found.x.max()) < 34
    assert 0 <= int(found.y.min()) <= int(found.y.max()) < 34
    frames = event_frames(found, 3)
    assert int(frames.sum()) <= len(found)


def test_overflow_records_move_the_clock_and_are_no_events(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    rows = [(1, 2, 0, 100), (0, 240, 0, 0), (3, 4, 1, 50), (0, 240, 1, 7), (255, 240, 0, 0), (5, 6, 1, 60)]
    path.write_bytes(b"".join(record(*row) for row in rows))
    found = read_n_mnist(path)
    assert found.time.tolist() == [100, 50 + 8192, 60 + 3 * 8192]
    assert found.x.tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "holds no event; remove it"),
        (b"123", "has 3 bytes, but every event takes five; copy it again"),
        (record(0, 240, 0, 0), "holds no event"),
        (record(34, 0, 0, 0), r"an event at pixel \(34, 0\), outside the sensor's 34 x 34"),
        (record(0, 99, 0, 0), r"an event at pixel \(0, 99\)"),
    ],
    ids=["empty", "cut off", "only overflow", "x", "y"],
)
def test_damaged_files_are_refused(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=words):
        read_n_mnist(path)


def test_missing_and_giant_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_n_mnist(tmp_path / "none.bin")
    with pytest.raises(DataError, match="cannot be read"):
        read_n_mnist(tmp_path)
    giant = tmp_path / "giant.bin"
    with giant.open("wb") as file:
        file.truncate(8 * 2**20 + 1)
    with pytest.raises(DataError, match="is larger than 8,388,608 bytes"):
        read_n_mnist(giant)


def test_what_the_layout_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="outside the sensor's 34 x 34"):
        write_n_mnist(tmp_path / "a.bin", events([(34, 0, 0, 0)]))
    for row in ((-1, 0, 0, 0), (0, -3, 0, 0), (0, 0, 2, 0)):
        with pytest.raises(DataError, match="or have a polarity but 0 and 1"):
            write_n_mnist(tmp_path / "a.bin", events([row]))
    with pytest.raises(DataError, match="times must lie between 0 and 8,388,607"):
        write_n_mnist(tmp_path / "a.bin", events([(3, 0, 0, 2**23)]))


def test_frames_hold_every_event_once() -> None:
    made = events([(0, 0, 0, 0), (0, 0, 0, 10), (1, 0, 1, 104_999), (2, 3, 1, 105_000), (2, 3, 1, 400_000)])
    frames = event_frames(made, 3, counts=True)
    assert frames.shape == (3, 2, 34, 34)
    assert frames[0, 0, 0, 0] == 2
    assert frames[0, 1, 0, 1] == 1
    assert frames[1, 1, 3, 2] == 1
    assert int(frames.sum()) == 4  # the last one is later than the frames
    assert int(event_frames(made, 3).max()) == 1
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        event_frames(made, 0)
    with pytest.raises(ValueError, match="duration must be at least 1 microsecond, got 0"):
        event_frames(made, 3, duration=0)
    # A pixel outside would be counted in the next row.
    for row in ((3, 0, 0, 0), (0, 3, 0, 0), (0, 0, 2, 0), (0, -1, 0, 0), (0, 0, 0, -1)):
        with pytest.raises(ValueError, match="events must lie in 3 x 3 pixels, with polarity 0 or 1 and times from 0"):
            event_frames(events([row]), 3, size=3)


def square() -> torch.Tensor:
    image = torch.zeros(2, 28, 28)
    image[:, 8:14, 8:14] = 1
    image[1] *= 0.5
    return image


def test_simulated_events_follow_the_edges(rng: Stream) -> None:
    first, second = simulate_saccades(square(), rng=rng.at(torch.arange(2)))
    assert len(first) > len(second) > 0
    assert int(first.x.min()) >= 8
    assert int(first.x.max()) <= 13 + 7
    assert bool((first.time.diff() >= 0).all())
    assert int(first.time.max()) < 315_000
    # The image comes back to where it began, but for a millisecond's 0.067 pixels: log(0.117 / 0.05) is four steps.
    balance = torch.zeros(34, 34)
    balance.index_put_((first.y, first.x), 2.0 * first.polarity - 1, accumulate=True)
    assert float(balance.abs().max()) <= 5
    assert float((balance.abs() > 1).float().mean()) < 0.02
    # In the first move the image goes right and down: its left upper edge becomes darker.
    early = first.time < 20_000
    corner = (first.x == 8) & (first.y == 8) & early
    assert bool(corner.any())
    assert not bool(first.polarity[corner].any())


def test_simulated_frames_are_those_of_the_events(rng: Stream, tmp_path: Path) -> None:
    at = rng.at(torch.arange(2))
    made = simulate_saccades(square(), rng=at, noise=2.0)
    frames = saccade_frames(square(), 7, rng=at, noise=2.0)
    assert torch.equal(torch.stack([event_frames(each, 7) for each in made]), frames)
    write_n_mnist(tmp_path / "a.bin", made[0])
    assert torch.equal(event_frames(read_n_mnist(tmp_path / "a.bin"), 7), frames[0])


def test_a_sample_is_simulated_alike_in_any_batch(rng: Stream) -> None:
    together = saccade_frames(square(), 5, rng=rng.at(torch.tensor([3, 9])), noise=5.0)
    alone = saccade_frames(square()[1:], 5, rng=rng.at(torch.tensor([9])), noise=5.0)
    assert torch.equal(together[1:], alone)


def test_noise_comes_at_its_rate(rng: Stream) -> None:
    frames = simulate_saccades(torch.zeros(4, 28, 28), rng=rng.at(torch.arange(4)), noise=10.0)
    expected = 4 * 34 * 34 * 0.314 * 10
    assert sum(map(len, frames)) == pytest.approx(expected, rel=0.05)
    with pytest.raises(ValueError, match="noise must not be negative"):
        simulate_saccades(torch.zeros(1, 28, 28), rng=rng, noise=-1.0)
    with pytest.raises(ValueError, match="at most 28 pixels on a side"):
        simulate_saccades(torch.zeros(1, 29, 28), rng=rng)
    for value in (1.5, -0.1, torch.nan):
        with pytest.raises(ValueError, match="images must lie between 0 and 1"):
            simulate_saccades(torch.full((1, 4, 4), value), rng=rng)
