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


def test_a_damaged_chunk_is_computed_again(tmp_path: Path) -> None:
    Work(folder=tmp_path).map("s", IDS, Squares(), chunk=4)
    second = sorted((tmp_path / "s").iterdir())[1]
    second.write_bytes(second.read_bytes()[:20])
    again = Squares()
    found = Work(folder=tmp_path).map("s", IDS, again, chunk=4)
    assert again.rows == [[4, 5, 6, 7]]
    assert torch.equal(found["square"], IDS**2)


def test_work_of_another_key_is_not_mistaken_for_this(tmp_path: Path) -> None:
    Work(folder=tmp_path, key="one model").map("s", IDS, Squares(), chunk=4)
    other = Squares()
    Work(folder=tmp_path, key="another").map("s", IDS, other, chunk=4)
    assert len(other.rows) == 3


def test_shards_do_their_own_part_and_together_they_are_the_whole(tmp_path: Path) -> None:
    folders = [tmp_path / str(k) for k in range(3)]
    for shard, folder in enumerate(folders):
        squares = Squares()
        with pytest.raises(Elsewhere, match=f"shard {shard + 1}/3 has done its part; `pellucid merge`"):
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
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert Ranks.here() == Ranks(2, 4, together=True, local=1, restarts=1)
    assert [Ranks.here().device(name) for name in ("cuda", "cpu", "cuda:3")] == ["cuda:1", "cpu", "cuda:3"]
    assert Ranks().device("cuda") == "cuda"
    assert [p for p in range(8) if Ranks.here().owns(p)] == [2, 6]
    assert str(replace(Ranks.here())) == "3/4"


def in_two_processes(body: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes that talk; it finds `ids`, `ranks` and `out`."""
    script = tmp_path / "run.py"
    head = f"""
        import sys, torch
        from pathlib import Path
        from pellucid.core import DataError, PellucidError, Ranks, RunError, Work
        ids, ranks, out = torch.arange(7), Ranks.here(), Path({str(tmp_path)!r})
    """
    script.write_text(textwrap.dedent(head) + textwrap.dedent(body), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_two_processes_share_the_work_its_errors_and_what_the_leader_makes(tmp_path: Path) -> None:
    done = in_two_processes(
        """
        computed = []
        def compute(rows, on_step):
            computed.extend(rows.tolist())
            return {"square": ids[rows] ** 2}
        def refuses(rows, on_step):
            if rows.tolist() == [3]:
                raise DataError("sample 3 is no sample")
            return compute(rows, on_step)
        with ranks.joined():
            found = Work(ranks=ranks).map("s", ids, compute, chunk=1)
            assert found["square"].tolist() == [0, 1, 4, 9, 16, 25, 36], found
            (out / f"{ranks.index}").write_text(str(computed))
            try:
                Work(ranks=ranks).map("s", ids, refuses, chunk=1)
            except DataError as error:
                (out / f"error-{ranks.index}").write_text(str(error))
            assert ranks.lead(lambda: "made by " + str(ranks)) == "made by 1/2"
            def no():
                raise RunError("the folder is taken")
            try:
                ranks.lead(no)
            except RunError as error:
                (out / f"lead-{ranks.index}").write_text(str(error))
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    texts = {path.name: path.read_text() for path in tmp_path.iterdir() if path.suffix != ".py"}
    assert texts == {
        "0": "[0, 2, 4, 6]",
        "1": "[1, 3, 5]",
        "error-0": "sample 3 is no sample",
        "error-1": "sample 3 is no sample",
        "lead-0": "the folder is taken",
        "lead-1": "the folder is taken",
    }
