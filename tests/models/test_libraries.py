"""timm, torchvision and transformers, by stand-in modules of the same names; for real where they are installed."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import pellucid
from pellucid import models
from pellucid.core import MissingExtra, ModelError, write_tensors
from pellucid.models import Normalized


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x.mean((2, 3)))


def put(monkeypatch, name, **members):
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"linear.weight": torch.ones(2, 3), "linear.bias": torch.zeros(2)})
    return path


@pytest.fixture
def timm(monkeypatch):
    """A stand-in that says what it was asked."""
    asked = []

    def create_model(name, *, pretrained):
        asked.append((name, pretrained))
        net = Net()
        net.pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        return net

    class ImageNetInfo:
        def __init__(self, subset):
            self.subset = subset

        def num_classes(self):
            return 2

        def index_to_description(self, index):
            return ("crane", "crane")[index]

    data = put(monkeypatch, "timm.data", ImageNetInfo=ImageNetInfo, infer_imagenet_subset=lambda net: "imagenet-1k")
    put(
        monkeypatch,
        "timm",
        create_model=create_model,
        is_model=lambda name: name == "resnet",
        list_models=lambda: ["resnet"],
        data=data,
    )
    return asked


def test_timm_tells_size_scale_and_class_names(timm):
    loaded = models.load("timm:resnet@pretrained")
    assert timm == [("resnet", True)]
    assert loaded.name == "timm:resnet@pretrained"
    assert loaded.input_shape == (3, 8, 8)
    assert loaded.class_names == ("crane (0)", "crane (1)")
    assert isinstance(loaded.model, Normalized)
    assert_close(loaded.model.mean, torch.full((3,), 0.5))


def test_weights_of_ones_own_go_into_the_network(timm, weights):
    loaded = models.load(f"timm:resnet@{weights}")
    assert timm == [("resnet", False)]
    assert loaded.name == "timm:resnet@w.safetensors"
    assert loaded.class_names == ()  # other weights may tell other classes apart
    assert_close(loaded.model(torch.full((1, 3, 4, 4), 0.5)), torch.zeros(1, 2))
    assert_close(loaded.model(torch.ones(1, 3, 4, 4)), torch.full((1, 2), 6.0))


def test_nothing_is_downloaded_unasked(timm):
    with pytest.raises(ModelError, match=r"has no trained weights by itself; give .*@pretrained to let timm take"):
        models.load("timm:resnet")
    assert timm == []


def test_unknown_networks_get_the_nearest(timm):
    with pytest.raises(ModelError, match="timm has no model 'resnt'; did you mean resnet"):
        models.load("timm:resnt@pretrained")


def test_trouble_of_the_library_is_one_sentence(timm, monkeypatch):
    def broken(name, pretrained):
        raise OSError("no network\nmore")

    monkeypatch.setattr(sys.modules["timm"], "create_model", broken)
    with pytest.raises(ModelError, match=r"timm:resnet cannot be made: OSError: no network$"):
        models.load("timm:resnet@pretrained")


@pytest.fixture
def torchvision(monkeypatch):
    asked = []

    class Weights:
        meta = {"categories": ["cat", "dog"]}  # noqa: RUF012 - as torchvision has it

        @staticmethod
        def transforms():
            return SimpleNamespace(crop_size=[8], mean=[0.5] * 3, std=[0.25] * 3)

    class Enum:
        __members__ = {"V1": Weights, "DEFAULT": Weights}  # noqa: RUF012
        DEFAULT = Weights

        def __class_getitem__(cls, name):
            return cls.__members__[name]

    def get_model(name, *, weights):
        asked.append((name, weights))
        return Net()

    inner = put(
        monkeypatch,
        "torchvision.models",
        get_model=get_model,
        get_model_weights=lambda name: Enum,
        list_models=lambda: ["resnet18"],
    )
    put(monkeypatch, "torchvision", models=inner)
    return asked, Weights


@pytest.mark.parametrize("which", ["pretrained", "V1"])
def test_torchvision_tells_size_scale_and_class_names(torchvision, which):
    loaded = models.load(f"torchvision:resnet18@{which}")
    assert torchvision[0] == [("resnet18", torchvision[1])]
    assert loaded.input_shape == (3, 8, 8)
    assert loaded.class_names == ("cat", "dog")
    assert isinstance(loaded.model, Normalized)


def test_torchvision_with_weights_of_ones_own_is_scaled_alike(torchvision, weights):
    loaded = models.load(f"torchvision:resnet18@{weights}")
    assert torchvision[0] == [("resnet18", None)]
    assert loaded.class_names == ()
    assert_close(loaded.model(torch.full((1, 3, 4, 4), 0.5)), torch.zeros(1, 2))


def test_unknown_torchvision_models_get_the_nearest(torchvision):
    with pytest.raises(ModelError, match="torchvision has no model 'resnet81'; did you mean resnet18"):
        models.load("torchvision:resnet81@V1")


# -- transformers -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in Hugging Face's layout and a stand-in that says what it was asked."""
    asked = []

    class Auto:
        @staticmethod
        def from_pretrained(path, **settings):
            asked.append(settings)
            return Net()

    put(monkeypatch, "transformers", AutoModelForImageClassification=Auto)
    place = tmp_path / "cats"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}, "image_size": 16}))
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 8, "width": 8}}
    (place / "preprocessor_config.json").write_text(json.dumps(processor))
    return place, asked


