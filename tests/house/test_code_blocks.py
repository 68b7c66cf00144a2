"""Code blocks in the README and the docs: python blocks run, console blocks name real commands and flags."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pellucid import cli
from pellucid.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("start/*.md")),
    *sorted((ROOT / "docs").glob("guides/*.md")),
    *sorted((ROOT / "docs").glob("concepts/*.md")),
    *sorted((ROOT / "docs").glob("methods/*.md")),
]
_FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^>]*?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str
    mark: str
    """A comment just above the block; `parsed only: why` keeps a python block from being run."""


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            line = text[: match.start("code")].count("\n") + 1
            found.append(Block(page, line, match["language"], match["code"], match["mark"] or ""))
    return [block for block in found if block.language in language.split()]


def name(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


PYTHON = blocks("python")


@pytest.mark.parametrize("block", PYTHON, ids=name)
def test_python_blocks_are_python(block: Block) -> None:
    compile(block.code, str(block.page), "exec")
    assert not block.mark or re.fullmatch(r"parsed only: .+", block.mark), "say why the block is not run"


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON if not block.mark}), ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    # The blocks of one page are one session, as a reader would type them.
    code = "\n".join(block.code for block in PYTHON if block.page == page and not block.mark)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def command_lines() -> list[tuple[str, str]]:
    """Every line that calls `pellucid`: in console blocks, and in backticks in the text."""
    lines = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        found = re.findall(r"^\$? ?(pellucid .+)$", text, flags=re.MULTILINE) + re.findall(
            r"`(pellucid [^`\n]+)`", text
        )
        lines += [(str(page.relative_to(ROOT)), line) for line in found]
    return lines


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_commands_in_the_text_exist(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[0].isupper() or words[0] in ("--help", "--version"):  # `pellucid COMMAND --help`
        return
    command = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
    if command is None:
        assert any(known.startswith(words[0] + " ") for known in COMMANDS), f"{page}: no command {words[0]}"
        return
    parameters = inspect.signature(cli._load(COMMANDS[command])).parameters
    shared = [vars(p.default) for p in parameters.values() if dataclasses.is_dataclass(p.default)]
    flags = {
        "--" + parameter.replace("_", "-") for parameter in (*parameters, *(name for group in shared for name in group))
    }
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= flags | {"--help"}, f"{page}: {command} has no {used - flags}"


def test_make_targets_in_the_text_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        for line in re.findall(r"^(?:\$ )?make ([a-z]+)", page.read_text(), flags=re.MULTILINE):
            assert line in targets, f"{page.name}: make {line}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/decisions").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
