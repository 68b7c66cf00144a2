"""`pellucid` itself: finding the command, and from an error to an exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from types import ModuleType

import pytest

import pellucid
from pellucid import cli
from pellucid.cli import COMMANDS, Command, main
from pellucid.cli._console import bars, table
from pellucid.core import BudgetError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with a command `greet NAME [--times N] [--loud]`; tests replace what it does."""
    module = ModuleType("pellucid.cli._greet")

    def greet(name: str, /, *, times: int = 1, loud: bool = False) -> int:
        """Greet somebody.

        Args:
            name: whom to greet.
            times: how often.
            loud: in capitals.
        """
        for _ in range(times):
            sys.stdout.write((name.upper() if loud else name) + "\n")
        return 0

    module.greet = greet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pellucid.cli._greet", module)
    monkeypatch.setitem(COMMANDS, "greet", Command("_greet:greet", "Greet somebody."))
    return module


def test_arguments_reach_the_function(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["greet", "ada", "--times", "2", "--loud"]) == 0
    assert capsys.readouterr().out == "ADA\nADA\n"


def test_the_function_decides_the_exit_code(command: ModuleType) -> None:
    command.greet = lambda: 1
    assert main(["greet"]) == 1


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "NAME must be given"),
        (["ada", "--tims", "2"], "there is no option --tims, did you mean --times?"),
        (["ada", "--zzz"], "there is no option --zzz"),
        (["ada", "--times", "often"], "--times must be a whole number, got 'often'"),
        (["ada", "--times"], "--times needs a value"),
        (["ada", "bob"], "'bob' is one argument too many"),
        (["ada", "--loud=3"], "--loud takes no value"),
    ],
)
def test_unusable_arguments_are_bad_input_in_one_sentence(
    command: ModuleType, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["greet", *arguments]) == 2
    assert capsys.readouterr() == ("", f"pellucid: {what}; `pellucid greet --help` shows all\n")


def test_help_of_a_command_names_its_arguments(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["greet", "--help"]) == 0
    text = capsys.readouterr().out
    assert "usage: pellucid greet" in text
    assert "whom to greet" in text
    assert "--no-loud" not in text


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BudgetError("the budget is 3; the least that works is 10"), 2, "pellucid: the budget is 3; the least"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.npz"), 2, "No such file or directory: a.npz"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "pellucid: Permission denied: out"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), 2, "pellucid: File name too long: xxx"),
        (OSError(errno.EIO, "Input/output error"), 3, "the machine failed: [Errno 5] Input/output error"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "the disk is full; make room and run it again"),
        (OSError(errno.ENOSPC, "No space left on device", "a\nb"), 3, "the disk is full: a\\nb; make room"),
        (MemoryError(), 3, "out of memory; use fewer samples"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 3, "out of memory"),
        (KeyboardInterrupt(), 130, "pellucid: interrupted"),
        (SystemExit(7), 7, ""),
    ],
)
def test_an_error_is_one_line_and_a_code(
    command: ModuleType, error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    command.greet = fail
    assert main(["greet"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert line in captured.err
    assert len(captured.err.splitlines()) <= 1


def test_a_bug_shows_its_traceback_and_asks_for_a_report(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise ZeroDivisionError("our mistake")

    command.greet = fail
    assert main(["greet"]) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "our mistake" in text
    assert "please report it" in text


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert f"  {name} " in text
        assert entry.summary in text


def test_a_group_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "models list" in text
    assert "audit" not in text.splitlines()[2]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["audti"], "there is no command 'audti'; did you mean `pellucid audit`?"),
        (["models", "lst"], "there is no command 'models lst'; did you mean `pellucid models list`?"),
        (["zzzzzz"], "`pellucid --help` lists the commands"),
        (["--verbose"], "there is no option '--verbose'"),
    ],
)
def test_an_unknown_command_names_the_nearest(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pellucid {pellucid.__version__}\n"


def test_the_module_runs_as_the_script_does() -> None:
    done = subprocess.run([sys.executable, "-m", "pellucid.cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"pellucid {pellucid.__version__}\n")


def test_a_reader_that_closes_early_is_no_error() -> None:
    code = f"import sys; sys.stdout = open(1, 'w', 1); sys.exit(__import__('{cli.__name__}', fromlist=['x']).main([]))"
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()
    with writer.stderr as errors:
        assert errors.read() == b""
    assert writer.wait() == 0


def test_lines_reach_a_pipe_at_once_and_a_closed_one_stops_no_work() -> None:
    code = (
        "import sys; from pellucid.cli._console import say; say('plan'); sys.stdin.readline(); say('a'); say('b'); "
        "sys.stderr.write('done')"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"plan\n"  # while the writer still waits
    writer.stdout.close()
    assert writer.communicate(b"\n")[1] == b"done"
    assert writer.returncode == 0


def test_a_closed_stdout_stops_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["probes", "list"]) == 0


def test_a_table_is_aligned() -> None:
    text = table(["name", "count", "share"], [["a", 1200, 0.5], ["long name", 7, 0.25]])
    assert text.splitlines() == [
        "name       count  share",
        "---------  -----  -----",
        "a          1,200    0.5",
        "long name      7   0.25",
    ]
    assert table(["a"], []) == "a\n-"
    assert table(["here"], [[True], [False]]).splitlines()[2:] == ["yes", "no"]


def test_bars_without_a_terminal_say_once_that_a_task_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with bars() as advance:
        for done in (1, 2, 2):
            advance("accuracy", done, 2)
    assert capsys.readouterr().err == "  accuracy: done\n"


def test_bars_in_a_terminal_are_drawn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with bars() as advance:
        advance("robustness", 5, 10)
        advance("robustness", 10, 10)
    assert "robustness" in capsys.readouterr().err
