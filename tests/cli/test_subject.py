"""The options that audit, check and explain share: read, applied, and said again."""

import numpy as np
import pytest
import torch

from pellucid.cli._subject import Drawing, Reading, load_model, make_subject, options_text, portable, slug
from pellucid.core import DataError, ModelError
from pellucid.models import Normalized


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Pair(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))\n"
        "    def forward(self, x):\n"
        "        return {'aux': self.body(x) * 0, 'out': self.body(x)}\n"
        "def make(): return Pair().body\n"
    )
    images = np.random.default_rng(0).random((30, 1, 9, 7)).astype(np.float32)
    np.savez(tmp_path / "d.npz", inputs=images, labels=np.arange(30) % 3)
    (tmp_path / "names.txt").write_text("cat\ndog\nbird\n")
    return tmp_path


def test_options_reach_the_subject(place):
    reading = Reading(output="out", classes=place / "names.txt", input_size="3x4x4", mean="0.5", std="0.25")
    subject = make_subject("net.py:Pair", "d.npz", reading, Drawing(samples=9, seed=2))
    assert subject.inputs.shape == (9, 3, 4, 4)
    assert subject.class_names == ("cat", "dog", "bird")
    assert subject.name == "net.py:Pair"
    by_place = make_subject("net.py:Pair", "d.npz", Reading(output="1", input_size="3x4x4"), Drawing(samples=9))
    assert by_place.n_classes == 3


def test_a_scale_is_wrapped_around_the_model(place):
    loaded = load_model("net.py:make", Reading(mean="0.1,0.2,0.3", std="1,2,4"))
    assert isinstance(loaded.model, Normalized)
    assert loaded.model.std.tolist() == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("reading", "drawing", "message"),
    [
        (Reading(mean="0.5"), Drawing(), "--mean and --std go together"),
        (Reading(mean="half", std="1"), Drawing(), "--mean must be numbers separated by commas"),
        (Reading(input_size="224"), Drawing(), "--input-size must be channels x height x width"),
        (Reading(input_size="3x0x2"), Drawing(), "--input-size must be channels x height x width"),
        (Reading(), Drawing(samples=0), "--samples must be at least 1, got 0"),
    ],
)
def test_unfit_options_are_one_sentence(place, reading, drawing, message):
    with pytest.raises((DataError, ModelError), match=message):
        make_subject("net.py:make", "d.npz", reading, drawing)


def test_the_options_are_said_again_as_they_are_typed(tmp_path):
    assert options_text(Reading(device="cuda"), Drawing()) == []
    words = options_text(
        Reading(output="out", trust=True, surrogate=(f"{tmp_path / 'a.py'}:make", "b")),
        Drawing(samples=20, label="y z"),
    )
    assert words == [
        "--samples 20",
        "--label 'y z'",
        "--output out",
        "--trust",
        "--surrogate a.py:make",
        "--surrogate b",
    ]


def test_specs_become_portable_and_names_of_folders(tmp_path):
    assert portable(f"{tmp_path / 'net.py'}:make@{tmp_path / 'w.pt'}") == "net.py:make@w.pt"
    assert portable("hf:vit") == "hf:vit"
    assert slug("nets/my.py:make@w.safetensors") == "my-make"
    assert slug("timm:resnet18@pretrained") == "timm-resnet18"


def test_probabilities_are_noted(place):
    (place / "soft.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(63, 3), nn.Softmax(1))\n"
    )
    subject = make_subject("soft.py:make", "d.npz", Reading(), Drawing(samples=9))
    assert any("answers with probabilities" in note for note in subject.notes)
    assert torch.isfinite(subject.logits()).all()
