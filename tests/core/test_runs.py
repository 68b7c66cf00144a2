"""Run folders: ours or not, locked or not, complete, partial or resumed; never half-written."""

import json
import os
import subprocess
import sys

import pytest

from pellucid.core import DataError, RunError, RunFolder, versions
from pellucid.core._runs import _identity


def test_a_run_is_running_then_complete(tmp_path):
    with RunFolder.create(tmp_path / "run", kind="audit", command="pellucid audit m d") as run:
        assert RunFolder.open(tmp_path / "run").status == "running"
        run.update(seed=3)
        run.file("parts/a.txt").write_text("result")
    found = RunFolder.open(tmp_path / "run", kind="audit")
    assert found.status == "complete"
    assert found.kind == "audit"
    assert found.manifest["seed"] == 3
    assert found.manifest["command"] == "pellucid audit m d"
    assert found.manifest["schema"] == 1
    assert found.manifest["versions"] == versions()
    assert found.manifest["created"].endswith("+00:00")
    assert found.manifest["durations"]["total"] >= 0
    assert {path.name for path in found.path.iterdir()} == {"manifest.json", "parts"}
    assert "complete" in repr(found)


def test_the_command_is_this_process_if_not_given(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pellucid", "audit", "my model"])
    assert RunFolder.create(tmp_path / "run", kind="audit").manifest["command"] == "pellucid audit 'my model'"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_run_left_by_an_exception_is_partial_and_unlocked(tmp_path, error):
    with pytest.raises(error), RunFolder.create(tmp_path, kind="audit") as run:
        raise error(run.file("half.txt").write_text("half"))
    assert RunFolder.open(tmp_path).status == "partial"
    assert not (tmp_path / ".lock").exists()
    assert (tmp_path / "half.txt").exists()


def test_bad_input_found_late_leaves_nothing(tmp_path):
    with pytest.raises(DataError), RunFolder.create(tmp_path / "new", kind="audit"):
        raise DataError("bad")
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError), RunFolder.create(tmp_path / "empty", kind="audit"):
        raise DataError("bad")
    assert list((tmp_path / "empty").iterdir()) == []


def test_bad_input_after_results_keeps_them(tmp_path):
    with pytest.raises(DataError), RunFolder.create(tmp_path / "run", kind="audit") as run:
        raise DataError(run.file("a").write_text("result"))
    assert RunFolder.open(tmp_path / "run").status == "partial"


def test_durations_add_up(tmp_path):
    run = RunFolder.create(tmp_path, kind="audit")
    run.update(durations={"probe": 5.0})
    with run.timed("probe"):
        pass
    assert 5.0 <= run.manifest["durations"]["probe"] < 6


