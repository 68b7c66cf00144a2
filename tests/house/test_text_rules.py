"""Rules that a search over the source can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "pellucid"
FILES = sorted(path for path in SOURCE.rglob("*.py"))
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "*.toml",
        "*.txt",
        "*.cff",
        "Makefile",
        ".ci/run",
        "docs/**/*.md",
        "src/**/*.py",
        "recipes/*",
    )
    for path in ROOT.glob(pattern)
    if path.is_file() and "_build" not in path.parts
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Every call in the file with the dotted text of what is called."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_library_code_keeps_the_rules(path: Path) -> None:
    wrong = []
    in_cli = "cli" in path.relative_to(SOURCE).parts
    for call, called in calls(path):
        words = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        last = called.rpartition(".")[2]
        rules = {
            "prints": called == "print",
            "writes to the terminal": not in_cli and called in ("sys.stdout.write", "sys.stderr.write"),
            "picks a device": last in ("cuda", "mps") and called not in ("torch.cuda", "torch.mps") and "." in called,
            "unpickles": called == "torch.load" and words.get("weights_only") != "True",
            "unpickles by pickle": called in ("pickle.load", "pickle.loads", "joblib.load", "pickle.Unpickler"),
            "unpickles by numpy": called == "np.load" and words.get("allow_pickle", "False") != "False",
            "seeds globally": called in ("torch.manual_seed", "np.random.seed", "random.seed")
            and path.name != "_streams.py",
            "runs a shell": words.get("shell") == "True" or called == "os.system",
            "evaluates text": called in ("eval", "exec"),
        }
        wrong += [f"line {call.lineno} {what}: {ast.unparse(call)[:80]}" for what, broken in rules.items() if broken]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_empty_promises(path: Path) -> None:
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Raise):
            stub = "NotImplementedError" in ast.unparse(node.body[-1]) and len(node.body) <= 2
            assert not stub or node.name.startswith("_"), f"{node.name} promises and does nothing"
    for line in text.splitlines():
        assert "TODO" not in line or re.search(r"TODO\(#\d+\)", line), f"a TODO carries an issue number: {line.strip()}"


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_no_address_of_a_package_registry(path: Path) -> None:
    # The one index named on purpose is torch's own CPU index, in the Makefile and the install guide.
    text = path.read_text()
    for host in ("pypi.org", "pythonhosted.org", "registry.npmjs", "deb.debian.org", "anaconda.org"):
        assert host not in text, f"{host}: name packages, not where they come from"


def test_modules_stay_small() -> None:
    long = {name(path): n for path in FILES if (n := len(path.read_text().splitlines())) > 600}
    assert not long, "past 600 lines there is a second idea"
