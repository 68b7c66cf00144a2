import pytest

from pellucid import data
from pellucid.cli import main
from pellucid.core import DataError
from pellucid.data import _places


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without any data set."""
    monkeypatch.setattr(_places, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(_places, "_usual", lambda: tmp_path / "cache")
    monkeypatch.delenv("PELLUCID_DATA", raising=False)
    return tmp_path


def test_sets_are_listed_with_license_and_the_way_to_get_them(nowhere, capsys):
    assert main(["data", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert set(data.NAMED) <= set(lines)
    assert "shipped sample of 500 test images; all: `pellucid data get fashion-mnist`, 31 MB" in lines["fashion-mnist"]
    assert "none stated; cite Krizhevsky 2009" in lines["cifar10"]
    assert "`pellucid data get cifar10`, 170 MB" in lines["cifar10"]
    assert "CC BY 4.0" in lines["iris"]
    assert "here: with scikit-learn" in lines["iris"]


def test_a_set_that_is_here_is_listed_with_its_place(nowhere, capsys):
    (nowhere / "cache" / "mnist").mkdir(parents=True)
    for name in data.MNIST.facts.digests:
        (nowhere / "cache" / "mnist" / name).write_bytes(b"damaged")
    assert main(["data", "list"]) == 0
    assert f"here: {nowhere / 'cache' / 'mnist'}" in capsys.readouterr().out
    assert main(["data", "verify", "mnist"]) == 2
    assert "is not the train-images-idx3-ubyte of mnist, or it is damaged; remove it" in capsys.readouterr().err


def test_verify_says_what_it_checked(nowhere, capsys):
    assert main(["data", "verify", "wine"]) == 0
    assert capsys.readouterr().out == "wine from scikit-learn is complete and undamaged.\n"
    assert main(["data", "verify", "fashion-mnist"]) == 2
    assert "get it with `pellucid data get fashion-mnist`" in capsys.readouterr().err


def test_get_says_where_it_went_or_why_not(nowhere, capsys, monkeypatch):
    def got(name, *, on_step):
        on_step(0, 11_600_000)
        on_step(11_600_000, 11_600_000)
        return nowhere / name

    monkeypatch.setattr(data, "download", got)
    assert main(["data", "get", "mnist"]) == 0
    out, err = capsys.readouterr()
    assert out == f"mnist is complete in {nowhere / 'mnist'}.\n"
    assert err == "  mnist, 12 MB: done\n"

    def not_got(name, *, on_step):
        raise DataError("no home has it")

    monkeypatch.setattr(data, "download", not_got)
    assert main(["data", "get", "mnist"]) == 2
    assert capsys.readouterr().err == "pellucid: no home has it\n"


def test_ctrl_c_in_get_is_one_sentence(nowhere, capsys, monkeypatch):
    def stopped(name, *, on_step):
        on_step(1_000_000, 11_600_000)
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "download", stopped)
    assert main(["data", "get", "mnist"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "pellucid: interrupted; what has arrived is kept, and the same command goes on from there"
    )


def test_what_cannot_be_got_is_refused(nowhere, capsys):
    assert main(["data", "get", "imagenet"]) == 2
    assert "no data set 'imagenet'" in capsys.readouterr().err
    assert main(["data", "get", "iris"]) == 2
    assert "iris comes with scikit-learn" in capsys.readouterr().err
