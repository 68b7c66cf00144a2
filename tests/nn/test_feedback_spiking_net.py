"""The feedback spiking networks that recipes name: the paper's sizes, images and events, saving and loading."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from pellucid.nn import Implicit, Neumann, OneStep, Surrogate
from pellucid.nn.models import FeedbackSpikingNet, FeedbackSpikingSettings, build
from pellucid.training import Recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TINY: dict[str, Any] = {"image_size": 8, "channels": (3,), "kernel": 3, "time_steps": 4}
PICTURES = {"in_channels": 3, "image_size": 32, "kernel": 3, "strides": (2, 1, 2, 1, 1)}


@pytest.mark.parametrize(
    ("settings", "published"),
    [
        ({}, 229_642),
        ({"channels": (400,), "kernel": 0}, 478_810),
        ({"in_channels": 2, "image_size": 34, "events": True}, 290_762),
        ({**PICTURES, "channels": (96, 256, 384, 384, 256)}, 3_709_514),
    ],
    ids=["MNIST", "Fashion-MNIST", "N-MNIST", "AlexNet-F"],
)
def test_sizes_are_the_papers_and_the_scale_of_the_feedback(settings: dict[str, Any], published: int) -> None:
    model = FeedbackSpikingSettings(**settings).build()
    assert sum(p.numel() for p in model.parameters()) == published + 1


def test_recipe_of_cifarnet_has_the_papers_layers() -> None:
    settings = Recipe.load(RECIPES / "spiking-cifarnet-cifar10-full.toml").model
    assert isinstance(settings, FeedbackSpikingSettings)
    widths = (3, *settings.channels)
    maps = sum(9 * before * after + 3 * after for before, after in itertools.pairwise(widths))
    feedback = 9 * widths[-1] * widths[1] + 1
    assert maps + feedback + widths[-1] * settings.sizes[-1] ** 2 * 10 + 10 == 11_840_011


@pytest.mark.parametrize("path", sorted(RECIPES.glob("spiking-*.toml")), ids=lambda path: path.stem)
def test_recipes_load(path: Path) -> None:
    assert isinstance(Recipe.load(path).model, FeedbackSpikingSettings)


def test_rows_start_with_length_one() -> None:
    torch.manual_seed(0)
    model = FeedbackSpikingSettings(**PICTURES | {"channels": (4, 5, 6, 7, 8), "image_size": 16}).build()
    for map in (model.hidden.input_map[0], model.hidden.layers[2][0], model.classifier):
        torch.testing.assert_close(map.weight.flatten(1).norm(dim=1), torch.ones(len(map.weight)))
        assert not map.bias.any()


@pytest.mark.parametrize(
    ("gradient", "kind"),
    [("exact", Implicit), ("neumann", Neumann), ("one-step", OneStep), ("through-time", Surrogate)],
)
def test_gradients_by_name(gradient: str, kind: type) -> None:
    torch.manual_seed(0)
    model = build("feedback-spiking", {**TINY, "gradient": gradient})
    assert isinstance(model, FeedbackSpikingNet)
    assert isinstance(model.hidden.backward, kind)
    model(4 * torch.rand(3, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_frames_of_events_are_taken_apart_in_their_order() -> None:
    torch.manual_seed(0)
    model = FeedbackSpikingSettings(**TINY, in_channels=2, events=True).build().eval()
    x = (torch.rand(3, 8, 8, 8) > 0.6).float()
    frames = x.view(3, 4, 2, 8, 8).transpose(0, 1)
    expected = model.classifier(model.hidden(frames, layout="time-first").flatten(1))
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(ValueError, match="time_steps is 4 but x has 3 frames"):
        model(x[:, :6])


def test_one_and_many_populations_learn_and_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = FeedbackSpikingSettings(**TINY | {"channels": (3, 4), "strides": (1, 2)})
    model = settings.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.rand(32, 1, 8, 8), torch.arange(32) % 10
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    again = settings.build()
    again.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), again.eval()(x))


def test_bad_settings_are_refused() -> None:
    for settings, words in (
        ({"kernel": 4}, "kernel must be odd, or 0 for full connections, got 4"),
        ({"channels": [4, 4]}, "strides has 1 numbers but there are 2 populations"),
        ({"mean": [0.1, 0.2]}, "mean has 2 numbers but images have 1 channels"),
        ({"channels": [4, 4], "strides": [2, 2], "image_size": 30}, "the feedback, which enlarges 2 times, needs"),
        ({"leak": 1.0}, "Expected `float` < 1"),
    ):
        with pytest.raises(msgspec.ValidationError, match=words):
            msgspec.convert({"kind": "feedback-spiking", **settings}, FeedbackSpikingSettings)
