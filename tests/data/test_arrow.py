import io
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_iris

from pellucid import data
from pellucid.core import DataError, MissingExtra
from pellucid.data import _arrow

IRIS = load_iris()
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 1, 0, 2]
CLASS_LABEL = {"label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def iris(rows=slice(None), **more):
    columns = {name: IRIS.data[rows, k] for k, name in enumerate(IRIS.feature_names)}
    return pa.table({**columns, "target": IRIS.target[rows], **more})


def pictures(structs=True, pixels=PIXELS, labels=LABELS, **columns):
    raw = [png(image) for image in pixels]
    held = [{"bytes": image, "path": None} for image in raw] if structs else raw
    table = pa.table({"image": held, "label": labels[: len(raw)], **columns})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": CLASS_LABEL}})})


def parquet(path, table, **settings):
    pq.write_table(table, path, **settings)
    return str(path)


def saved(folder, table, shards=2):
    """What `datasets.Dataset.save_to_disk` writes: Arrow streams, and JSON that describes them."""
    folder.mkdir(parents=True)
    files, size = [], -(-len(table) // shards)
    for k in range(shards):
        name = f"data-{k:05d}-of-{shards:05d}.arrow"
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.slice(k * size, size), max_chunksize=2)
        files.append({"filename": name})
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_fingerprint": "x", "_split": None}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": CLASS_LABEL}))
    return str(folder)


# -- Parquet --


def test_a_parquet_table_comes_back(tmp_path):
    table = data.load(parquet(tmp_path / "iris.parquet", iris(), row_group_size=40))
    assert torch.equal(table.inputs, torch.from_numpy(IRIS.data).float())
    assert table.labels.tolist() == IRIS.target.tolist()
    assert (table.name, table.modality, table.feature_names) == ("iris", "tabular", tuple(IRIS.feature_names))


def test_texts_categories_and_booleans_are_labels(tmp_path):
    texts = IRIS.target_names[IRIS.target].tolist()
    for column in (pa.array(texts), pa.array(texts).dictionary_encode(), pa.array(texts, pa.large_string())):
        path = parquet(tmp_path / "t.parquet", iris(species=column).drop_columns("target"))
        assert data.load(path).class_names == tuple(IRIS.target_names)
        assert data.load(path, label="species").labels.tolist() == IRIS.target.tolist()
    path = parquet(tmp_path / "t.parquet", iris(virginica=IRIS.target == 2))
    assert data.load(path, label="virginica").labels.sum() == 50
    path = parquet(tmp_path / "t.parquet", iris(as_float=IRIS.target.astype(float)))
    assert data.load(path, label="as_float").labels.tolist() == IRIS.target.tolist()


def test_a_folder_of_shards_has_splits_and_a_background(tmp_path):
    for k in range(2):
        parquet(tmp_path / f"train-0000{k}-of-00002.parquet", iris(slice(k, None, 3)))
    parquet(tmp_path / "test-00000-of-00001.parquet", iris(slice(2, None, 3)))
    test = data.load(str(tmp_path))
    rows = np.concatenate([IRIS.data[0::3], IRIS.data[1::3]])
    assert torch.equal(test.background, torch.from_numpy(rows).float())
    assert len(test) == 50
    with pytest.raises(DataError, match=r"has no dev\.parquet"):
        data.Parquet(path=str(tmp_path)).load("dev")


@pytest.mark.parametrize("structs", [True, False])
def test_a_column_of_images_is_decoded(tmp_path, structs):
    loaded = data.load(parquet(tmp_path / "x.parquet", pictures(structs)))
    assert torch.equal((loaded.inputs * 255).round().byte().permute(0, 2, 3, 1), torch.from_numpy(PIXELS))
    assert (loaded.labels.tolist(), loaded.class_names) == (LABELS, ("cat", "dog", "emu"))
    assert loaded.modality == "image"
    few = data.load(parquet(tmp_path / "x.parquet", pictures(structs)), limit=3, image_size=(8, 8), channels=1)
    assert (few.inputs.shape, few.ids.tolist()) == ((3, 1, 8, 8), [0, 1, 2])
    assert few.note == "images resized from 4 x 5 to 8 x 8 pixels"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (iris(name=["x"] * 150), "the column 'name' holds string; features must be numbers"),
        (iris(x=[None] + [1.0] * 149), "row 0 has no value in the column 'x'"),
        (iris(x=[1.0, float("nan")] + [1.0] * 148), "row 1 has no finite value in the column 'x'"),
        (iris(label=[1.5] * 150).drop_columns("target"), "column 'label' holds double; labels are texts or whole"),
        (iris(slice(0, 50)), "one class only"),
        (iris(slice(0, 0)), "holds 0 rows"),
        (pa.table({"target": [0, 1]}), "needs features and a label column"),
        (pa.table([[1.0], [2.0], [0]], names=["a", "a", "label"]), "several columns of one name"),
        (pictures(second=[b"x"] * 6), "several columns of images: image, second"),
        (pa.table({"image": [b"no image", b"x"], "label": [0, 1]}), "row 0 is no image that can be read"),
        (pa.table({"image": [None, b"x"], "label": [0, 1]}), "row 0 has no image in the column 'image'"),
        (
            pa.table({"image": [{"bytes": None, "path": "/etc/passwd"}] * 2, "label": [0, 1]}).cast(
                pa.schema(
                    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())]
                )
            ),
            "row 0 only names the file of its image",
        ),
    ],
)
def test_wrong_tables_are_refused_with_the_place(tmp_path, table, message):
    with pytest.raises(DataError, match=message) as caught:
        data.load(parquet(tmp_path / "t.parquet", table))
    assert "\n" not in str(caught.value)


