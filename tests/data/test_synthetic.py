import pytest
import torch

from pellucid.core import Source
from pellucid.data import SOURCES, SyntheticImages, SyntheticTable, load


@pytest.mark.parametrize("source", [SyntheticImages(n=64), SyntheticTable(n=64)])
def test_splits_are_reproducible_and_apart(source):
    assert isinstance(source, Source)
    train, test = source.load("train"), source.load("test")
    assert torch.equal(train.inputs, source.load("train").inputs)
    assert not torch.equal(train.inputs, test.inputs)
    assert len(train) == 64
    assert train.labels.unique().tolist() == list(range(len(train.class_names)))


def test_images_show_their_class(rng):
    images = SyntheticImages(n=32, classes=4, size=8).load("test")
    brightest = images.inputs[:, 0].mean(2).argmax(1) * 4 // 8
    assert torch.equal(brightest, images.labels)
    assert 0 <= images.inputs.min() <= images.inputs.max() <= 1


def test_table_follows_its_rule(rng):
    table = SyntheticTable(n=200, noise=0.0).load("test")
    x = table.inputs
    assert torch.equal(table.labels, (x[:, 0] + x[:, 1] * x[:, 2] > 0).long())


def test_names_in_the_table_are_the_recipes_kinds():
    assert {kind: source.__struct_config__.tag for kind, source in SOURCES.items()} == {k: k for k in SOURCES}
    assert load("synthetic-table").modality == "tabular"
