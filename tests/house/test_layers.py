"""Who may import whom (the table of CONTRIBUTING.md), read from the source of every file, lazy imports included."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

import pellucid

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "pellucid"

MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "data": {"core"},
    "games": {"core"},
    "attacks": {"core"},
    "metrics": {"core"},
    "nn": {"core"},
    "optim": {"core"},
    "models": {"core", "nn"},
    "explain": {"core", "games", "metrics", "attacks", "nn"},
    "training": {"core", "data", "games", "attacks", "metrics", "nn", "optim"},
    "reports": {"core"},
    "audits": {"core", "games", "attacks", "metrics", "nn", "explain", "reports"},
    "lm": {"core", "data", "games", "metrics", "nn", "optim", "explain", "training"},
    "neurons": {"core", "data", "games", "metrics", "nn", "explain", "training"},
}
EVERYTHING = {*MAY_IMPORT, "inspector"}
MAY_IMPORT["inspector"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = EVERYTHING
MAY_IMPORT["pellucid"] = {
    *EVERYTHING,
    "cli",
}  # the modules beside the packages: `__init__` (lazily), `__main__`, `_open`
# Who may import such a module, with what it is for.
TOP_MODULES = {
    "_open": {"pellucid", "cli"},  # the front door joins models and data, which do not know each other
    "__main__": set(),  # `python -m pellucid`
}

HOMES = {name: home.split(".")[1] for name, home in pellucid._HOMES.items()}

FILES = sorted(SOURCE.rglob("*.py"))


class Import(NamedTuple):
    line: int
    module: str
    relative: bool
    names: tuple[str, ...]


def package_of(path: Path) -> str:
    inside = path.relative_to(SOURCE)
    return inside.parts[0] if len(inside.parts) > 1 else "pellucid"


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("pellucid", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def imports_of(path: Path) -> list[Import]:
    """Every import of the file that names a module of ours, relative ones resolved."""
    module = module_of(path)
    parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, name.name, relative=False, names=()) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(name.name for name in node.names)
            if node.level == 0:
                found.append(Import(node.lineno, node.module or "", relative=False, names=names))
            else:
                start = parent.rsplit(".", node.level - 1)[0]
                resolved = f"{start}.{node.module}" if node.module else start
                found.append(Import(node.lineno, resolved, relative=True, names=names))
    return [entry for entry in found if entry.module.split(".")[0] == "pellucid"]


def test_every_module_beside_the_packages_has_a_row() -> None:
    assert {path.stem for path in SOURCE.glob("*.py")} == {"__init__", *TOP_MODULES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_table(path: Path) -> None:
    package = package_of(path)
    assert package in MAY_IMPORT, f"{package} has no row in the table of packages"
    wrong = []
    for entry in imports_of(path):
        parts = entry.module.split(".")
        # `from pellucid import core, audit, __version__`: a package, a name with its home in one, and a plain name.
        named = {HOMES.get(name, name) for name in entry.names}
        targets = {parts[1]} if len(parts) > 1 else named & {*EVERYTHING, "cli", *TOP_MODULES}
        crossing = targets - {package}
        if entry.relative and crossing and package != "pellucid":
            wrong.append(f"line {entry.line}: import {entry.module} absolutely, it is another package")
        if not entry.relative and package in targets and path.name != "__main__.py":
            wrong.append(f"line {entry.line}: import {entry.module} relatively, it is the same package")
        allowed = MAY_IMPORT[package] | {name for name, users in TOP_MODULES.items() if package in users}
        wrong += [f"line {entry.line}: {package} may not import {name}" for name in crossing - allowed]
        if not entry.relative and any(part.startswith("_") for part in parts[2:]):
            wrong.append(f"line {entry.line}: {entry.module} is private to its package")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_in_a_circle_at_load() -> None:
    modules = {module_of(path): path for path in FILES}
    edges: dict[str, set[str]] = {}
    for module, path in modules.items():
        edges[module] = set()
        for entry in _at_load(path):
            submodules = {f"{entry.module}.{name}" for name in entry.names} & modules.keys()
            edges[module] |= submodules or ({entry.module} & modules.keys())
    edges = {module: targets - {module} for module, targets in edges.items()}
    circle = _circle(edges)
    assert circle is None, " -> ".join(circle or ())


def _at_load(path: Path) -> list[Import]:
    """The imports that run when the module is loaded: not inside functions, not only for type checkers."""
    tree = ast.parse(path.read_text())
    late = set()
    for node in ast.walk(tree):
        lazy = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if lazy or typing:
            late |= {inner.lineno for inner in ast.walk(node) if isinstance(inner, (ast.Import, ast.ImportFrom))}
    return [entry for entry in imports_of(path) if entry.line not in late]


def _circle(edges: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(module: str, above: list[str]) -> list[str] | None:
        if module in above:
            return [*above[above.index(module) :], module]
        if module in done:
            return None
        for target in sorted(edges[module]):
            if circle := visit(target, [*above, module]):
                return circle
        done.add(module)
        return None

    return next((circle for module in sorted(edges) if (circle := visit(module, []))), None)


def test_the_circle_finder_finds_one() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_the_table_itself_has_no_circle() -> None:
    assert _circle(MAY_IMPORT | {"inspector": set(MAY_IMPORT) - {"inspector", "cli", "pellucid"}}) is None
