"""From the words after a command's name to a call of its function; what cannot be used is said in one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence

_WIDE = "4096"  # columns, so that the parser breaks none of the lines that are read here
_KINDS = {int: "a whole number", "int": "a whole number", float: "a number", "float": "a number"}


class UsageError(Exception):
    """The arguments of a command cannot be used; the text is the sentence to print."""


def bound(function: Callable[..., int], name: str, arguments: Sequence[str]) -> Callable[[], int]:
    """Return the call that the arguments ask for, not made yet.

    Raises:
        UsageError: an option is unknown, lacks its value or has one that does not fit; the nearest option is named.
        SystemExit: with code 0, after --help was printed.
    """
    import tyro

    for layer in (function, inspect.unwrap(function)):
        # tyro keeps the line breaks of an argument's text, which are where the source's lines happen to end.
        layer.__doc__ = re.sub(r"\n {8,}(?=\S)", " ", inspect.getdoc(layer) or "")

    @functools.wraps(function)
    def bind(*values: object, **options: object) -> Callable[[], int]:
        return functools.partial(function, *values, **options)

    style = (tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName, tyro.conf.DisallowNone)
    complaint = io.StringIO()
    wide = contextlib.nullcontext() if {"-h", "--help"} & set(arguments) else _wide()
    try:
        with contextlib.redirect_stderr(complaint), wide:
            call: Callable[[], int] = tyro.cli(bind, prog=f"pellucid {name}", args=list(arguments), config=style)
    except SystemExit as stop:
        if not stop.code:
            raise
        what = _sentence(complaint.getvalue(), function, arguments)
        raise UsageError(f"{what}; `pellucid {name} --help` shows all") from None
    return call


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDE
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _sentence(complaint: str, function: Callable[..., int], arguments: Sequence[str]) -> str:
    """Return what is wrong, from the box that the parser drew."""
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│| ") for line in complaint.splitlines()]
    lines = [line for line in bare if line.strip("─╰╯-")][1:]  # the first one is the title
    text = lines[0] if lines else "the arguments cannot be used"
    options, needed = _names(function)
    if text.startswith("Unrecognized"):
        return _unknown(text.partition(":")[2].replace(",", " ").split(), options, arguments)
    if text.startswith("Missing from"):
        named = {line.split()[0] for line in lines}
        return f"{' and '.join(word for word in needed if word in named) or 'an argument'} must be given"
    if match := re.match(r"Missing value for argument '?(?P<option>--[\w-]+)", text):
        return f"{match['option']} needs a value"
    if match := re.match(r"Error parsing (?P<option>[^:]+): (?P<why>.*)", text):
        option = match["option"].strip()
        kind = _KINDS.get(options.get(option.split("/")[0].strip(), ""))
        value = re.search(r"('[^']*'|\"[^\"]*\")\s*$", match["why"])
        return f"{option} must be {kind}, got {value[1]}" if kind and value else f"{option}: {match['why'].rstrip('.')}"
    return text.rstrip(".:")


def _names(function: Callable[..., int]) -> tuple[dict[str, object], list[str]]:
    """Return the options with their annotations, and what must be given, as the help writes it."""
    options: dict[str, object] = {}
    needed: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(parameter.default):  # a group of options that several commands share
            for part in dataclasses.fields(parameter.default):
                options[f"--{part.name.replace('_', '-')}"] = type(getattr(parameter.default, part.name))
            continue
        shown = name.upper() if parameter.kind is parameter.POSITIONAL_ONLY else f"--{name.replace('_', '-')}"
        if shown.startswith("--"):
            options[shown] = parameter.annotation
        if parameter.default is parameter.empty:
            needed.append(shown)
    return options, needed


def _unknown(words: list[str], options: dict[str, object], arguments: Sequence[str]) -> str:
    unknown = next((word for word in words if word.startswith("-")), None)
    if unknown is None:
        flag = next(
            (word for word in arguments if words and word.startswith("--") and word.endswith(f"={words[0]}")), ""
        )
        if flag:
            return f"{flag.partition('=')[0]} takes no value"
        given = next((word for word in reversed(arguments) if words and word.startswith(words[0])), " ".join(words))
        return f"{given!r} is one argument too many"
    near = difflib.get_close_matches(unknown.partition("=")[0], options, n=1)
    return f"there is no option {unknown}" + (f", did you mean {near[0]}?" if near else "")
