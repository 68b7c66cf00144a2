"""The wheel is small and whole: weights, sample, templates, vendored files with their licences."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import venv
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
        assert path.stat().st_size <= 2e6, path.name


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


# -- optional packages --------------------------------------------------------------------------------------------

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
# Packages that a user may have beside ours, and the modules they bring.
OPTIONAL = {
    "datasets",
    "foolbox",
    "matplotlib",
    "pandas",
    "pyarrow",
    "shapiq",
    "skimage",
    "sklearn",
    "timm",
    "torchvision",
    "transformers",
}

BLOCKED = f"""
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(OPTIONAL)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import pellucid
for module in pkgutil.walk_packages(pellucid.__path__, "pellucid."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

import torch
from pellucid import cli, data, games, models
from pellucid.core import MissingExtra, PellucidError

def install_line(what, call):
    try:
        call()
    except MissingExtra as error:
        assert "pip install" in str(error), error
    else:
        raise SystemExit(f"{{what}} works without its package")

for name in ("digits", "iris", "wine", "breast-cancer"):
    install_line(name, lambda: data.load(name))
for spec in ("timm:resnet18@pretrained", "torchvision:resnet18@DEFAULT", "hf:" + sys.argv[1]):
    install_line(spec, lambda: models.load(spec))
install_line("parquet", lambda: data.load(sys.argv[2]))
install_line("shapiq", lambda: games.harsanyi(games.TableGame(torch.zeros(4))).to_shapiq())
install_line("segments", lambda: games.segments(torch.zeros(1, 8, 8), 4))
assert cli.main(["audit", "fashion-standard", "fashion-mnist", "--samples", "20", "--probe", "accuracy", "--plan"]) == 0
assert cli.main(["doctor"]) == 0
"""


def test_extras_that_errors_and_pages_name_exist() -> None:
    texts = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    named = {
        extra.strip()
        for path in texts
        if "_build" not in path.parts
        for group in re.findall(r"pellucid\[([\w, ]+)\]", path.read_text(encoding="utf-8"))
        for extra in group.split(",")
    }
    assert named <= EXTRAS.keys()


def test_the_wheel_names_every_extra(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("dist-info/METADATA"))
    text = wheel.read(name).decode()
    assert set(re.findall(r"^Provides-Extra: (.+)$", text, re.MULTILINE)) == EXTRAS.keys()
    assert "Requires-Python: >=3.11" in text


def test_the_wheel_holds_no_name_that_another_system_refuses(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert len({name.lower() for name in names}) == len(names), "two names differ in case only"
    reserved = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
    for name in names:
        assert not re.search(r'[<>:"|?*\\]|[. ]$', name), name
        assert len(name) < 120, name
        assert not any(reserved.fullmatch(part) for part in name.split("/")), name


def test_without_optional_packages_everything_imports_and_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "d.parquet").write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    program = [sys.executable, "-c", BLOCKED, str(tmp_path / "hf"), str(tmp_path / "d.parquet")]
    done = subprocess.run(program, capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", *(extra for extra in EXTRAS if extra not in ("dev", "docs", "test"))])
def test_the_wheel_installs_into_an_empty_environment(extra: str, tmp_path: Path) -> None:
    """Needs a package index, and takes minutes: `make wheel`."""
    from hatchling.builders.wheel import WheelBuilder

    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    what = f"pellucid[{extra}] @ {Path(built).as_uri()}" if extra else built
    install = [str(scripts / "python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), what]
    subprocess.run(install, check=True)
    for command in (
        ["--help"],
        ["doctor"],
        ["audit", "fashion-standard", "fashion-mnist", "--samples", "20", "--quick"],
    ):
        out = ["--out", str(tmp_path / "audit")] if command[0] == "audit" else []
        done = subprocess.run(
            [str(scripts / "pellucid"), *command, *out], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (
        f"ok      extra {extra}"
        in subprocess.run([str(scripts / "pellucid"), "doctor"], capture_output=True, text=True, check=True).stdout
        or not extra
    )