# -- whose folder is it? ------------------------------------------------------------------------------------------


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for resume in (False, True):
        with pytest.raises(RunError, match="is an output folder that is not ours"):
            RunFolder.create(tmp_path, kind="audit", resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("manifest", ["{}", "[]", '{"pellucid": "audit"}'])
def test_a_manifest_of_something_else_is_foreign(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(RunError, match="not ours"):
        RunFolder.create(tmp_path, kind="audit")
    with pytest.raises(RunError, match="holds no run"):
        RunFolder.open(tmp_path)


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text('{"pellucid": ')
    with pytest.raises(RunError, match="has a damaged manifest"):
        RunFolder.open(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file, not a folder"):
        RunFolder.create(tmp_path / "file", kind="audit")
    with pytest.raises(RunError, match="is no folder"):
        RunFolder.open(tmp_path / "file")
    with pytest.raises(RunError, match="does not exist"):
        RunFolder.open(tmp_path / "absent")


def test_results_are_only_continued_when_asked(tmp_path):
    with RunFolder.create(tmp_path, kind="train") as run:
        run.update(step=5)
    with pytest.raises(RunError, match=r"holds the results of an earlier run; add --resume"):
        RunFolder.create(tmp_path, kind="train")
    again = RunFolder.create(tmp_path, kind="train", resume=True)
    assert again.manifest["step"] == 5
    assert again.status == "complete"
    created = again.manifest["created"]
    with again:
        assert again.status == "running"
    assert RunFolder.open(tmp_path).manifest["created"] == created


def test_another_kind_is_refused(tmp_path):
    RunFolder.create(tmp_path, kind="train")
    with pytest.raises(RunError, match="holds a run of kind 'train', not 'audit'"):
        RunFolder.create(tmp_path, kind="audit", resume=True)
    with pytest.raises(RunError, match="holds a run of kind 'train', not 'audit'"):
        RunFolder.open(tmp_path, kind="audit")


def test_a_newer_schema_is_refused(tmp_path):
    RunFolder.create(tmp_path, kind="audit").update(schema=99, version="9.0")
    with pytest.raises(RunError, match=r"made by a newer Pellucid \(9\.0\)"):
        RunFolder.open(tmp_path)


def test_files_stay_inside(tmp_path):
    run = RunFolder.create(tmp_path / "run", kind="audit")
    for name in ("../x", "/etc/x", "a/../../x"):
        with pytest.raises(ValueError, match="must stay inside"):
            run.file(name)


# -- locks --------------------------------------------------------------------------------------------------------


def _lock(path, **entries):
    (path / ".lock").write_text(json.dumps({**_identity(), **entries}))


def test_a_folder_in_use_is_refused(tmp_path):
    RunFolder.create(tmp_path, kind="audit")
    parent = os.getppid()
    _lock(tmp_path, pid=parent, started=None)
    with pytest.raises(RunError, match=f"is in use by process {parent} on"):
        RunFolder.create(tmp_path, kind="audit", resume=True)
    assert RunFolder.open(tmp_path).status == "running"


def test_a_process_of_another_host_is_believed(tmp_path):
    RunFolder.create(tmp_path, kind="audit")
    _lock(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(RunError, match=r"on elsewhere; wait for it.*or delete .*\.lock"):
        RunFolder.create(tmp_path, kind="audit", resume=True)


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    with RunFolder.create(tmp_path, kind="audit"):
        pass
    (tmp_path / ".arrays.safetensors.45ac9f0c.tmp").write_text("half")
    with RunFolder.create(tmp_path, kind="audit", resume=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("lock", ["dead", "reused", "torn", "foreign"])
def test_a_stale_lock_is_taken_over(tmp_path, lock):
    RunFolder.create(tmp_path, kind="audit")
    if lock == "dead":
        _lock(tmp_path, pid=_dead_pid())
    elif lock == "reused":
        _lock(tmp_path, pid=os.getppid(), started=1)
    else:
        (tmp_path / ".lock").write_text('{"pid": ' if lock == "torn" else "[]")
    assert RunFolder.open(tmp_path).status == "partial"
    with RunFolder.create(tmp_path, kind="audit", resume=True):
        assert json.loads((tmp_path / ".lock").read_text()) == _identity()
    assert RunFolder.open(tmp_path).status == "complete"


def test_a_folder_taken_at_the_same_moment_is_refused(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path, kind="audit")
    monkeypatch.setattr(run, "_check_unlocked", lambda: None)
    monkeypatch.setattr(type(tmp_path), "unlink", lambda path: None)  # the other process locks after we looked
    _lock(tmp_path, pid=os.getppid())
    with pytest.raises(RunError, match="was taken by another process this moment"):
        run.__enter__()


def test_a_killed_process_leaves_a_folder_that_can_be_resumed(tmp_path):
    code = (
        "import os, sys; from pellucid.core import RunFolder\n"
        "with RunFolder.create(sys.argv[1], kind='train') as run:\n"
        "    run.update(step=1); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert RunFolder.open(tmp_path).status == "partial"
    with RunFolder.create(tmp_path, kind="train", resume=True) as run:
        assert run.manifest["step"] == 1
    assert RunFolder.open(tmp_path).status == "complete"
