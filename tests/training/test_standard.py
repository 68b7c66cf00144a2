import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from pellucid.core import Batch, Dataset, Stream
from pellucid.nn import ETFHead
from pellucid.training import DotRegression, Standard

Y = torch.tensor([0, 0, 0, 1, 2, 2])
OTHERS, SHARES = torch.tensor([1, 0, 2, 2, 0, 1]), torch.tensor([1.0, 0.0, 0.3, 0.5, 0.9, 0.2])


class Shown(nn.Module):
    """A model that answers with its input."""

    def __init__(self):
        super().__init__()
        self.head = nn.Identity()

    def forward(self, x):
        return self.head(x)


@pytest.fixture
def z(rng):
    return rng.normal((6, 3)).requires_grad_()


@pytest.fixture
def data():
    return Dataset(
        torch.zeros(10, 3), torch.tensor([0] * 6 + [1] * 3 + [2]), ("a", "b", "c"), "d", "tabular", torch.arange(10)
    )


def terms(objective, x, *, model=None, mixed=False):
    ids = torch.arange(len(x))
    batch = Batch(x, Y, ids, OTHERS, SHARES) if mixed else Batch(x, Y, ids)
    return objective(model or Shown(), batch, rng=Stream(0).at(ids))


def test_balanced_cross_entropy_weights_by_the_training_counts(z, data):
    fitted = Standard(class_balance="counts").fitted(data)
    assert fitted.counts == (6, 3, 1)
    weights = torch.tensor([10 / 18, 10 / 9, 10 / 3])
    expected = (F.cross_entropy(z, Y, reduction="none") * weights[Y]).mean()
    assert_close(terms(fitted, z)["clean"], expected)


def test_balance_within_the_batch_is_the_mean_over_classes(z):
    each = F.cross_entropy(z, Y, reduction="none")
    expected = torch.stack([each[k == Y].mean() for k in range(3)]).mean()
    assert_close(terms(Standard(class_balance="batch"), z)["clean"], expected)


def test_logit_adjustment_shifts_by_the_logarithms_of_the_frequencies(z, data):
    fitted = Standard(logit_adjustment=2.0).fitted(data)
    expected = F.cross_entropy(z + 2 * torch.tensor([0.6, 0.3, 0.1]).log(), Y)
    assert_close(terms(fitted, z)["clean"], expected)
    even = Standard(logit_adjustment=1.0, counts=(4, 4, 4))
    assert_close(terms(even, z)["clean"], F.cross_entropy(z, Y))


def test_mixes_are_learned_in_the_shares_of_their_labels(z):
    both = [F.cross_entropy(z, labels, reduction="none") for labels in (Y, OTHERS)]
    found = terms(Standard(), z, mixed=True)
    assert_close(found["clean"], (SHARES * both[0] + (1 - SHARES) * both[1]).mean())
    hits = [(z.argmax(1) == labels).float() for labels in (Y, OTHERS)]
    assert_close(found["accuracy"], (SHARES * hits[0] + (1 - SHARES) * hits[1]).mean())


def test_dot_regression_mixes_alike_with_the_counts_of_the_first_labels(rng):
    model, x = Shown(), rng.normal((6, 5))
    model.head = ETFHead(5, 3, batch_norm=False, rng=rng)
    h, m = model.head.features(x), model.head.prototypes
    weights = torch.tensor([6 / 9, 6 / 3, 6 / 6])  # three, one and two of six, in three classes
    both = [weights[labels] * ((h * m.T[labels]).sum(1) - 1) ** 2 / 2 for labels in (Y, OTHERS)]
    found = terms(DotRegression(), x, model=model, mixed=True)
    assert_close(found["dot_regression"], (SHARES * both[0] + (1 - SHARES) * both[1]).mean())
    assert_close(found["alignment"], (h * m.T[Y]).sum(1).mean())
    assert_close(
        terms(DotRegression(class_balance="none"), x, model=model)["dot_regression"],
        (((h * m.T[Y]).sum(1) - 1) ** 2 / 2).mean(),
    )


def test_dot_regression_never_forms_all_logits(rng, monkeypatch):
    model, x = Shown(), rng.normal((6, 5))
    model.head = ETFHead(5, 3, batch_norm=False, rng=rng)
    widths = []
    model.head.register_forward_hook(lambda module, arguments, output: widths.append(output.shape[1]))
    terms(DotRegression(), x, model=model)
    assert widths == [5]
    assert model.head(x).shape == (6, 3)  # afterwards it answers with logits again


def test_counts_are_taken_only_where_they_are_needed(data):
    assert Standard().fitted(data) == Standard()
    assert DotRegression().fitted(data) == DotRegression()
    assert DotRegression(class_balance="counts").fitted(data).counts == (6, 3, 1)
    assert Standard(logit_adjustment=1.0, counts=(5, 5, 5)).fitted(data).counts == (5, 5, 5)


def test_what_does_not_fit_is_refused(z, data):
    with pytest.raises(ValueError, match="logit_adjustment needs the training data"):
        terms(Standard(logit_adjustment=1.0), z)
    empty = Dataset(data.inputs, data.labels.clamp_max(1), data.class_names, "d", "tabular", data.ids)
    with pytest.raises(ValueError, match="class 2 has no training samples"):
        Standard(class_balance="counts").fitted(empty)
    with pytest.raises(ValueError, match=r'set model\.head = "etf"'):
        terms(DotRegression(), z)
