"""A package's `__init__` is its API: `__all__` is sorted, complete and documented."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "pellucid"
PACKAGES = sorted(
    ".".join(path.parent.relative_to(SOURCE.parent).parts)
    for path in SOURCE.rglob("__init__.py")
    if not any(part.startswith("_") for part in path.parent.relative_to(SOURCE).parts)
)
PUBLIC = [name for name in PACKAGES if name != "pellucid.cli"]


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def test_all_is_sorted(package: ModuleType) -> None:
    names = list(package.__all__)
    assert names == sorted(set(names), key=_place)


def _place(name: str) -> tuple[int, list[tuple[int, int, str]]]:
    """Constants, then classes, then the rest, each in natural order: what ruff's RUF022 writes."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return kind, [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def test_all_is_what_is_importable(package: ModuleType) -> None:
    for name in package.__all__:
        getattr(package, name)
    inside = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and _ours(package, value)
    }
    assert inside <= set(package.__all__), "public by name but not in __all__"


def _ours(package: ModuleType, value: object) -> bool:
    """Whether a name belongs to the package, and was not only imported for its own use."""
    home = getattr(value, "__module__", "") or ""
    return home == package.__name__ or home.startswith(package.__name__ + ".")


def test_every_exported_name_has_a_docstring(package: ModuleType) -> None:
    assert inspect.getdoc(package), f"{package.__name__} says nothing"
    without = [
        name
        for name in package.__all__
        if (inspect.isclass(value := getattr(package, name)) or inspect.isfunction(value)) and not _documented(value)
    ]
    assert not without


def _documented(value: object) -> bool:
    doc = (getattr(value, "__doc__", None) or "").strip()
    # A dataclass without a docstring gets its signature as one: that tells a reader nothing.
    return bool(doc) and not doc.startswith(f"{getattr(value, '__name__', '')}(")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_package_has_its_reference_page(name: str) -> None:
    parent = importlib.import_module(name.rpartition(".")[0] or name)
    if parent.__name__ != name and set(importlib.import_module(name).__all__) <= set(parent.__all__):
        return  # the parent exports the same names: its page shows them
    page = ROOT / "docs" / "reference" / f"{name.removeprefix('pellucid.')}.md"
    assert page.exists(), f"add {page.relative_to(ROOT)}"
    text = page.read_text()
    assert name == "pellucid" or f"automodule:: {name}\n   :members:" in text
    assert all(name in text for name in (parent.__all__ if name == "pellucid" else ()) if name != "__version__")
    index = (ROOT / "docs" / "reference" / "index.md").read_text()
    assert page.stem in index.split() or "*" in index, "the page is in no table of contents"
