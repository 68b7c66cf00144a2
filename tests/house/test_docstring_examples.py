"""The examples in docstrings show what really comes out."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if ">>>" in path.read_text() and path.name != "__init__.py"
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_come_out_as_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    # The names of the module are at hand, as they are for a reader who imported its package.
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
    shown: list[str] = []
    # Docstrings are read from the source: the finder of doctest passes over functions wrapped by the type checker.
    for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
            title = getattr(node, "name", name)
            test = doctest.DocTestParser().get_doctest(text, vars(module).copy(), title, module.__file__, 0)
            runner.run(test, out=shown.append)
    assert runner.tries, "an example that no reader can reach: put it into a docstring"
    assert not runner.failures, "".join(shown)
