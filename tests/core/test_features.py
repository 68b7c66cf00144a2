"""Features of inner layers and of the last linear classifier, for any network and without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from pellucid.core import (
    PENULTIMATE,
    DataError,
    FeatureReader,
    ModelError,
    Subject,
    called_layers,
    features,
    last_linear,
    layers,
    reduced,
    watching,
)


class Shared(nn.Module):
    """Calls one ReLU twice, and overwrites what the normalization gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act, self.second = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x))
        F.relu_(h)
        return self.second(self.act(self.act(h) - 0.5))


class Tokens(nn.Module):
    """Answers at each token and gives the last one's, as language models that classify do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.score = nn.Embedding(7, 5), nn.Linear(5, 3, bias=False)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.score(self.embed(ids).cumsum(1))[:, -1]}


class Fixed(nn.Module):
    """A head with given directions, as a simplex ETF head has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("prototypes", torch.eye(4)[:, :3] - 1 / 3)

    def features(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return 16 * self.features(x) @ self.prototypes


def test_names_leave_out_what_is_never_called() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)]), "last": nn.ReLU()})
    assert layers(model) == ("blocks.0", "last")


def test_called_layers_come_in_the_order_of_the_forward_pass() -> None:
    found = called_layers(Shared(), torch.rand(5, 3))
    assert [(layer.name, layer.kind, layer.shape, layer.calls) for layer in found] == [
        ("first", "Linear", (4,), 1), ("norm", "BatchNorm1d", (4,), 1), ("act", "ReLU", (4,), 2),
        ("second", "Linear", (2,), 1),
    ]  # fmt: skip


def test_each_call_of_a_shared_layer_has_its_record_and_overwriting_does_not_change_it() -> None:
    model, x = Shared(), torch.rand(5, 3)
    model.norm.bias.data -= 0.3
    seen = features(model, x, ("norm", "act"), batch_size=2)
    model.eval()
    with torch.no_grad():
        norm = model.norm(model.first(x))
    assert set(seen) == {"norm", "act", "act (call 2)"}
    assert bool((norm < 0).any())
    assert_close(seen["norm"], norm)
    assert_close(seen["act (call 2)"], F.relu(F.relu(norm) - 0.5))


def test_nothing_is_left_behind_also_after_an_exception() -> None:
    model, x = Shared().train(), torch.rand(5, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    read = FeatureReader(model, ("act", PENULTIMATE), example=x)
    for _ in read.batches(x, batch_size=2):
        assert model.training
        assert all(not module._forward_hooks for module in model.modules())
        break
    with pytest.raises(RuntimeError):
        read(torch.zeros(5, 9))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_watching_keeps_the_mode_and_the_graph() -> None:
    model, heard = Shared().train(), []
    with watching(model, ("act",), lambda call, h: heard.append((call.name, h))):
        for _ in range(2):
            model(torch.rand(5, 3))
    assert [name for name, _ in heard] == 2 * ["act", "act (call 2)"]
    assert model.training
    assert heard[0][1].requires_grad


@pytest.mark.parametrize("wrap", ["plain", "temperature", "softmax", "one logit", "sigmoid", "part"])
def test_the_last_linear_layer_is_found_through_what_reads_it(wrap: str) -> None:
    linear = nn.Linear(4, 1 if wrap in ("one logit", "sigmoid") else 3)
    body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), linear)
    model: nn.Module = body
    if wrap == "softmax":
        model = nn.Sequential(body, nn.Softmax(1))
    if wrap == "sigmoid":
        model = nn.Sequential(body, nn.Sigmoid())
    if wrap == "temperature":
        model = nn.Sequential(body, nn.LogSoftmax(1))
    x = torch.randn(64, 3)
    subject = Subject(model, x, bounds=None, modality="tabular")
    found = last_linear(subject.model, x)
    assert found is not None
    h = features(subject.model, x)[PENULTIMATE]
    assert_close(h, body[:2](x).detach())
    z = h @ found.weight.T + found.bias
    logits = subject.logits()
    assert_close(z - z[:, :1], logits - logits[:, :1], atol=1e-4, rtol=1e-4)


def test_a_classifier_that_answers_at_each_token_gives_the_token_that_counts() -> None:
    model, ids = Tokens(), torch.randint(7, (6, 4))
    h = features(model, ids, batch_size=4)[PENULTIMATE]
    assert_close(h, model.embed(ids).sum(1).detach())
    assert last_linear(model, ids).layer == "score"


def test_a_fixed_head_gives_its_own_features_and_directions() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), Fixed()), torch.randn(6, 3)
    found = last_linear(model, x)
    assert found is not None
    assert found.fixed
    assert found.bias is None
    assert_close(found.weight, model[1].prototypes.T)
    assert_close(features(model, x)[PENULTIMATE].norm(dim=1), torch.ones(6))


def test_a_classifier_of_one_by_one_convolutions_is_found() -> None:
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 3, 1), nn.Flatten())
    x = torch.randn(4, 1, 6, 6)
    found = last_linear(model, x)
    assert found is not None
    assert found.weight.shape == (3, 5)
    assert features(model, x)[PENULTIMATE].shape == (4, 5)


def test_a_model_that_takes_its_batch_apart_gives_whole_batches() -> None:
    body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.body(part) for part in x.split(5)])

    x = torch.randn(12, 3)
    names = ("body.1", PENULTIMATE)
    apart, whole = features(Apart(), x, names), features(body, x, ("1", PENULTIMATE))
    assert_close(apart["body.1"], whole["1"])
    assert_close(apart[PENULTIMATE], whole[PENULTIMATE])


def test_a_layer_with_other_rows_than_samples_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Flatten(0), nn.Unflatten(0, (-1, 2)))
    with pytest.raises(ModelError, match="layer 2 gives no tensor with one row per sample"):
        features(model, torch.randn(6, 3), "2")
    with pytest.raises(ModelError, match="layer 1 gives no tensor with one row per sample"):
        features(model, torch.randn(6, 3), "1")


def test_a_layer_that_is_not_last_is_no_classifier() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    assert last_linear(model, torch.randn(8, 3)) is None
    with pytest.raises(ModelError, match="no linear layer that can be watched"):
        features(model, torch.randn(8, 3))


def test_places_of_maps_and_tokens() -> None:
    h = torch.randn(2, 3, 4, 5)
    assert_close(reduced(h, "mean"), h.mean((2, 3)))
    assert_close(reduced(h, "tokens")[:, 7], h[:, :, 1, 2])
    assert reduced(h, "flatten").shape == (2, 60)
    tokens = torch.randn(2, 6, 3)
    assert_close(reduced(tokens, "mean"), tokens.mean(1))
    assert_close(reduced(tokens, "mean", nn.Conv1d(1, 6, 1)), tokens.mean(2))
    assert_close(reduced(tokens, "tokens"), tokens)
    assert reduced(torch.zeros(2, 3), "tokens").shape == (2, 1, 3)


def test_bad_input_is_named() -> None:
    model, x = Shared(), torch.rand(5, 3)
    with pytest.raises(ValueError, match=r"no layer 'frist'; did you mean first\?"):
        features(model, x, "frist")
    with pytest.raises(ValueError, match="give a few inputs as example"):
        FeatureReader(model)
    with pytest.raises(DataError, match="at least one sample"):
        features(model, x[:0], "act")
    unused = nn.Sequential(nn.Linear(3, 2))
    unused.extra = nn.Linear(2, 2)
    unused.forward = lambda x: unused[0](x)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="does not call the layer extra"):
        features(unused, x, "extra")
