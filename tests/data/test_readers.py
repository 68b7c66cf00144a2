import numpy as np
import pytest
import torch
from PIL import Image

from pellucid import data
from pellucid.core import DataError


def picture(path, value=0, size=(4, 6), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if mode == "RGB" else size
    Image.fromarray(np.full(shape, value, dtype=np.uint8), mode=None).save(path)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "shapes"
    for value, name in enumerate(["a/1.png", "a/2.png", "<b>/1.png", "c/1.png"]):
        picture(root / name, value=51 * value)
    return root


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


X, Y = np.linspace(0, 1, 6 * 16, dtype=np.float32).reshape(6, 4, 4), np.arange(6) % 3


# -- folders --


def test_folders_become_classes_in_the_order_of_their_names(folder):
    loaded = data.load(str(folder))
    assert loaded.class_names == ("<b>", "a", "c")
    assert loaded.labels.tolist() == [0, 1, 1, 2]
    assert loaded.inputs.shape == (4, 1, 4, 6)
    assert loaded.inputs[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0, 0.2, 0.6])
    assert loaded.name == "shapes"


def test_color_images_have_channels_first(folder, tmp_path):
    for k in range(2):
        picture(tmp_path / "color" / str(k) / "x.png", value=k, mode="RGB")
    assert data.load(str(tmp_path / "color")).inputs.shape == (2, 3, 4, 6)


def test_limit_takes_classes_in_turn(folder):
    assert data.load(str(folder), limit=3).labels.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="limit must be at least 1"):
        data.load(str(folder), limit=0)


def test_train_and_test_folders_are_splits_with_one_numbering(tmp_path):
    for name in ("train/x/1.png", "train/y/1.png", "train/z/1.png", "test/x/1.png", "test/z/1.png"):
        picture(tmp_path / name)
    assert data.load(str(tmp_path), split="train").labels.tolist() == [0, 1, 2]
    assert data.load(str(tmp_path)).labels.tolist() == [0, 2]
    with pytest.raises(DataError, match="no folder 'dev'; it has test, train"):
        data.load(str(tmp_path), split="dev")


def test_an_undivided_folder_has_no_training_split(folder):
    with pytest.raises(DataError, match="not divided for training"):
        data.load(str(folder), split="train")


