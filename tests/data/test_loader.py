import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pellucid import data
from pellucid.core import DataError

X, Y = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3


class Counting(torch.utils.data.Dataset):
    def __init__(self):
        self.asked = 0

    def __len__(self):
        return 1_000_000

    def __getitem__(self, k):
        self.asked += 1
        return X[k % 50], int(Y[k % 50])


def test_pairs_become_a_data_set():
    loaded = data.from_loader(DataLoader(TensorDataset(X, Y), batch_size=8), class_names=list("abc"), name="mine")
    assert torch.equal(loaded.inputs, X)
    assert torch.equal(loaded.labels, Y)
    assert (loaded.class_names, loaded.name, loaded.modality) == (("a", "b", "c"), "mine", "image")
    assert (loaded.bounds, loaded.note, loaded.ids.tolist()) == ((0.0, 1.0), "", list(range(50)))


def test_no_more_is_asked_for_than_the_limit_needs():
    source = Counting()
    loaded = data.from_loader(DataLoader(source, batch_size=8), limit=20)
    assert (len(loaded), source.asked) == (20, 24)
    assert loaded.note == "the first 20 of 1,000,000 samples of a loader"
    assert len(data.from_loader(DataLoader(TensorDataset(X, Y)), limit=None)) == 50


@pytest.mark.parametrize("keys", [("pixel_values", "labels"), ("image", "label"), ("x", "y")])
def test_dictionaries_with_usual_names_are_understood(keys):
    loaded = data.from_loader([dict(zip(keys, (X, Y[:, None]), strict=True))])
    assert torch.equal(loaded.labels, Y)


def test_a_random_order_is_noted_and_other_orders_are_not():
    assert "draws its order" in data.from_loader(DataLoader(TensorDataset(X, Y), shuffle=True)).note

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y, strict=True))

    assert data.from_loader(DataLoader(Stream(), batch_size=4)).note == ""
    assert data.from_loader([(X, Y), (X, Y)]).note == ""


def test_tables_pixels_and_ranges_are_told_apart():
    table = data.from_loader([(X.flatten(1).double(), Y.to(torch.int32))])
    assert (table.modality, table.bounds, table.inputs.dtype) == ("tabular", None, torch.float32)
    pixels = data.from_loader([((X * 255).byte(), Y)])
    assert (float(pixels.inputs.max()) <= 1, pixels.note) == (True, "uint8 pixels scaled to [0, 1]")
    assert data.from_loader([(X * 4 - 2, Y)]).bounds is None
    assert data.from_loader([(X, Y)], bounds=(-1.0, 1.0)).bounds == (-1.0, 1.0)
    assert data.from_loader([(X.numpy(), Y.tolist())]).labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "gives no samples"),
        ([X], "batches of type Tensor; it must give"),
        ([(X,)], "batches of type tuple of 1"),
        ([{"foo": X, "bar": Y}], "dictionaries with foo, bar; inputs are looked for as inputs, input, x"),
        ([{"x": X, "bar": Y}], "dictionaries with x, bar; labels are looked for as labels"),
        ([(X, Y[:4])], r"inputs of shape \(50, 1, 4, 4\) and labels of shape \(4,\)"),
        ([(X, torch.rand(50))], "labels that are no whole numbers"),
        ([(X, Y - 1)], "the label -1; classes count from 0"),
        ([(X, ["a"] * 50)], "labels of type list; they must be tensors"),
        ([(X, Y), (X[..., :2], Y)], r"shapes \(1, 4, 4\) and \(1, 4, 2\)"),
        ([(X[..., None], Y)], r"images are \(C, H, W\)"),
    ],
)
def test_other_batches_are_refused(batches, message):
    with pytest.raises(DataError, match=message):
        data.from_loader(batches)
    with pytest.raises(DataError, match="limit must be at least 1"):
        data.from_loader(batches, limit=0)
