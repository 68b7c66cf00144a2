"""Models from a name or a file; everything that can be wrong with either is one clear sentence."""

import os
import pickle
import random
import re
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pellucid import models
from pellucid.core import ModelError, write_json, write_tensors
from pellucid.models import SHIPPED, Card, _load
from pellucid.nn.models import build

FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.second = nn.Linear(width, 2)

    def forward(self, x):
        return self.second(self.first(x))

def make_net():
    return Net()

def needs_width(width):
    return Net(width)

def broken():
    raise RuntimeError("no such layer\\nsecond line")

def not_a_model():
    return "hello"

def leave():
    raise SystemExit(1)

ready = Net()
number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def weights(tmp_path, rng):
    shapes = {"first.weight": (3, 4), "first.bias": (3,), "second.weight": (2, 3), "second.bias": (2,)}
    tensors = {name: rng.child(name).normal(shape) for name, shape in shapes.items()}
    path = tmp_path / "w.safetensors"
    write_tensors(path, tensors)
    return path, tensors


# -- a user's file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["make_net", "Net", "ready"])
def test_a_function_a_class_and_a_ready_model_all_serve(file, factory):
    loaded = models.load(f"{file}:{factory}")
    assert loaded.model(torch.zeros(5, 4)).shape == (5, 2)
    assert loaded.name == f"net.py:{factory}"
    assert loaded.card is None
    assert loaded.bounds is None


def test_weights_fill_the_model(file, weights):
    path, tensors = weights
    loaded = models.load(f"{file}:make_net@{path}")
    assert loaded.name == "net.py:make_net@w.safetensors"
    for name, tensor in loaded.model.state_dict().items():
        assert_close(tensor, tensors[name])


def test_fresh_weights_are_the_same_every_time_and_leave_no_trace(file):
    before = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    modules, path = set(sys.modules), list(sys.path)
    first = models.load(f"{file}:make_net").model
    second = models.load(f"{file}:make_net").model
    assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    after = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    assert after == before
    assert sys.path == path
    assert all(name.startswith("pellucid_user_") for name in set(sys.modules) - modules)
    assert [entry.name for entry in file.parent.iterdir()] == ["net.py"]


