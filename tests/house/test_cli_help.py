"""Every command has help; what the docs generate from the code is what the code says now."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest

from pellucid import cli
from pellucid.cli import COMMANDS

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "_generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_explained(name: str) -> None:
    function = cli._load(COMMANDS[name])
    doc = inspect.getdoc(function) or ""
    assert doc.split("\n")[0] == COMMANDS[name].summary, "the line in COMMANDS is the docstring's first"
    for argument in inspect.signature(function).parameters:
        assert f"\n    {argument}: " in doc, f"say in Args: what {argument} is"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_few_flags(name: str) -> None:
    parameters = inspect.signature(cli._load(COMMANDS[name])).parameters.values()
    assert all(parameter.kind is not parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)


def test_the_docs_show_what_the_code_says(generator: ModuleType) -> None:
    for path, text in generator.files().items():
        assert path.exists(), "run: python docs/_generate.py"
        assert path.read_text() == text, f"{path.name} is out of date; run: python docs/_generate.py"
