"""`import pellucid` and `pellucid --help` are instant: they do not load torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pellucid.cli import COMMANDS

HEAVY = ("torch", "numpy", "scipy", "PIL", "networkx", "jinja2")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_pellucid_loads_nothing_heavy() -> None:
    assert run(f"import sys, pellucid; print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"


def test_a_name_of_the_front_page_resolves_when_used() -> None:
    code = "import sys, pellucid; pellucid.Subject; print('torch' in sys.modules, 'Subject' in dir(pellucid))"
    assert run(code).strip() == "True True"


def test_packages_resolve_when_used() -> None:
    code = "import pkgutil, pellucid; print([m.name for m in pkgutil.iter_modules(pellucid.__path__) if m.ispkg"
    code += " and m.name not in dir(pellucid)], pellucid.games.shapley.__name__)"
    assert run(code).strip() == "['cli'] shapley"


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_loads_nothing_heavy(name: str) -> None:
    call = f"import sys; from pellucid.cli import main; code = main({[*name.split(), '--help']})"
    out = run(f"{call}; print(code, [m for m in {HEAVY} if m in sys.modules])")
    assert out.splitlines()[-1] == "0 []", out


def test_help_takes_at_most_0_35_seconds_of_cpu() -> None:
    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "pellucid.cli", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) <= 0.35