def test_a_file_sees_its_neighbors_and_two_files_their_own(tmp_path):
    for folder, width in (("a", 3), ("b", 5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "neighbor.py").write_text(f"from torch import nn\nmodel = nn.Linear(2, {width})\n")
        (tmp_path / folder / "net.py").write_text("def make():\n    from neighbor import model\n    return model\n")
    for folder, width in (("a", 3), ("b", 5)):
        assert models.load(f"{tmp_path / folder / 'net.py'}:make").model.out_features == width


BAD_SPECS = {
    "missing file": ("absent.py:make", "absent.py does not exist"),
    "no factory": ("net.py", "net.py lacks the factory; write .*net.py:NAME"),
    "wrong factory": ("net.py:make_nett", "net.py has no make_nett; did you mean make_net? it defines Net, make_net"),
    "far from any": ("net.py:zzz", "net.py has no zzz; it defines Net, make_net, needs_width, ... (7 in all)"),
    "raises": ("net.py:broken", "net.py:broken() raises RuntimeError: no such layer; it is called without arguments"),
    "arguments": ("net.py:needs_width", "raises TypeError: needs_width() missing 1 required positional argument"),
    "no model": ("net.py:not_a_model", "net.py:not_a_model() returns str, not a torch.nn.Module"),
    "exits": ("net.py:leave", "net.py:leave() raises SystemExit: 1"),
    "no callable": ("net.py:number", "net.py:number is int, not a function or class"),
    "missing weights": ("net.py:Net@absent.safetensors", "absent.safetensors does not exist"),
    "weights alone": ("w.safetensors", "holds no architecture; give file.py:factory@w.safetensors"),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_bad_specs_are_one_sentence(file, weights, monkeypatch, case):
    spec, message = BAD_SPECS[case]
    monkeypatch.chdir(file.parent)
    with pytest.raises(ModelError) as caught:
        models.load(spec)
    assert message in str(caught.value) or re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def make(:\n", "raises SyntaxError"),
        ("import no_such_package\n", "raises ModuleNotFoundError: No module named 'no_such_package' when run"),
        ("import sys; sys.exit(3)\n", "raises SystemExit: 3 when run"),
        ("_hidden = 1\n", "defines no function or class"),
    ],
)
def test_a_file_that_does_not_run_is_named_with_its_error(tmp_path, text, message):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        models.load(f"{path}:make")
    assert str(path) in str(caught.value)


def test_weights_are_checked_before_the_file_runs(tmp_path, weights):
    (tmp_path / "net.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').mkdir()\n")
    with pytest.raises(ModelError, match="does not exist"):
        models.load(f"{tmp_path / 'net.py'}:make@{tmp_path / 'absent.safetensors'}")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_named(tmp_path, file, weights):
    _, tensors = weights
    path = tmp_path / "other.safetensors"

    def error(changed):
        write_tensors(path, changed)
        with pytest.raises(ModelError) as caught:
            models.load(f"{file}:Net@{path}")
        return str(caught.value).removeprefix(f"{path} does not fit the model: it ")

    assert error({**tensors, "third.bias": torch.ones(1)}) == "has the unexpected third.bias"
    without = {name: tensor for name, tensor in tensors.items() if name != "first.bias"}
    assert error(without) == "lacks first.bias"
    assert error({**tensors, "first.bias": torch.ones(7)}) == "has other shapes: first.bias is (7,), not (3,)"
    many = {f"layer{i}.weight": torch.ones(1) for i in range(9)}
    assert error(many) == (
        "lacks first.weight, first.bias, second.weight, ... (4 in all) and "
        "has the unexpected layer0.weight, layer1.weight, layer2.weight, ... (9 in all)"
    )


def test_tied_weights_may_be_stored_once(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def tied():\n"
        "    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))\n"
        "    net[1].weight = net[0].weight\n"
        "    return net\n"
    )
    write_tensors(tmp_path / "w.safetensors", {"0.weight": torch.eye(3)})
    loaded = models.load(f"{tmp_path / 'net.py'}:tied@{tmp_path / 'w.safetensors'}")
    assert_close(loaded.model[1].weight.detach(), torch.eye(3))


def test_lazy_layers_take_the_shapes_of_their_weights(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\ndef lazy():\n    return nn.LazyLinear(2)\n")
    write_tensors(tmp_path / "w.safetensors", {"weight": torch.ones(2, 7), "bias": torch.zeros(2)})
    loaded = models.load(f"{tmp_path / 'net.py'}:lazy@{tmp_path / 'w.safetensors'}")
    assert loaded.model(torch.ones(1, 7)).tolist() == [[7.0, 7.0]]
    write_tensors(tmp_path / "w.safetensors", {"bias": torch.zeros(2)})
    with pytest.raises(ModelError, match="lacks weight"):
        models.load(f"{tmp_path / 'net.py'}:lazy@{tmp_path / 'w.safetensors'}")


class Bomb:
    """Runs code when unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("alone", [True, False])
def test_a_pickle_is_refused_and_its_code_does_not_run(tmp_path, file, alone):
    mark, path = tmp_path / "ran", tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ModelError, match=r"model\.pt is a pickle, which can run code when opened, and is refused"):
        models.load(str(path) if alone else f"{file}:Net@{path}")
    assert not mark.exists()


def test_a_device_that_is_not_there_is_refused(file):
    with pytest.raises(ModelError, match="device 'nonsense' cannot be used"):
        models.load(f"{file}:Net", device="nonsense")
    with pytest.raises(ModelError, match="device 'meta' cannot be used"):
        models.load(f"{file}:Net", device="meta")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device 'cuda' cannot be used"):
            models.load(f"{file}:Net", device="cuda")


# -- shipped models -----------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path, monkeypatch, rng):
    """One tiny shipped model in a folder of its own."""
    settings = {"hidden": 4, "image_size": 8, "channels": [2, 2]}
    with rng.forked():
        net = build("small-cnn", settings)
    path = tmp_path / "tiny.safetensors"
    write_tensors(path, net.state_dict())
    card = Card(
        name="tiny",
        architecture={"kind": "small-cnn", **settings},
        parameters=sum(p.numel() for p in net.parameters()),
        task="nothing",
        class_names=tuple("abcdefghij"),
        bounds=(0.0, 1.0),
        input_shape=(1, 8, 8),
        data="noise",
        license="none",
        recipe="recipes/tiny.toml",
        command="pellucid train recipes/tiny.toml",
        hardware="this machine",
        date="2026-01-01",
        seed=0,
        minutes=0.1,
        figures=(models.Figure(name="accuracy", label="clean accuracy", value=0.9, low=0.8, high=0.95, n=100),),
        sha256=_load.hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    write_json(tmp_path / "tiny.json", card)
    monkeypatch.setattr(_load, "_WEIGHTS", tmp_path)
    monkeypatch.setattr(_load, "SHIPPED", _load._read_cards(tmp_path))
    return net, path


def test_a_shipped_name_gives_the_model_with_its_card(shelf):
    net, _ = shelf
    loaded = models.load("tiny")
    assert loaded.card is not None
    assert loaded.card.figure("accuracy").value == 0.9
    assert loaded.card.figure("absent") is None
    assert (loaded.name, loaded.bounds, loaded.input_shape) == ("tiny", (0.0, 1.0), (1, 8, 8))
    assert_close(loaded.model.state_dict(), net.state_dict(), rtol=0, atol=0)


def test_changed_weights_are_refused(shelf):
    net, path = shelf
    write_tensors(path, {name: tensor + 1 for name, tensor in net.state_dict().items()})
    with pytest.raises(ModelError, match=r"is not the file its card describes \(SHA-256 differs\)"):
        models.load("tiny")


def test_unknown_names_get_the_nearest_and_the_list(shelf):
    with pytest.raises(ModelError, match=r"did you mean tiny\? give one of tiny, or file\.py"):
        models.load("tinny")
    with pytest.raises(ModelError, match=r"there is no model 'resnet'; give one of tiny, or"):
        models.load("resnet")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_model_is_what_its_card_says(name):
    card = SHIPPED[name]
    loaded = models.load(name)
    assert card.name == name
    assert sum(p.numel() for p in loaded.model.parameters()) == card.parameters
    kind = torch.float32 if loaded.tokenizer is None else torch.int64
    answer = loaded.model.eval()(torch.zeros(2, *card.input_shape, dtype=kind))
    assert answer.shape == (2, len(card.class_names))
    assert (_load._WEIGHTS / f"{name}.safetensors").stat().st_size <= 2_000_000
    for figure in card.figures:
        assert figure.value is not None
        assert figure.n > 0


def test_a_training_is_loaded_from_its_folder_and_from_its_export(tmp_path):
    from pellucid.training import Recipe, train

    recipe = Recipe.parse(
        {
            "name": "bars",
            "epochs": 1,
            "batch_size": 16,
            "model": {"kind": "small-cnn", "image_size": 8, "channels": [2, 3], "hidden": 4, "classes": 3},
            "data": {"kind": "synthetic-images", "n": 16, "classes": 3, "size": 8},
        }
    )
    run = train(recipe, tmp_path / "run")
    kept = run.export(tmp_path / "kept.safetensors")
    for spec in (tmp_path / "run", kept):
        loaded = models.load(str(spec))
        assert loaded.name == "bars"
        assert loaded.input_shape == (1, 8, 8)
        assert torch.equal(loaded.model.fc2.weight, run.model.fc2.weight)
    kept.write_bytes((tmp_path / "run" / "checkpoints" / "epoch-00001" / "optimizer.safetensors").read_bytes())
    with pytest.raises(ModelError, match="not the file its card describes"):
        models.load(str(kept))


# -- modules ------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package `nets_for_test` with the same factories as the file."""
    folder = tmp_path / "site" / "nets_for_test"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "small.py").write_text(FILE + "\nclass Box:\n    make = staticmethod(make_net)\n")
    (folder / "broken.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "nets_for_test"]:
        del sys.modules[name]


@pytest.mark.parametrize("factory", ["make_net", "Net", "ready", "Box.make"])
def test_a_module_is_imported_as_python_does(package, factory, weights):
    loaded = models.load(f"nets_for_test.small:{factory}")
    assert loaded.name == f"nets_for_test.small:{factory}"
    assert loaded.model(torch.zeros(5, 4)).shape == (5, 2)
    filled = models.load(f"nets_for_test.small:{factory}@{weights[0]}")
    assert_close(filled.model.state_dict(), weights[1])


def test_a_module_in_the_working_folder_is_found_but_hides_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_for_test.py").write_text(FILE)
    (tmp_path / "json.py").write_text("raise RuntimeError('hides the library')")
    before = list(sys.path)
    try:
        assert models.load("mine_for_test:make_net").name == "mine_for_test:make_net"
        with pytest.raises(ModelError, match="json has no make; it defines"):
            models.load("json:make")
    finally:
        sys.modules.pop("mine_for_test", None)
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_package.nets:make", "there is no module no_such_package; install it, .* or give a file"),
        ("nets_for_test.gone:make", r"there is no module nets_for_test\.gone; install it"),
        ("nets_for_test.broken:make", r"importing nets_for_test\.broken raises ModuleNotFoundError: No module named"),
        ("nets_for_test.small:make_ne", r"nets_for_test\.small has no make_ne; did you mean make_net\? it defines"),
        ("nets_for_test.small:broken", "raises RuntimeError: no such layer; it is called without arguments"),
    ],
)
def test_modules_that_do_not_serve_are_one_sentence(package, spec, message):
    with pytest.raises(ModelError, match=message):
        models.load(spec)


