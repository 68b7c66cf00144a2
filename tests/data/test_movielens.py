"""MovieLens 100K: read, split, refused where samples with classes are wanted."""

import pytest
import torch

from pellucid import data
from pellucid.core import DataError, DataMissing, Stream
from pellucid.data import MovieLens, Ratings


def ratings() -> Ratings:
    return Ratings(torch.arange(10) % 3, torch.arange(10) % 4, torch.arange(10.0), (3, 4))


def test_a_split_shares_out_each_rating_once():
    kept, held = ratings().split(0.3, rng=Stream(0))
    assert len(kept) == 7
    assert len(held) == 3
    assert sorted([*kept.values.tolist(), *held.values.tolist()]) == list(range(10))
    again, _ = ratings().split(0.3, rng=Stream(0))
    assert torch.equal(again.values, kept.values)
    for part in (kept, held):
        assert torch.equal(part.users, part.values.long() % 3)
        assert torch.equal(part.items, part.values.long() % 4)


@pytest.mark.parametrize("share", [0.0, 1.0, 0.01])
def test_a_split_that_leaves_nothing_is_refused(share):
    with pytest.raises(ValueError, match="share must leave ratings in both parts"):
        ratings().split(share, rng=Stream(0))


def test_without_the_file_the_error_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("pellucid.data._facts.places", lambda name: [tmp_path])
    with pytest.raises(DataMissing, match="pellucid data get movielens-100k"):
        MovieLens().load()


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pellucid.data._facts.places", lambda name: [tmp_path])
    (tmp_path / "ml-100k.inter").write_text("user_id\n1\t2\t3\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"is not the ml-100k\.inter of movielens-100k"):
        MovieLens().load()


def test_the_real_ratings_have_their_known_sums():
    if MovieLens.facts.find() is None:
        pytest.skip("movielens-100k is not on this machine")
    found = MovieLens().load()
    assert len(found) == 100_000
    assert found.shape == (943, 1682)
    assert float(found.values.double().sum()) == 352_986
    assert set(found.values.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_it_is_no_data_set_of_classes():
    with pytest.raises(DataError, match=r"movielens-100k holds ratings and no classes; read it with .*MovieLens\(\)"):
        data.load("movielens-100k")
