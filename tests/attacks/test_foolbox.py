"""The same attack by another library: ours must not leave more samples standing (foolbox 3, Linf and L2 PGD)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pellucid.attacks import L2, PGD, Linf
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
