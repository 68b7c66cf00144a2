"""Every command has help, and docs/reference/cli.md shows exactly that."""

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
    spec = importlib.util.spec_from_file_location("generate_cli", DOCS / "_generate_cli.py")
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


def test_the_docs_show_the_help(generator: ModuleType) -> None:
    assert generator.PAGE.read_text() == generator.page(), "run: python docs/_generate_cli.py"
