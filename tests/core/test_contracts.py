"""The nouns: a data set whose names no report could hold is refused."""

import pytest
import torch

from pellucid.core import DataError, Dataset


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"class_names": ("a", "\udcff")}, r"the class name '\\udcff' of toy is no Unicode text; rename it"),
        ({"feature_names": ("\ud800",)}, "the feature name"),
        ({"groups": {"\ud800": (0,)}}, "the feature name"),
    ],
)
def test_names_are_text(names, message):
    fields = {"class_names": (), "name": "toy", "modality": "tabular", "ids": torch.arange(2), **names}
    with pytest.raises(DataError, match=message):
        Dataset(torch.zeros(2, 1), torch.arange(2), **fields)
