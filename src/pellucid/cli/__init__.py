"""The command line: a table of commands, each loaded only when it is used, and one rule for exit codes.

0 done, 1 a requirement or a probe failed (or Pellucid itself did), 2 bad input, 3 the machine failed, 130 interrupted.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """Where a command's function lives, and its line in `pellucid --help`."""

    function: str
    summary: str


COMMANDS: dict[str, Command] = {
    "audit": Command("_audit:audit", "Audit a model on data and write a report."),
    "check": Command("_check:check", "Check that a model meets requirements; exit with 1 if it does not."),
    "explain": Command("_explain:explain", "Explain answers: which parts of the inputs made them, alone and together."),
    "robustness": Command(
        "_robustness:robustness",
        "Find out how a model breaks: under pixel noise, bending, turning and shifting, and common corruptions.",
    ),
    "merge": Command("_merge:merge", "Put the shards of an audit or an explanation together and write its report."),
    "compare": Command("_compare:compare", "Set two audits side by side, with paired tests."),
    "report": Command(
        "_report:report",
        "Draw the report of a finished audit or comparison again, without computing, or that of a recorded training.",
    ),
    "train": Command("_train:train", "Train a model from a recipe."),
    "sweep": Command(
        "_sweep:sweep", "Train a recipe over the values of one setting, and draw what each gains and costs."
    ),
    "models list": Command("_models:list_models", "List the models that ship with Pellucid."),
    "models show": Command(
        "_models:show_model", "Show a model's card: what it is, how it was made and how good it is."
    ),
    "data list": Command("_data:list_data", "List the data sets Pellucid knows and whether they are here."),
    "data get": Command("_data:get_data", "Download a data set into the user's cache and check its digests."),
    "data verify": Command("_data:verify_data", "Check the files of a data set against their digests."),
    "recipes list": Command("_recipes:list_recipes", "List the training recipes that ship with Pellucid."),
    "recipes show": Command("_recipes:show_recipe", "Print a training recipe, as a file to start your own from."),
    "probes list": Command("_probes:list_probes", "List the questions an audit can ask, and their settings."),
    "doctor": Command("_doctor:doctor", "Check this installation and say what is missing."),
}

_FOOTER = """\
`pellucid COMMAND --help` tells more about a command.
Exit codes: 0 done, 1 a requirement or a probe failed, 2 bad input, 3 the machine failed, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors the user can put right are one line on stderr.

    Args:
        argv: the arguments after the program's name; those of the process if not given.
    """
    if argv is None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a console of few characters must stop no audit
                stream.reconfigure(errors="backslashreplace")
    try:
        with _stoppable():
            code = _run(list(sys.argv[1:] if argv is None else argv))
        if sys.stdout is not None:
            sys.stdout.flush()  # so that a closed pipe shows here, not while the interpreter ends
    except SystemExit as stop:  # such as tyro's, after it printed --help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - the reader (`| head`) has what it wanted
        return 0
    except BaseException as error:
        code, text = _in_words(error)
        sys.stderr.write(text + "\n")
    return code


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let a polite request to end (a batch system's, or a terminal that closes) do what Ctrl-C does."""
    names = [name for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    # Handlers belong to the main thread, and what a caller or `nohup` has set stays.
    ours = threading.current_thread() is threading.main_thread()
    taken = [number for number in numbers if ours and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _show_help("")
    if argv[0] == "--version":
        from pellucid import __version__

        sys.stdout.write(f"pellucid {__version__}\n")
        return 0
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return _call(name, argv[words:])
    if any(name.startswith(argv[0] + " ") for name in COMMANDS):
        if len(argv) == 1 or argv[1] in ("-h", "--help"):
            return _show_help(argv[0])
        return _unknown(" ".join(argv[:2]))
    return _unknown(argv[0])


def _call(name: str, arguments: list[str]) -> int:
    from ._arguments import UsageError, bound
    from ._shares import WORDS

    try:
        call = bound(_load(COMMANDS[name]), name, arguments)
    except UsageError as error:
        sys.stderr.write(f"pellucid: {error}\n")
        return 2
    token = WORDS.set((name, *arguments))
    try:
        return call()
    finally:
        WORDS.reset(token)


def _load(command: Command) -> Callable[..., int]:
    module, _, function = command.function.partition(":")
    loaded: Callable[..., int] = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return loaded


def _show_help(group: str) -> int:
    shown = {name: command for name, command in COMMANDS.items() if name.startswith(group)}
    width = max(map(len, shown))
    lines = [f"usage: pellucid {group or '[--version]'} COMMAND ...", ""]
    if not group:
        lines += ["See what a network has learned, find where it breaks, train it better.", ""]
    lines += [f"  {name:{width}}  {command.summary}" for name, command in shown.items()]
    sys.stdout.write("\n".join([*lines, "", _FOOTER]))
    return 0


def _unknown(name: str) -> int:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean `pellucid {near[0]}`?" if near else "`pellucid --help` lists the commands"
    what = "option" if name.startswith("-") else "command"
    sys.stderr.write(f"pellucid: there is no {what} {name!r}; {hint}\n")
    return 2


def _in_words(error: BaseException) -> tuple[int, str]:
    """Return the exit code for an error and what to print."""
    # A class that was never imported cannot have been raised: no need to load torch to name it.
    core, torch = sys.modules.get("pellucid.core"), sys.modules.get("torch")
    if isinstance(error, KeyboardInterrupt):
        return 130, "pellucid: interrupted"
    if core is not None and isinstance(error, core.PellucidError):
        return 2, f"pellucid: {error}"
    if isinstance(error, OSError):
        return _explain_system(error)
    if isinstance(error, MemoryError) or (torch is not None and _out_of_memory(error, torch.OutOfMemoryError)):
        return 3, "pellucid: out of memory; use fewer samples, a smaller batch or a smaller model"
    trace = "".join(traceback.format_exception(error))
    report = "This is a bug in Pellucid; please report it with these lines and what `pellucid doctor` prints."
    return 1, f"{trace}pellucid: {report}"


_PLACE = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_BAD_NAME = {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ}  # Windows calls a forbidden name EINVAL


def _explain_system(error: OSError) -> tuple[int, str]:
    """A place that was badly chosen is bad input; anything else is the machine's."""
    where = "" if error.filename is None else f": {_printable(str(error.filename))}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 3, f"pellucid: the disk is full{where}; make room and run it again: earlier results are untouched"
    if error.filename is not None and (isinstance(error, _PLACE) or error.errno in _BAD_NAME):
        return 2, f"pellucid: {error.strerror}{where}"
    return 3, f"pellucid: the machine failed: {_printable(str(error))}"


def _printable(text: str) -> str:
    """Return text without what a terminal would obey, and not endless."""
    from pellucid.core import PellucidError

    return str(PellucidError(text))


def _out_of_memory(error: BaseException, on_device: type[BaseException]) -> bool:
    return isinstance(error, on_device) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
