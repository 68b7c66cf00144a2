"""What stands beside an order spectrum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pellucid import models
from pellucid.audits import PROBES
from pellucid.audits.probes._order_exhibits import omega_curves
from pellucid.core import Stream, Subject
from pellucid.games import order_weights
from pellucid.training import Recipe, train


@pytest.fixture
def subject(rng):
    with rng.child("weights").forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    x = rng.child("x").uniform((4, 1, 8, 8))
    objective = {
        "kind": "interaction-order", "low": 0.5, "high": 1.0, "mode": "penalize", "grid": [4, 5],
        "also": [{"low": 0.0, "high": 0.3, "mode": "encourage"}],
    }  # fmt: skip
    return Subject(model, x, torch.arange(4) % 3, objective=objective)


def test_the_finding_shows_omega_theory_and_the_strongest_pairs(subject):
    finding, *_ = PROBES["bottleneck"](subject, 50_000, Stream(0))
    by_title = {exhibit.title: exhibit for exhibit in finding.exhibits}
    omega = by_title["Orders that the training's order loss weighs"]
    assert [line.name for line in omega.lines] == ["penalize 0.5 to 1", "encourage 0 to 0.3"]
    expected = order_weights(20, 0.5, 1.0)
    assert omega.lines[0].y == pytest.approx((expected / expected.max()).tolist())
    assert "on 20 parts" in omega.caption
    assert "starts at no part also holds what parts add alone" in omega.caption
    compared = by_title["Measured curve and theory"]
    measured, theory, *_ = compared.lines
    assert (compared.y.scale, theory.name) == ("log", "theory for 64 parts")
    assert theory.y[0] == measured.y[0] == 1
    assert None in theory.y  # too small to draw
    assert "Values below 1e-06 are not drawn: the theory falls to 7e-10" in compared.caption
    gallery = by_title["Pairs that interact most on one image"]
    assert [picture.title.split(" ")[0] for picture in gallery.pictures] == ["0%", "50%", "100%"]
    assert all("of the others present, noise " in picture.title for picture in gallery.pictures)
    assert all(len(mark.cells) == 2 for picture in gallery.pictures for mark in picture.marks)


def test_without_an_order_loss_there_is_no_omega(subject):
    plain = Subject(subject.model, subject.inputs, subject.labels, objective={"kind": "standard"})
    assert omega_curves(plain) == ()


def test_a_training_tells_its_subject_how_it_was_trained(tmp_path):
    recipe = Recipe.parse(
        {
            "name": "bars",
            "epochs": 1,
            "batch_size": 16,
            "model": {"kind": "small-cnn", "image_size": 8, "channels": [2, 3], "hidden": 4, "classes": 2},
            "data": {"kind": "synthetic-images", "n": 32, "classes": 2, "size": 8},
            "objective": {"kind": "interaction-order", "low": 0.0, "high": 0.5, "grid": 4},
        }
    )
    run = train(recipe, tmp_path / "run")
    assert run.subject("test", 4).objective["kind"] == "interaction-order"
    again = models.load(str(tmp_path / "run"))
    assert again.card is not None
    assert again.card.objective["high"] == 0.5