@pytest.mark.parametrize(
    ("spec", "file", "factory", "weights"),
    [
        (r"C:\nets\my.py:make", r"C:\nets\my.py", "make", None),
        (r"C:\nets\my.py:make@D:\w.pt", r"C:\nets\my.py", "make", r"D:\w.pt"),
        ("/home/me@work/my.py:make@w.safetensors", "/home/me@work/my.py", "make", "w.safetensors"),
    ],
)
def test_drive_letters_and_signs_in_folders_are_no_modules(spec, file, factory, weights):
    match = _load._FILE.fullmatch(spec)
    assert match is not None
    assert (match["file"], match["factory"], match["weights"]) == (file, factory, weights)
    assert _load._MODULE.fullmatch(r"C:\nets\my.py") is None


def test_a_factory_may_return_facts_estimators_and_functions(tmp_path):
    (tmp_path / "kinds.py").write_text(
        "import numpy as np\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "from torch import nn\n"
        "from pellucid.models import Loaded\n"
        "def facts(): return Loaded(nn.Linear(4, 2), 'mine', class_names=('a', 'b'), input_shape=(4,))\n"
        "def estimator(): return LogisticRegression().fit(np.eye(4), [0, 1, 0, 1])\n"
        "def function(): return lambda x: x[:, :2]\n"
        "ready = facts()\n"
    )
    for factory in ("facts", "ready"):
        loaded = models.load(f"{tmp_path / 'kinds.py'}:{factory}")
        assert (loaded.name, loaded.class_names, loaded.input_shape) == ("mine", ("a", "b"), (4,))
    for factory in ("estimator", "function"):
        loaded = models.load(f"{tmp_path / 'kinds.py'}:{factory}")
        assert loaded.name == f"kinds.py:{factory}"
        assert loaded.model(torch.zeros(3, 4)).shape == (3, 2)