def test_a_folder_tells_size_scale_and_class_names_and_runs_no_code(folder):
    loaded = models.load(f"hf:{folder[0]}")
    assert folder[1] == [{"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}]
    assert loaded.name == "hf:cats"
    assert loaded.input_shape == (3, 8, 8)
    assert loaded.class_names == ("cat", "dog")
    assert_close(loaded.model.std, torch.full((3,), 0.25))


@pytest.mark.parametrize(
    ("processor", "shape", "mean"),
    [
        ({"size": {"shortest_edge": 12}, "crop_size": {"height": 8, "width": 8}}, (3, 8, 8), None),
        ({"size": 12, "do_center_crop": False, "crop_size": 8}, (3, 12, 12), None),
        ({}, (3, 16, 16), None),
        ({"image_mean": [0.5], "image_std": [0.5], "rescale_factor": 1 / 127.5}, (3, 16, 16), 0.25),
        ({"image_mean": [0.5], "image_std": [0.5], "do_normalize": False}, (3, 16, 16), None),
    ],
)
def test_sizes_and_scales_are_read_in_the_ways_they_are_written(folder, processor, shape, mean):
    (folder[0] / "preprocessor_config.json").write_text(json.dumps(processor))
    loaded = models.load(f"hf:{folder[0]}")
    assert loaded.input_shape == shape
    if mean is None:
        assert not isinstance(loaded.model, Normalized)
    else:
        assert float(loaded.model.mean) == pytest.approx(mean)


def test_folders_that_bring_code_are_missing_or_incomplete_are_refused(folder, tmp_path):
    with pytest.raises(ModelError, match="must be a folder on this machine"):
        models.load("hf:google/vit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json; give a folder that save_pretrained wrote"):
        models.load(f"hf:{tmp_path / 'empty'}")
    (folder[0] / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil.Net"}}))
    with pytest.raises(ModelError, match=r"needs Python code of its own .* which is never run"):
        models.load(f"hf:{folder[0]}")
    assert folder[1] == []


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [
        ("timm:resnet@pretrained", "timm", "timm"),
        ("torchvision:resnet18@pretrained", "torchvision", "torchvision"),
        ("hf:{}", "transformers", "hf"),
    ],
)
def test_a_library_that_is_absent_is_named_with_the_install_line(monkeypatch, tmp_path, spec, package, extra):
    for name in (package, f"{package}.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"{package} is not installed; pip install 'pellucid\[{extra}\]'"):
        models.load(spec.format(tmp_path))


# -- for real, where installed ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_transformers(tmp_path, rng):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    config.id2label = {0: "cat", 1: "dog", 2: "bird"}
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    loaded = models.load(f"hf:{tmp_path / 'vit'}")
    x = rng.uniform((12, 3, 16, 16))
    assert loaded.input_shape == (3, 16, 16)
    assert loaded.class_names == ("cat", "dog", "bird")
    subject = pellucid.subject(loaded, (x, torch.arange(12) % 3))  # finds `.logits` itself
    with torch.no_grad():
        assert_close(subject.logits(), network(pixel_values=(x - 0.5) / 0.5).logits, atol=1e-5, rtol=1e-4)
    assert subject.differentiable


@pytest.mark.slow
def test_real_timm(rng):
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_vit", pretrained=False)
    size = network.pretrained_cfg["input_size"]
    loaded, inner = models._libraries.from_timm("test_vit", None, torch.device("cpu"))
    assert loaded.input_shape == size
    assert loaded.model.eval()(rng.uniform((2, *size))).shape == (2, inner.num_classes)


@pytest.mark.slow
def test_real_torchvision(rng):
    pytest.importorskip("torchvision")
    loaded, _ = models._libraries.from_torchvision("squeezenet1_1", None, torch.device("cpu"))
    assert loaded.input_shape == (3, 224, 224)
    assert loaded.model.eval()(rng.uniform((1, 3, 224, 224))).shape == (1, 1000)