def test_a_corrupt_image_is_named_or_skipped(folder):
    (folder / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a/1\.png"):
        data.load(str(folder))
    loaded = data.load(str(folder), skip_corrupt=True)
    assert loaded.ids.tolist() == [0, 2, 3]
    assert loaded.note == "1 corrupt image left out: a/1.png"  # the same wherever the folder lies


def test_all_corrupt_is_an_error(folder):
    for path in folder.glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 4 images"):
        data.load(str(folder), skip_corrupt=True)


def test_wrong_folders_are_refused_in_one_sentence(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no class folders"):
        data.load(str(tmp_path / "empty"))
    picture(tmp_path / "one" / "only" / "1.png")
    with pytest.raises(DataError, match="one class only"):
        data.load(str(tmp_path / "one"))
    picture(folder / "c" / "2.png", size=(5, 5))
    with pytest.raises(DataError, match=r"several sizes: .* 6 x 4 and .* 5 x 5 pixels; give one with image_size"):
        data.load(str(folder))
    (folder / "c" / "2.png").unlink()
    (folder / "d").mkdir()
    with pytest.raises(DataError, match="d holds no PNG or JPEG image"):
        data.load(str(folder))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(DataError, match="did you mean fashion-mnist"):
        data.load("fashion_mnist")
    with pytest.raises(DataError, match="the names are"):
        data.load("/no/such/place")
    with pytest.raises(DataError, match=r"missing.npz does not exist"):
        data.load("missing.npz")


# -- arrays --


@pytest.mark.parametrize(
    ("shape", "seen"),
    [((6, 4, 4), (1, 4, 4)), ((6, 1, 4, 4), (1, 4, 4)), ((6, 4, 4, 1), (1, 4, 4))],
)
def test_image_axes_are_put_in_order(tmp_path, shape, seen):
    loaded = data.load(save(tmp_path / "x.npz", x=X.reshape(shape), y=Y))
    assert tuple(loaded.inputs.shape[1:]) == seen
    assert torch.equal(loaded.inputs.flatten(1), torch.from_numpy(X).flatten(1))
    assert loaded.class_names == ()
    assert loaded.modality == "image"


def test_uint8_pixels_are_scaled_with_a_note(tmp_path):
    loaded = data.load(save(tmp_path / "x.npz", inputs=np.full((6, 4, 4), 51, np.uint8), labels=Y))
    assert loaded.inputs.unique().tolist() == pytest.approx([0.2])
    assert loaded.note == "uint8 pixels scaled to [0, 1]"


def test_two_axes_are_a_table_without_bounds(tmp_path):
    path = save(tmp_path / "t.npz", x=np.arange(12).reshape(6, 2), y=Y, feature_names=np.array(["u", "v"]))
    loaded = data.load(path)
    assert (loaded.modality, loaded.bounds, loaded.feature_names) == ("tabular", None, ("u", "v"))
    assert loaded.inputs.dtype == torch.float32


def test_named_splits_and_class_names(tmp_path):
    path = save(tmp_path / "x.npz", x_train=X, y_train=Y, x_test=X[:3], y_test=Y[:3], class_names=np.array(list("abc")))
    assert len(data.load(path, split="train")) == 6
    assert data.load(path).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": X}, "must hold `inputs` and `labels`.*; it holds a"),
        ({"x": X * 255, "y": Y}, "floats up to 255; divide by 255"),
        ({"x": X - 0.5, "y": Y}, "before normalization"),
        ({"x": X, "y": Y[:4]}, "6 inputs but 4 labels"),
        ({"x": X, "y": Y * 0}, "class 0 only"),
        ({"x": X[:0], "y": Y[:0]}, "0 samples"),
        ({"x": X, "y": Y - 1}, "count classes from 0, got -1"),
        ({"x": X, "y": Y + 0.5}, "numbers with fractions; an audit asks about classes"),
        ({"x": X, "y": np.eye(3)[Y]}, r"shape \(6, 3\); give one class per sample, such as by labels.argmax\(1\)"),
        ({"x": X, "y": np.array(list("abcdef"))}, "6 different texts for 6 samples, too many"),
        (
            {"x": X, "y": np.array(list("abcabc")), "class_names": np.array(["a", "b"])},
            "'c', which is not in class_names",
        ),
        ({"inputs": X}, "holds inputs but no labels for test; add that array, one class per sample"),
        ({"x": X.reshape(6, 2, 2, 4), "y": Y}, "1 or 3 channels"),
        ({"x": X.reshape(6, 2, 2, 2, 2), "y": Y}, "2 axes .* or 3 or 4"),
        ({"x": X[0, 0], "y": Y}, "2 axes .* or 3 or 4"),
        ({"x": (X * 9).astype(np.int64), "y": Y}, "store it as uint8"),
        ({"x": X, "y": Y, "class_names": np.array(["a"])}, "class_names must be 3 texts"),
        ({"x": np.array([["u"]] * 6), "y": Y}, "must hold numbers"),
        ({"x": np.where(X[:, 0] > 0.85, np.nan, X[:, 0]), "y": Y}, "sample 5 holds NaN"),
    ],
)
def test_wrong_arrays_are_refused_with_the_way_out(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        data.load(save(tmp_path / "x.npz", **arrays))


def test_labels_may_be_texts_or_whole_floats(tmp_path):
    text = np.array(["cat", "dog", "owl", "cat", "dog", "owl"])
    loaded = data.load(save(tmp_path / "x.npz", x=X, y=text))
    assert loaded.class_names == ("cat", "dog", "owl")
    assert loaded.labels.tolist() == [0, 1, 2, 0, 1, 2]
    named = save(tmp_path / "n.npz", x=X, y=text, class_names=np.array(["owl", "dog", "cat"]))
    assert data.load(named).class_names == ("owl", "dog", "cat")
    assert data.load(named).labels.tolist() == [2, 1, 0, 2, 1, 0]
    divided = save(tmp_path / "d.npz", x_train=X, y_train=text, x_test=X[1:3], y_test=text[1:3])
    assert data.load(divided).labels.tolist() == [1, 2]  # numbered as in training
    assert data.load(divided).class_names == ("cat", "dog", "owl")
    assert data.load(save(tmp_path / "f.npz", x=X, y=Y.astype(np.float64))).labels.tolist() == Y.tolist()


def test_an_undivided_file_has_no_training_split(tmp_path):
    with pytest.raises(DataError, match="x_train, y_train"):
        data.load(save(tmp_path / "x.npz", x=X, y=Y), split="train")


def test_pickled_arrays_are_refused(tmp_path):
    path = save(tmp_path / "x.npz", x=np.array([{}, {}], dtype=object), y=Y[:2])
    with pytest.raises(DataError):
        data.load(path)


def test_the_training_rows_of_a_table_are_its_background(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    path = save(tmp_path / "t.npz", x_train=rows, y_train=Y, x_test=rows[:3], y_test=Y[:3])
    assert data.load(path).background.tolist() == rows.tolist()
    assert data.load(save(tmp_path / "t.npz", x=rows, y=Y)).background is None
    path = save(tmp_path / "t.npz", x_train=rows[:, :1], y_train=Y, x_test=rows, y_test=Y)
    with pytest.raises(DataError, match="x_train must have 2 columns like the other split"):
        data.load(path)


@pytest.mark.parametrize("name", ["x.txt", "x.bin", "x", "x.csv", "x.npz", "x.parquet", "x-images-idx3-ubyte"])
def test_garbage_ends_in_one_sentence(tmp_path, name):
    path = tmp_path / name
    rng = np.random.default_rng(0)
    for start in (b"", b"\x1f\x8b", b"PAR1", b"\x00\x00\x08\x03", b"PK\x03\x04", b"\x80\x04", b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(start + rng.bytes(200))
        with pytest.raises(DataError) as caught:
            data.load(str(path))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
