"""Work in chunks: the same numbers alone, in shards and among processes; what is finished is not done again."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pellucid.core import DataError, Elsewhere, OnStep, Ranks, RunError, Work

IDS = torch.arange(100, 111)


class Squares:
    """Squares of ids, counting how many were computed."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def __call__(self, rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        self.rows.append(rows.tolist())
        on_step(1, 2)
        return {"square": IDS[rows] ** 2, "wide": torch.ones(len(rows), 2, dtype=torch.float64)}


def test_chunks_come_back_in_order_and_no_call_mixes_two() -> None:
    squares = Squares()
    found = Work().map("s", IDS, squares, chunk=4)
    assert torch.equal(found["square"], IDS**2)
    assert found["wide"].shape == (11, 2)
    assert squares.rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_finished_chunks_are_kept_and_another_key_or_sample_is_not_mistaken_for_them(tmp_path: Path) -> None:
    work = Work(folder=tmp_path)
    work.map("s", IDS, Squares(), chunk=4, key="a")
    again, other, moved = Squares(), Squares(), Squares()
    work.map("s", IDS, again, chunk=4, key="a")
    work.map("s", IDS, other, chunk=4, key="b")
    work.map("s", IDS + 1, moved, chunk=4, key="a")
    assert (len(again.rows), len(other.rows), len(moved.rows)) == (0, 3, 3)


def test_an_interrupted_run_redoes_only_what_is_missing(tmp_path: Path) -> None:
    class Dies(Squares):
        def __call__(self, rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
            if len(self.rows) == 2:
                raise KeyboardInterrupt
            return super().__call__(rows, on_step)

    with pytest.raises(KeyboardInterrupt):
        Work(folder=tmp_path).map("s", IDS, Dies(), chunk=4)
    rest = Squares()
    found = Work(folder=tmp_path).map("s", IDS, rest, chunk=4)
    assert rest.rows == [[8, 9, 10]]
    assert torch.equal(found["square"], IDS**2)


def test_shards_do_their_own_part_and_together_they_are_the_whole(tmp_path: Path) -> None:
    folders = [tmp_path / str(k) for k in range(3)]
    for shard, folder in enumerate(folders):
        squares = Squares()
        with pytest.raises(Elsewhere, match=f"shard {shard + 1}/3 has done its part; run the other"):
            Work(folder=folder, ranks=Ranks.shard(f"{shard + 1}/3")).map("s", IDS, squares, chunk=2)
        assert squares.rows == [list(range(2 * c, min(11, 2 * c + 2))) for c in range(shard, 6, 3)]
    merged = Squares()
    found = Work(stored=tuple(folders)).map("s", IDS, merged, chunk=2)
    assert merged.rows == []
    assert torch.equal(found["square"], IDS**2)


def test_the_last_shard_in_a_common_folder_finds_the_others_work(tmp_path: Path) -> None:
    with pytest.raises(Elsewhere):
        Work(folder=tmp_path, ranks=Ranks(0, 2)).map("s", IDS, Squares(), chunk=2)
    found = Work(folder=tmp_path, ranks=Ranks(1, 2)).map("s", IDS, Squares(), chunk=2)
    assert torch.equal(found["square"], IDS**2)


def test_steps_never_go_back_and_end_at_the_whole() -> None:
    seen: list[float] = []
    work = Work(on_step=lambda done, total: seen.append(done / total))
    work.part(0.0, 0.5).map("a", IDS, Squares(), chunk=3)
    work.part(0.5, 1.0).map("b", IDS, Squares(), chunk=3)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert 0.5 in seen


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "-1/2", "1/0", "1/2/3"])
def test_a_shard_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="a shard is written as 3/40"):
        Ranks.shard(text)


def test_no_samples_and_results_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match="there are no samples"):
        Work().map("s", IDS[:0], Squares(), chunk=2)
    with pytest.raises(ValueError, match="x must have 2 rows"):
        Work().map("s", IDS, lambda rows, on_step: {"x": torch.zeros(1)}, chunk=2)


def test_torchrun_is_read_from_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Ranks.here() == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert Ranks.here() == Ranks(2, 4, together=True)
    assert [p for p in range(8) if Ranks.here().owns(p)] == [2, 6]
    assert str(replace(Ranks.here())) == "3/4"


def test_two_processes_share_the_work_and_both_hold_all_of_it(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import torch
            from pellucid.core import Ranks, Work
            ids = torch.arange(7)
            ranks, computed = Ranks.here(), []
            def compute(rows, on_step):
                computed.extend(rows.tolist())
                return {{"square": ids[rows] ** 2}}
            with ranks.joined():
                found = Work(ranks=ranks).map("s", ids, compute, chunk=1)
            assert found["square"].tolist() == [0, 1, 4, 9, 16, 25, 36], found
            open(r"{tmp_path}/" + str(ranks.index), "w").write(str(computed))
            """
        )
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0").read_text() == "[0, 2, 4, 6]"
    assert (tmp_path / "1").read_text() == "[1, 3, 5]"
