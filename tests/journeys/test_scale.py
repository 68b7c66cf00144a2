"""One explanation in one process, in two that share it (one is killed and started again) and in shards: the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pellucid.cli import main
from pellucid.core import Stream
from pellucid.data import synthetic_images

NET = """
import os, signal
import torch
from torch import nn

class Logged(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.Tanh(), nn.Linear(8, 4))
        self.tables = 0
    def forward(self, x):
        if len(x) == 32 and "LOG" in os.environ:  # the table of a game of five players
            self.tables += 1
            rank, life = os.environ.get("RANK", "0"), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            if "DIE" in os.environ and (rank, life, self.tables) == ("1", "0", 2):
                os.kill(os.getpid(), signal.SIGKILL)
            with open(os.environ["LOG"], "a") as log:
                log.write(f"{rank}-{float(x[-1].sum()):.6f}\\n")
        return self.body(x)

def make(): return Logged()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a model file and a data file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    images = synthetic_images(40, rng=Stream(0))
    np.savez(tmp_path / "d.npz", inputs=images.inputs.numpy(), labels=images.labels.numpy())
    return tmp_path


EXPLAIN = ("explain", "net.py:make", "d.npz", "--players", "grid:1x5", "--samples", "6")
AUDIT = ("audit", "net.py:make", "d.npz", "--quick", "--budget", "40000")


def torchrun(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "--max-restarts", "1", "-m", "pellucid", *arguments],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_killed_process_redoes_only_its_unfinished_part_and_the_numbers_are_those_of_one(place: Path) -> None:
    assert main([*EXPLAIN, "--out", "alone"]) == 0
    log = place / "log"
    done = torchrun(*EXPLAIN, "--out", "two", env={"LOG": str(log), "DIE": "yes"})
    assert done.returncode == 0, done.stderr
    for name in ("report.json", "explanation.json"):
        assert (place / "two" / name).read_bytes() == (place / "alone" / name).read_bytes()
    assert not (place / "two" / "parts").exists()
    assert done.stdout.count("report: ") == 1  # the leading process alone speaks
    tables = Counter(log.read_text(encoding="utf-8").split())
    assert len(tables) == 6
    own = [count for table, count in tables.items() if table.startswith("1-")]
    assert own == [1, 1, 1]  # the first was kept, the one it died in was never finished
    assert sum(tables.values()) <= 7  # the other process was ended in the middle of one at most


@pytest.mark.parametrize("command", [EXPLAIN, AUDIT], ids=["explain", "audit"])
def test_shards_merged_are_the_whole(place: Path, command: tuple[str, ...]) -> None:
    assert main([*command, "--out", "alone"]) == 0
    for shard in ("1/3", "2/3", "3/3"):
        assert main([*command, "--shard", shard]) == 0
    shards = sorted(str(path) for path in (place / "runs").iterdir())
    assert len(shards) == 3
    assert all("-of-3" in name for name in shards)
    assert main(["merge", *shards, "--out", "merged"]) == 0
    assert (place / "merged" / "report.json").read_bytes() == (place / "alone" / "report.json").read_bytes()
    assert not (place / "merged" / "parts").exists()


def test_a_merge_says_what_it_cannot_put_together(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in ("1/3", "2/3"):
        assert main([*EXPLAIN, "--shard", shard, "--out", f"s{shard[0]}"]) == 0
    assert main([*EXPLAIN, "--index", "SV", "--shard", "3/3", "--out", "other"]) == 0
    assert main([*EXPLAIN, "--out", "whole"]) == 0

    def refused(*shards: str) -> str:
        capsys.readouterr()
        assert main(["merge", *shards, "--out", "merged"]) == 2
        return capsys.readouterr().err

    assert "of 3 shards these are missing: 3/3" in refused("s1", "s2")
    assert "s1 and s1 are both shard 1/3" in refused("s1", "s1", "s2")
    assert "shards of different commands" in refused("s1", "s2", "other")
    assert "whole is no shard" in refused("s1", "s2", "whole")
    assert "nowhere does not exist" in refused("s1", "nowhere")
    assert not (place / "merged").exists()
    assert "This is shard 1/3 of an audit" in (place / "s1" / "index.html").read_text(encoding="utf-8")


def test_a_changed_model_is_not_merged(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in ("1/2", "2/2"):
        assert main([*EXPLAIN, "--shard", shard, "--out", f"s{shard[0]}"]) == 0
    (place / "net.py").write_text(NET.replace("manual_seed(0)", "manual_seed(1)"), encoding="utf-8")
    assert main(["merge", "s1", "s2", "--out", "merged"]) == 2
    assert "is a shard of an audit with another model or data" in capsys.readouterr().err


def test_a_shard_that_cannot_be_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EXPLAIN, "--shard", "4/3"]) == 2
    assert "a shard is written as 3/40" in capsys.readouterr().err