def test_images_of_several_sizes_ask_for_one(tmp_path):
    path = parquet(tmp_path / "x.parquet", pictures(pixels=[PIXELS[0], PIXELS[1][:3], PIXELS[2][..., 0]]))
    with pytest.raises(DataError, match=r"row 0 is 4 x 5 and row 1 is 4 x 3 pixels; give one with image_size"):
        data.load(path)
    loaded = data.load(path, image_size=(4, 4))
    assert loaded.inputs.shape == (3, 3, 4, 4)
    assert loaded.note.endswith("1 gray among color images, read as color; images resized from 2 sizes to 4 x 4 pixels")


def test_damaged_files_are_refused(tmp_path):
    raw = (tmp_path / "t.parquet", iris())
    parquet(*raw)
    content = raw[0].read_bytes()
    for broken in (b"", content[:-20], content[: len(content) // 2], b"PAR1" + bytes(50) + b"PAR1", b"text"):
        raw[0].write_bytes(broken)
        with pytest.raises(DataError, match=r"t\.parquet"):
            data.load(str(raw[0]))
    for place in range(4, len(content) - 8, 97):
        raw[0].write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with suppress(DataError):  # a changed number is still a number
            data.load(str(raw[0]))


def test_without_pyarrow_the_install_line_is_given(tmp_path, monkeypatch):
    path = parquet(tmp_path / "t.parquet", iris())
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtra, match=r"needs pyarrow.*pip install 'pellucid\[arrow\]'"):
        data.load(path)


# -- folders that `datasets` saved --


def test_a_saved_data_set_comes_back(tmp_path):
    loaded = data.load(saved(tmp_path / "pets", pictures()))
    assert torch.equal((loaded.inputs * 255).round().byte().permute(0, 2, 3, 1), torch.from_numpy(PIXELS))
    assert (loaded.labels.tolist(), loaded.class_names, loaded.name) == (LABELS, ("cat", "dog", "emu"), "pets")
    with pytest.raises(DataError, match="is one split, not divided for training"):
        data.load(str(tmp_path / "pets"), split="train")


def test_a_folder_that_the_library_itself_saved_is_read():
    # Written by datasets 5.2.0: Dataset.from_dict(…, features=Features({"image": Image(), "label": ClassLabel(…)})),
    # then save_to_disk(…, num_shards=2); the pixels beside it are those it was made from.
    files = Path(__file__).parent / "files"
    loaded = data.load(str(files / "pets"))
    pixels = torch.from_numpy(np.load(files / "pets.npy"))
    assert torch.equal((loaded.inputs * 255).round().byte().permute(0, 2, 3, 1), pixels)
    assert (loaded.labels.tolist(), loaded.class_names) == ([0, 1] * 4, ("cat", "dog"))


def test_a_saved_dictionary_has_splits(tmp_path):
    saved(tmp_path / "train", iris(slice(0, None, 2)))
    saved(tmp_path / "test", iris(slice(1, None, 2)), shards=1)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    test, train = data.load(str(tmp_path)), data.load(str(tmp_path), split="train")
    assert torch.equal(test.background, train.inputs)
    assert torch.equal(test.inputs, torch.from_numpy(IRIS.data[1::2]).float())
    with pytest.raises(DataError, match="has the splits train, test, not 'dev'"):
        data.load(str(tmp_path), split="dev")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_data_files": [{"filename": "../secret.arrow"}]}, "'../secret.arrow', which does not lie in it"),
        ({"_data_files": [{"filename": "/etc/passwd"}]}, "which does not lie in it"),
        ({"_data_files": [{"filename": "C:\\x.arrow"}]}, "which does not lie in it"),
        ({"_data_files": [{}]}, "which does not lie in it"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, r"gone\.arrow does not exist"),
        ({"_data_files": [{"filename": "state.json"}]}, "is no Parquet or Arrow file, or damaged"),
        ({"_data_files": []}, "names no data files"),
        ({"_data_files": [5]}, "names no data files"),
        ({"_indices_data_files": [{"filename": "i"}]}, "flatten_indices"),
        ([], "not the JSON it should be"),
    ],
)
def test_a_saved_data_set_opens_its_own_files_only(tmp_path, state, message):
    saved(tmp_path / "x", iris())
    (tmp_path / "x" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=message):
        data.load(str(tmp_path / "x"))


def test_damaged_streams_are_refused(tmp_path):
    saved(tmp_path / "x", iris(), shards=1)
    path = next((tmp_path / "x").glob("*.arrow"))
    content = path.read_bytes()
    for place in [*range(0, 900, 31), *range(900, len(content), 1009)]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :])
        with suppress(DataError):
            data.load(str(tmp_path / "x"))
    path.write_bytes(content[:700])
    with pytest.raises(DataError, match="arrow"):
        data.load(str(tmp_path / "x"))


def test_metadata_that_are_no_metadata_are_ignored():
    for raw in (b"", b"[1]", b"{", b'{"info": 5}', b'{"info": {"features": 7}}', None, b"[" * 100_000):
        assert _arrow._features(raw) == {}
