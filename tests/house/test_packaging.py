"""The wheel is small and whole: weights, sample, templates, vendored files with their licences."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST = 6 * 10**6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built in this process by the backend itself: no network, no isolated environment."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    assert Path(path).stat().st_size < MOST, "the wheel is too large"
    return zipfile.ZipFile(path)


def test_every_file_of_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    source = ROOT / "src"
    inside = {
        str(path.relative_to(source))
        for path in (source / "pellucid").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside <= set(wheel.namelist())


@pytest.mark.parametrize(
    "part",
    [
        "pellucid/py.typed",
        "pellucid/models/weights/fashion-standard.safetensors",
        "pellucid/models/weights/fashion-robust.safetensors",
        "pellucid/models/weights/fashion-standard.json",
        "pellucid/models/weights/fashion-robust.json",
        "pellucid/recipes/fashion-standard.toml",
        "pellucid/recipes/fashion-robust.toml",
        "dist-info/licenses/LICENSE",
        "dist-info/entry_points.txt",
    ],
)
def test_the_wheel_holds(wheel: zipfile.ZipFile, part: str) -> None:
    assert any(name.endswith(part) for name in wheel.namelist())


def test_vendored_files_come_with_their_licence(wheel: zipfile.ZipFile) -> None:
    vendored = [name for name in wheel.namelist() if "/vendor/" in name]
    assert any(name.endswith(".js") for name in vendored)
    assert any("LICENSE" in name for name in vendored)


def test_shipped_weights_are_small() -> None:
    for path in (ROOT / "src/pellucid/models/weights").glob("*.safetensors"):
        assert path.stat().st_size <= 1.5e6, path.name


def test_the_version_is_said_once_in_each_place() -> None:
    import pellucid

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == pellucid.__version__
    assert f"\nversion: {pellucid.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_pinned_versions_satisfy_what_the_package_asks_for() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, wanted):
        version = pinned.get(requirement.name.lower().replace("_", "-"))
        assert version is not None, f"pin {requirement.name} in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} but {version} is pinned"
