import pytest
import torch
from torch import nn

from pellucid.core import RunError
from pellucid.training import SGD, Adam, FixedWeighting
from pellucid.training import _checkpoint as checkpoint
from pellucid.training._checkpoint import Position


def trained(settings, steps, seed=0):
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = settings.build(model.parameters())
    step(model, optimizer, steps)
    return model, optimizer


def step(model, optimizer, steps):
    for k in range(steps):
        optimizer.zero_grad()
        model(torch.full((1, 3), k + 1.0)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("settings", [Adam(lr=0.1, weight_decay=0.01), SGD(lr=0.01)])
def test_training_goes_on_as_if_nothing_had_happened(settings, tmp_path):
    model, optimizer = trained(settings, 3)
    checkpoint.save(tmp_path, Position(2, 6, 1.5), model, optimizer, FixedWeighting())
    other, fresh = trained(settings, 0, seed=1)
    assert checkpoint.restore(tmp_path, other, fresh, FixedWeighting()) == Position(2, 6, 1.5)
    step(model, optimizer, 2)
    step(other, fresh, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_only_the_last_is_kept_and_nothing_is_pickled(tmp_path):
    model, optimizer = trained(Adam(), 1)
    (tmp_path / ".epoch-00001.77").mkdir(parents=True)  # half a checkpoint of a killed process
    for epoch in (1, 2):
        checkpoint.save(tmp_path, Position(epoch, epoch, 0.0), model, optimizer, FixedWeighting())
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00002"]
    files = {path.name for path in (tmp_path / "epoch-00002").iterdir()}
    assert files == {"model.safetensors", "optimizer.safetensors", "state.json"}


def test_weights_of_named_epochs_stay_and_training_goes_on_from_the_newest(tmp_path):
    model, optimizer = trained(Adam(), 1)
    for epoch in (1, 2, 3, 4):
        step(model, optimizer, 1)
        checkpoint.save(tmp_path, Position(epoch, epoch, 0.0), model, optimizer, FixedWeighting(), keep=(1, 3, 9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00001", "epoch-00003", "epoch-00004"]
    assert {path.name for path in (tmp_path / "epoch-00001").iterdir()} == {"model.safetensors", "state.json"}
    assert checkpoint.restore(tmp_path, model, optimizer, FixedWeighting()) == Position(4, 4, 0.0)


def test_no_checkpoint_is_no_error(tmp_path):
    model, optimizer = trained(Adam(), 0)
    assert checkpoint.restore(tmp_path / "absent", model, optimizer, FixedWeighting()) is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model, optimizer = trained(Adam(), 1)
    checkpoint.save(tmp_path, Position(1, 1, 0.0), model, optimizer, FixedWeighting())
    wider = nn.Linear(4, 2)
    with pytest.raises(RunError, match="does not fit this recipe"):
        checkpoint.restore(tmp_path, wider, Adam().build(wider.parameters()), FixedWeighting())
