"""The small network of texts."""

import torch
from torch.testing import assert_close

from pellucid.nn.models import TextCNN, TextCNNSettings, build


def net(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TextCNN(TextCNNSettings(vocabulary=20, width=6, reach=(1, 3, 5), **settings)).eval()


def test_padding_does_not_change_the_answer():
    ids = torch.tensor([[5, 7, 3, 19]])
    padded = torch.cat([ids, torch.zeros(1, 9, dtype=torch.int64)], dim=1)
    assert_close(net()(ids), net()(padded))


def test_the_order_of_words_matters():
    model = net()
    assert not torch.allclose(model(torch.tensor([[5, 7, 3]])), model(torch.tensor([[3, 7, 5]])))


def test_in_training_some_words_are_absent_but_none_at_all_is_left_out_in_use():
    model = net(absent=0.9, dropout=0.0)
    ids = torch.tensor([[5, 7, 3, 0]]).expand(40, -1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert len(model.train()(ids).unique(dim=0)) > 1
    assert len(model.eval()(ids).unique(dim=0)) == 1


def test_it_is_built_by_its_kind():
    assert build("text-cnn", {"vocabulary": 9, "classes": 3})(torch.tensor([[1, 2, 8]])).shape == (1, 3)
