"""The front door: any model and any data become a subject, or one sentence says why not."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pellucid
from pellucid import data, models
from pellucid.core import DataError, Dataset, ModelError, Stream
from pellucid.data import sample, synthetic_images


class Mean(nn.Module):
    """Tells three classes apart by the mean of an image of any size."""

    def forward(self, x):
        return x.flatten(1).mean(1, keepdim=True) * torch.tensor([1.0, 2.0, -3.0])


def dataset(names, count=30, classes=3):
    x = Stream(0).uniform((count, 1, 6, 6))
    return Dataset(x, torch.arange(count) % classes, names, "set", "image", torch.arange(count))


def test_a_name_and_a_name_make_a_subject():
    subject = pellucid.subject("fashion-standard", "fashion-mnist", samples=30, surrogates=["fashion-robust"])
    assert len(subject) == 30
    assert subject.labels.bincount().tolist() == [3] * 10
    assert list(subject.surrogates) == ["fashion-robust"]
    assert subject.notes == ()


def test_only_the_samples_drawn_are_brought_to_a_larger_size(monkeypatch):
    fitted = []
    monkeypatch.setattr(data._load, "check_bytes", lambda count, each: fitted.append(count))
    net = models.Loaded(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "flat", input_shape=(3, 8, 8))
    assert len(pellucid.subject(net, "synthetic-images", samples=12)) == 12
    assert fitted == [12]


def test_images_are_brought_to_the_size_that_the_model_declares():
    loaded = models.Loaded(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "flat", input_shape=(3, 8, 8))
    subject = pellucid.subject(loaded, "synthetic-images", samples=12)
    assert subject.inputs.shape == (12, 3, 8, 8)


def test_arrays_tensors_and_loaders_give_the_same_draw():
    whole = synthetic_images(200, rng=Stream(0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    pair = pellucid.subject(net, (whole.inputs, whole.labels), samples=20)
    arrays = pellucid.subject(net, (whole.inputs.numpy(), whole.labels.numpy()), samples=20)
    torch_set = TensorDataset(whole.inputs, whole.labels)
    loader = pellucid.subject(net, DataLoader(torch_set, batch_size=7), samples=20)
    directly = pellucid.subject(net, torch_set, samples=20)
    for other in (arrays, loader, directly):
        assert torch.equal(other.inputs, pair.inputs)
        assert other.ids.tolist() == pair.ids.tolist()
    assert loader.data_name == "TensorDataset"
    assert pair.labels.bincount().tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_a_stream_keeps_what_a_draw_from_all_would(batch):
    labels = torch.tensor([0] * 40 + [1] * 3 + [2] * 57)
    x = torch.arange(100.0)[:, None].expand(100, 2)
    loader = DataLoader(TensorDataset(x, labels), batch_size=batch)
    net = nn.Linear(2, 3)
    rng = Stream(5).child("samples")
    whole = Dataset(x, labels, (), "", "tabular", torch.arange(100), bounds=None)
    assert pellucid.subject(net, loader, samples=12, seed=5).ids.tolist() == sample(whole, 12, rng=rng).ids.tolist()


def test_a_shuffled_loader_gives_the_same_samples_and_leaves_no_trace():
    whole = synthetic_images(60, rng=Stream(0))
    loader = DataLoader(TensorDataset(whole.inputs, whole.labels), batch_size=8, shuffle=True)
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    state = torch.get_rng_state()
    first, second = (pellucid.subject(net, loader, samples=10).inputs for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_labels_are_matched_by_the_names_of_the_classes():
    loaded = models.Loaded(Mean(), "mean", class_names=("cat", "dog", "bird"))
    turned = pellucid.subject(loaded, dataset(("bird", "cat", "dog")))
    assert turned.class_names == ("cat", "dog", "bird")
    assert turned.labels[:3].tolist() == [2, 0, 1]
    assert "matched by name" in turned.notes[0]
    fewer = pellucid.subject(loaded, dataset(("bird", "cat"), classes=2))
    assert fewer.labels[:2].tolist() == [2, 0]
    assert fewer.notes == ("The data have 2 of the model's 3 classes, matched by name.",)
    numbered = pellucid.subject(loaded, dataset(("0", "1"), classes=2))
    assert numbered.class_names == ("cat", "dog", "bird")
    assert numbered.notes == ()


def test_other_names_are_noted_and_unknown_ones_refused():
    loaded = models.Loaded(Mean(), "mean", class_names=("cat", "dog", "bird"))
    strangers = pellucid.subject(loaded, dataset(("a", "b", "c")))
    assert "check that they come in the same order" in strangers.notes[0]
    with pytest.raises(
        DataError, match="set has the class 'dg', which is none of the 3 classes of mean; did you mean dog"
    ):
        pellucid.subject(loaded, dataset(("cat", "dg"), classes=2))
    twice = replace(loaded, class_names=("cat", "dog", "cat"))
    with pytest.raises(
        DataError, match="mean has two classes named 'cat', so the labels of set cannot be matched by name"
    ):
        pellucid.subject(twice, dataset(("cat", "dog"), classes=2))


def test_columns_reach_an_estimator_by_their_names():
    pandas = pytest.importorskip("pandas")
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows = Stream(0).uniform((60, 3)).double()
    labels = (rows[:, 0] > 2 * rows[:, 2]).long()
    table = pandas.DataFrame(rows.numpy(), columns=["a", "b", "c"])
    estimator = linear_model.LogisticRegression().fit(table, labels.numpy())
    plain = pellucid.subject(estimator, (table, labels), samples=60)
    turned = pellucid.subject(estimator, (table[["c", "a", "b"]], labels), samples=60)
    wider = pellucid.subject(estimator, (table.assign(z=1.0)[["z", "a", "b", "c"]], labels), samples=60)
    for other, said in ((turned, "in the order it was fitted on"), (wider, "without z, which it was not fitted on")):
        assert torch.equal(other.inputs, plain.inputs)
        assert other.feature_names == ("a", "b", "c")
        assert said in other.notes[-1]
    renamed = pellucid.subject(estimator, (table.rename(columns={"a": "x"}), labels), samples=60)
    assert "check that they come in the same order" in renamed.notes[-1]


def test_labels_in_floats_are_matched_by_the_names_that_an_estimator_gives_them():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows = Stream(0).uniform((40, 2)).double().numpy()
    labels = np.where(rows[:, 0] > 0.5, 2.0, 1.0)
    made = pellucid.subject(linear_model.LogisticRegression().fit(rows, labels), (rows, labels), samples=40)
    assert made.class_names == ("1.0", "2.0")
    assert sorted(set(made.labels.tolist())) == [0, 1]


def test_groups_and_background_follow_the_columns():
    pandas = pytest.importorskip("pandas")
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows, labels = Stream(0).uniform((40, 3)), torch.arange(40) % 2
    fitted = linear_model.LogisticRegression().fit(pandas.DataFrame(rows, columns=["c", "a", "b"]), labels)
    table = Dataset(
        rows,
        labels,
        ("0", "1"),
        "set",
        "tabular",
        torch.arange(40),
        bounds=None,
        feature_names=("a", "b", "c"),
        background=rows[:5],
        groups={"ends": (0, 2)},
    )
    made = pellucid.subject(fitted, table, samples=40)
    assert made.feature_names == ("c", "a", "b")
    assert torch.equal(made.background, rows[:5][:, [2, 0, 1]])
    assert made.groups == {"ends": (1, 0)}


def test_the_range_that_a_model_declares_is_reached():
    images = Stream(0).uniform((20, 1, 4, 4))
    labels = torch.arange(20) % 2
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    declared = pellucid.subject(models.Loaded(plain, "net", bounds=(-1.0, 1.0)), (images, labels), samples=20)
    assert torch.allclose(declared.model(images), plain(2 * images - 1), atol=1e-6)
    assert declared.notes[-1] == "Images are scaled from [0, 1] to the range [-1, 1] that the model declares."
    assert pellucid.subject(models.Loaded(plain, "net", bounds=(0.0, 1.0)), (images, labels), samples=20).notes == ()


def test_bytes_read_only_arrays_and_names_as_labels_are_read():
    images = np.arange(40 * 9, dtype=np.uint8).reshape(40, 1, 3, 3)
    images.setflags(write=False)
    names = np.array(["b", "a", "c", "a"] * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        subject = pellucid.subject(Mean(), (images, names))
    assert float(subject.inputs.max()) == 1.0
    assert subject.class_names == ("a", "b", "c")
    assert subject.labels[:4].tolist() == [1, 0, 2, 0]


def test_without_labels_the_subject_has_none():
    assert pellucid.subject(Mean(), (torch.rand(20, 1, 4, 4), None), samples=5).labels is None


def test_dict_batches_with_the_usual_keys_are_read():
    rows = [{"pixel_values": torch.rand(1, 4, 4), "labels": k % 3} for k in range(12)]
    assert len(pellucid.subject(Mean(), DataLoader(rows, batch_size=4))) == 12


BAD = {
    "no data": (3, "int is no data; give a name or path"),
    "no samples": ((torch.zeros(0, 1, 2, 2), torch.zeros(0)), "at least one sample"),
    "lengths": ((torch.rand(4, 1, 2, 2), torch.zeros(3, dtype=torch.int64)), "there are 4 inputs but 3 labels"),
    "fractions": ((torch.rand(2, 1, 2, 2), np.array([0.5, 1.0])), "got numbers with fractions"),
    "one-hot": ((torch.rand(2, 1, 2, 2), torch.eye(2)), r"one class per sample, shape \(N,\), got \(2, 2\)"),
    "channels last": ((torch.rand(5, 8, 8, 3), None), r"give inputs\.transpose\(0, 3, 1, 2\)"),
    "text": ((np.array([["a", "b"]]), None), "inputs must be numbers"),
    "odd batches": (DataLoader([torch.rand(2)] * 4), "a loader must give pairs"),
    "odd dicts": (DataLoader([{"a": torch.rand(2)}] * 4), r"batches hold a; give pairs \(inputs, labels\)"),
    "sizes": (
        DataLoader([(torch.rand(1, k, k), 0) for k in (2, 3)]),
        r"batches hold inputs of \(1, 2, 2\) and \(1, 3, 3\); resize in the loader",
    ),
    "empty loader": (DataLoader(TensorDataset(torch.zeros(0, 2), torch.zeros(0))), "gives no batch"),
    "names in a loader": (DataLoader([(torch.rand(1, 2, 2), "cat")] * 2), "as numbers, not as names"),
}


@pytest.mark.parametrize("case", BAD)
def test_unfit_data_are_one_sentence(case):
    data, message = BAD[case]
    with pytest.raises(DataError, match=message):
        pellucid.subject(Mean(), data)


def test_no_samples_and_no_model_are_refused():
    with pytest.raises(DataError, match="samples must be at least 1, got 0"):
        pellucid.subject(Mean(), "synthetic-images", samples=0)
    with pytest.raises(ModelError, match="int is no model"):
        pellucid.subject(3, "synthetic-images")


def test_a_network_in_double_precision_gets_such_inputs():
    assert pellucid.subject(nn.Linear(2, 3).double(), (np.eye(2)[[0, 1, 0]], None)).inputs.dtype == torch.float64
