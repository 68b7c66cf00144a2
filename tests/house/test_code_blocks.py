"""Code blocks in the README and the docs: python blocks run, console blocks name real commands and flags.

A comment just above a block changes what is done with it:

- `<!-- parsed only: why -->`: a python block that cannot run here;
- `<!-- file: NAME -->`: the block is not run but written to that file, for the blocks after it;
- `<!-- run -->`, `<!-- run: exit code 2 -->`: the commands of a console block run, and what the block shows must be
  what they print. Numbers and line breaks are not compared, since they differ between machines; a line `...` stands
  for what is left out.

The blocks of one page are one session in an empty folder, as a reader would type them.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
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
    """The comment just above the block, if there is one."""


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            line = text[: match.start("code")].count("\n") + 1
            found.append(Block(page, line, match["language"], match["code"], match["mark"] or ""))
    return [block for block in found if block.language in language.split()]


def name(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


PYTHON = blocks("python")
SESSION = [
    block
    for block in blocks("python console toml text")
    if block.mark.startswith(("file:", "run")) or (block.language == "python" and not block.mark)
]

# Runs in a process of its own: some pages, each in a folder of its own, their blocks one after the other.
_RUNNER = """
import contextlib, io, json, os, re, shlex, sys
from pathlib import Path

def plain(text):
    return " ".join(re.sub(r"\\d[\\d.,]*", "#", text).split())

def run(code, where, wanted):
    from pellucid.cli import main
    commands, shown = [], []
    for line in code.replace("\\\\\\n", " ").splitlines():
        (commands if line.startswith("$ ") else shown).append(line.removeprefix("$ "))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        codes = [main(shlex.split(command, comments=True)[1:]) for command in commands]
    assert set(codes) == {wanted}, f"{where}: exit codes {codes}\\n{said.getvalue()}"
    rest = plain(said.getvalue())
    for part in re.split(r"^ *(?:\\.\\.\\.|…)$", "\\n".join(shown), flags=re.MULTILINE):
        if not plain(part):
            continue
        _, found, rest = rest.partition(plain(part))
        assert found == plain(part), f"{where}: not printed:\\n{part}\\nbut:\\n{said.getvalue()}"

for folder, session in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    os.chdir(folder)
    space = {"__name__": "__main__"}
    for where, language, mark, code in session:
        if mark.startswith("file:"):
            file = Path(mark.removeprefix("file:").strip())
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code, encoding="utf-8")
        elif language == "console":
            run(code, where, int(mark.partition("exit code ")[2] or 0))
        else:
            exec(compile(code, where, "exec"), space)
"""


@pytest.mark.parametrize("block", PYTHON, ids=name)
def test_python_blocks_are_python(block: Block) -> None:
    compile(block.code, str(block.page), "exec")
    assert not block.mark or re.fullmatch(r"(parsed only|file): .+", block.mark), "say why the block is not run"


RUN = sorted({block.page for block in SESSION})
GROUPS = [RUN[k::4] for k in range(4)]  # a process per page would spend most of its time on importing torch


@pytest.mark.parametrize("pages", GROUPS, ids=lambda pages: "+".join(page.stem for page in pages))
def test_blocks_of_pages_run(pages: list[Path], tmp_path: Path) -> None:
    plan = []
    for page in pages:
        (folder := tmp_path / f"{len(plan)}-{page.stem}").mkdir()  # two pages may have one name
        session = [(name(block), block.language, block.mark, block.code) for block in SESSION if block.page == page]
        plan.append((str(folder), session))
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _RUNNER, str(tmp_path / "plan.json")],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr


def command_lines() -> list[tuple[str, str]]:
    """Every line that calls `pellucid`: in console blocks, and in backticks in the text."""
    lines = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
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
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for page in PAGES:
        for line in re.findall(r"^(?:\$ )?make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert line in targets, f"{page.name}: make {line}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/decisions").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
