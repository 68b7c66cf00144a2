import pytest
import torch
from torch.testing import assert_close

from pellucid.core import ModelError, Stream
from pellucid.nn import Hamburger, OneStep, Unrolled
from pellucid.nn.models import MODELS, ContextCNN, ContextCNNSettings, build
from pellucid.training import Recipe

KINDS = ("none", "attention", "nmf", "vq", "cd")


@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_have_as_many_weights(kind, rng):
    model = build("context-cnn", {"context": kind}).eval()
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == (36_826 if kind == "attention" else 36_802)
    x = rng.uniform((3, 1, 28, 28))
    assert_close(model(x)[1:2], model(x[1:2]), atol=1e-5, rtol=1e-5)


def test_settings_reach_the_layer():
    settings = {"channels": 32, "context": "cd", "rank": 5, "steps": 2, "gradient": "unrolled", "image_size": 8}
    model = build("context-cnn", settings)
    assert isinstance(model, ContextCNN)
    assert isinstance(model.context, Hamburger)
    ham = model.context.ham
    assert (ham.kind, ham.rank, ham.steps, ham.backward) == ("cd", 5, 2, Unrolled())
    assert ContextCNNSettings().build().context.ham.backward == OneStep()
    assert isinstance(MODELS["context-cnn"](), ContextCNNSettings)
    with pytest.raises(ModelError, match=r"Invalid enum value 'pca' - at `\$\.context`"):
        build("context-cnn", {"context": "pca"})


def test_training_draws_start_atoms_and_reloading_gives_the_same_answers():
    model = ContextCNN()
    x = Stream(0).uniform((2, 1, 28, 28))
    other = ContextCNN()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))
    with Stream(1).forked():
        assert not torch.equal(model.train()(x), model(x))


def test_the_shipped_recipe():
    recipe = Recipe.load("hamburger-fashion-mnist", overrides=("model.context=attention",))
    assert recipe.model == ContextCNNSettings(context="attention")