# -- state dicts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_a_pickled_state_dict_is_read_as_weights_alone(tmp_path, file, weights, suffix, legacy):
    path = tmp_path / f"w{suffix}"
    torch.save(weights[1], path, _use_new_zipfile_serialization=not legacy)
    loaded = models.load(f"{file}:Net@{path}")
    assert_close(loaded.model.state_dict(), weights[1])
    assert loaded.notes == ()


def test_what_a_training_wrapped_around_the_weights_is_taken_off_and_said(tmp_path, file, weights):
    wrapped = {f"module._orig_mod.{name}": value for name, value in weights[1].items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {"lr": 0.1}}, tmp_path / "c.pt")
    loaded = models.load(f"{file}:Net@{tmp_path / 'c.pt'}")
    assert_close(loaded.model.state_dict(), weights[1])
    assert loaded.notes == (
        "The weights are the entry 'state_dict' of c.pt; beside it the file has epoch, optimizer.",
        "The prefix 'module._orig_mod.' of all weights in c.pt was taken off.",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict; it holds list; save"),
        ({"epoch": 1}, "holds no state dict; it holds epoch; save"),
        ({"a": torch.zeros(2)}, "does not fit the model"),
        ({}, "holds no state dict"),
    ],
)
def test_files_without_weights_are_one_sentence(tmp_path, file, content, message):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ModelError, match=message):
        models.load(f"{file}:Net@{tmp_path / 'c.pt'}")


def test_whole_models_gadgets_and_scripts_are_refused(tmp_path, file):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(
        ModelError, match=r"is refused: it holds more than weights \(torch\.nn\.modules\.linear\.Linear\)"
    ):
        models.load(f"{file}:Net@{tmp_path / 'whole.pt'}")
    torch.save({"state_dict": {"a": torch.zeros(1)}, "more": Bomb(tmp_path / "ran")}, tmp_path / "gadget.pt")
    with pytest.raises(ModelError, match=r"is refused: it holds more than weights \(.*mkdir\)"):
        models.load(f"{file}:Net@{tmp_path / 'gadget.pt'}")
    assert not (tmp_path / "ran").exists()
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        archive.writestr("net/code/__torch__.py", "", zipfile.ZIP_DEFLATED)  # as torch.jit.save packs its code
    with pytest.raises(ModelError, match="is a TorchScript program, which can run code when opened, and is refused"):
        models.load(f"{file}:Net@{tmp_path / 'script.pt'}")


@pytest.mark.parametrize("cut", [30, -30])
def test_truncated_state_dicts_are_one_sentence(tmp_path, file, weights, cut):
    torch.save(weights[1], tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"w\.pt is no state dict but .*, or is damaged; copy it again") as caught:
        models.load(f"{file}:Net@{tmp_path / 'w.pt'}")
    assert "\n" not in str(caught.value)


def test_a_model_without_numbers_is_one_sentence(tmp_path):
    path = tmp_path / "hollow.py"
    path.write_text("import torch\ndef make():\n    return torch.nn.Linear(2, 2, device='meta')\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"hollow\.py:make is on the meta device, which holds no numbers"):
        models.load(f"{path}:make")
