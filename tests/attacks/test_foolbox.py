"""The same attack by another library: ours must not leave more samples standing (foolbox 3, Linf and L2 PGD)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pellucid.attacks import L2, PGD, GridSearch, Linf, RotateTranslate
from pellucid.core import Space, Stream

pytestmark = pytest.mark.peers


@pytest.mark.filterwarnings("ignore")  # foolbox's own imports
@pytest.mark.parametrize(("space", "name"), [(Linf(0.04), "LinfPGD"), (L2(0.25), "L2PGD")])
def test_robust_accuracy_is_not_above_that_of_foolbox(task: Any, space: Space, name: str, rng: Stream) -> None:
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(task.model, bounds=(0, 1), device="cpu")
    theirs = getattr(foolbox.attacks, name)(rel_stepsize=2.5 / 20, steps=20)
    with rng.forked():
        _, _, fooled = theirs(model, task.x, task.y, epsilons=space.eps)  # type: ignore[attr-defined]
    ours = PGD(space)(task.model, task.x, task.y, rng=rng).success
    n = len(task.x)
    assert 0.1 * n < int(fooled.sum()) < 0.9 * n
    # Both draw their own start: allow two samples of 200.
    assert int(ours.sum()) >= int(fooled.sum()) - 2
    assert torch.equal(ours, PGD(space)(task.model, task.x, task.y, rng=rng).success)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("degrees", "pixels"), [(5, 0.1), (10, 0.2)])
def test_no_sample_withstands_our_grid_that_a_grid_of_foolbox_fools(
    task: Any, degrees: float, pixels: float, rng: Stream
) -> None:
    """It shifts before it turns, by (n - 1) / n of the pixels; at its own candidates both find the same."""
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(task.model, bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.SpatialAttack(pixels, degrees, num_translations=3, num_rotations=9)
    _, _, fooled = theirs(model, task.x, task.y)
    side = task.x.shape[-1]
    same = RotateTranslate(degrees, pixels * (side - 1) / side, first="shift")
    assert torch.equal(GridSearch(same, grid=(9, 3, 3))(task.model, task.x, task.y, rng=rng).success, fooled)
    ours = GridSearch(RotateTranslate(degrees, pixels), grid=(9, 3, 3))(task.model, task.x, task.y, rng=rng).success
    n = len(task.x)
    assert 0.05 * n < int(fooled.sum()) < 0.99 * n
    assert not (fooled & ~ours).any()
