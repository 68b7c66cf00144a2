import pytest
import torch
from sklearn import datasets

from pellucid import data
from pellucid.core import DataError, MissingExtra
from pellucid.data import _scikit_learn

TABLES = {"iris": "load_iris", "wine": "load_wine", "breast-cancer": "load_breast_cancer"}


@pytest.mark.parametrize("name", [*TABLES, "digits"])
def test_splits_divide_all_rows_class_by_class(name):
    train, test = data.load(name, split="train"), data.load(name)
    everything = torch.cat([train.ids, test.ids]).sort().values
    assert everything.tolist() == list(range(len(train) + len(test)))
    facts = data.NAMED[name]
    assert {"train": len(train), "test": len(test)} == facts.counts
    share = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert (share - 0.25).abs().max() < 0.02
    assert test.class_names == facts.classes
    assert test.note == "the test split of a fixed division by Pellucid, whose test split is a quarter of each class"
    assert data.verify(name) is None


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_scikit_learns_with_a_background(name):
    test, theirs = data.load(name), getattr(datasets, TABLES[name])()
    assert torch.equal(test.inputs, torch.from_numpy(theirs.data).float()[test.ids])
    assert torch.equal(test.labels, torch.from_numpy(theirs.target)[test.ids])
    assert test.feature_names == tuple(theirs.feature_names)
    assert torch.equal(test.background, data.load(name, split="train").inputs)
    assert (test.modality, test.bounds) == ("tabular", None)


def test_digits_are_images_in_the_unit_interval():
    test = data.load("digits")
    assert test.inputs.shape == (450, 1, 8, 8)
    assert (float(test.inputs.min()), float(test.inputs.max())) == (0.0, 1.0)
    assert torch.equal(test.inputs.flatten(1) * 16, torch.from_numpy(datasets.load_digits().data).float()[test.ids])


def test_groups_of_columns_measure_one_property():
    table = data.load("breast-cancer")
    assert sorted(column for group in table.groups.values() for column in group) == list(range(30))
    for name, columns in table.groups.items():
        assert all(name in table.feature_names[column] for column in columns)


def test_the_split_is_the_same_forever():
    assert data.load("iris").ids.tolist()[:6] == [4, 6, 11, 12, 27, 30]


def test_other_content_and_missing_packages_are_named(monkeypatch):
    facts = data.Iris.facts
    monkeypatch.setitem(facts.digests, "arrays", "0" * 64)
    _scikit_learn._arrays.cache_clear()
    with pytest.raises(DataError, match="iris of this scikit-learn is not the one Pellucid knows"):
        data.load("iris")
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(MissingExtra, match=r"pip install 'pellucid\[tabular\]'"):
        data.load("iris")
    with pytest.raises(DataError, match="train and test, not 'dev'"):
        data.Wine().load("dev")
