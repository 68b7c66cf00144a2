"""Fixtures for every test, and the run-time check of every annotated shape in `pellucid`."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import beartype._check.code.codemain as beartype_code
import hypothesis
import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from pellucid.core import Stream

# beartype picks which items of a container to check by Python's global generator, whose state our tests compare.
beartype_code.getrandbits = random.Random(0).getrandbits

# The same examples on every machine, and no complaint when a busy machine is slow.
hypothesis.settings.register_profile("pellucid", deadline=None, derandomize=True)
hypothesis.settings.load_profile("pellucid")

# Before anything imports `pellucid`: its shapes and types are checked at every call while tests run. The hook wants the
# name of a checker; ours takes an int where a float is asked for, as type checkers do.
_CHECKER = ModuleType("pellucid_checker")
_CHECKER.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
sys.modules[_CHECKER.__name__] = _CHECKER
install_import_hook("pellucid", f"{_CHECKER.__name__}.check")

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    import torch

    torch.set_num_threads(1)  # xdist runs a process per core; sums then also come out the same on every machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if " at 0x" in item.nodeid:  # it would be another name in each process, and xdist would stop
            raise pytest.UsageError(f"{item.nodeid} has an address in its name; give `ids`")


@pytest.fixture
def rng() -> Stream:
    """The stream that tests draw from: `rng.child("what for")`."""
    from pellucid.core import Stream

    return Stream(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


def _program(*names: str) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Headless Chromium with console and network logs on; one per test process.

    Without Chromium the test is skipped, or fails if REQUIRE_BROWSER=1.
    """
    chromium = _program("chromium", "chromium-browser", "google-chrome")
    driver = _program("chromedriver", "chromium.chromedriver")
    if chromium is None or driver is None:
        reason = "needs Chromium and ChromeDriver (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(f"REQUIRE_BROWSER=1 but this {reason}")
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",  # the tests may run as root in a container; the pages are our own
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield chrome
    finally:
        chrome.quit()
