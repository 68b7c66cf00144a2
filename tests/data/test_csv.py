import csv

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from pellucid import data
from pellucid.core import DataError
from pellucid.data import CSV, _csv

IRIS = load_iris()
NAMES = [name.replace(" (cm)", "") for name in IRIS.feature_names]


def write(path, header, rows, **dialect):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **dialect).writerows([header, *rows])
    return str(path)


def iris(path, rows, **dialect):
    body = [[*IRIS.data[row], IRIS.target_names[IRIS.target[row]]] for row in rows]
    return write(path, [*NAMES, "species"], body, **dialect)


def text(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode(encoding))
    return str(path)


def test_a_file_by_another_writer_comes_back(tmp_path):
    table = data.load(iris(tmp_path / "iris.csv", range(150)))
    assert torch.equal(table.inputs, torch.from_numpy(IRIS.data).float())
    assert table.labels.tolist() == IRIS.target.tolist()
    assert table.class_names == ("setosa", "versicolor", "virginica")
    assert table.feature_names == tuple(NAMES)
    assert (table.name, table.modality, table.bounds, table.background) == ("iris", "tabular", None, None)
    assert table.note == "labels from the column species"


@pytest.mark.parametrize("delimiter", ";\t|")
def test_other_separators_are_recognized(tmp_path, delimiter):
    path = iris(tmp_path / "iris.csv", range(40, 60), delimiter=delimiter)
    assert data.load(path).inputs.shape == (20, 4)


def test_a_folder_has_splits_and_a_background(tmp_path):
    iris(tmp_path / "train.csv", range(0, 150, 2))
    iris(tmp_path / "test.csv", range(1, 100, 2))  # without virginica
    test, train = data.load(str(tmp_path)), data.load(str(tmp_path), split="train")
    assert torch.equal(test.background, train.inputs)
    assert test.class_names == train.class_names == tuple(IRIS.target_names)
    assert test.labels.tolist() == IRIS.target[1:100:2].tolist()
    with pytest.raises(DataError, match=r"has no dev\.csv"):
        CSV(path=str(tmp_path)).load("dev")


def test_a_lone_file_has_no_training_split(tmp_path):
    with pytest.raises(DataError, match=r"not divided for training; put train\.csv and test\.csv into one folder"):
        data.load(iris(tmp_path / "iris.csv", range(150)), split="train")


def test_the_label_column_is_named_or_last(tmp_path):
    rows = [[k % 2, k, k % 3] for k in range(12)]
    path = write(tmp_path / "t.csv", ["Target", "x", "z"], rows)
    assert data.load(path).feature_names == ("x", "z")
    assert data.load(path, label="z").labels.unique().tolist() == [0, 1, 2]
    assert data.load(write(tmp_path / "u.csv", ["a", "x", "z"], rows)).feature_names == ("a", "x")
    with pytest.raises(DataError, match=r"no column 'zz'; did you mean z\?"):
        data.load(path, label="zz")
    with pytest.raises(DataError, match="has the columns class and Label; say which"):
        data.load(write(tmp_path / "v.csv", ["class", "x", "Label"], rows))


def test_whole_numbers_from_zero_stay_and_others_are_numbered(tmp_path):
    path = write(tmp_path / "t.csv", ["x", "label"], [[k, (0, 3)[k % 2]] for k in range(8)])
    assert (data.load(path).labels.unique().tolist(), data.load(path).class_names) == ([0, 3], ())
    path = write(tmp_path / "t.csv", ["x", "label"], [[k, (-1, 1)[k % 2]] for k in range(8)])
    table = data.load(path)
    assert (table.labels.tolist()[:2], table.class_names) == ([0, 1], ("-1", "1"))
    assert table.note == "labels -1, 1 are the classes 0 to 1"
    path = write(tmp_path / "t.csv", ["x", "label"], [[k, (1.0, 2.0)[k % 2]] for k in range(8)])
    assert data.load(path).class_names == ("1", "2")


def test_limit_serves_classes_alike_and_ids_name_rows(tmp_path):
    few = data.load(iris(tmp_path / "iris.csv", range(150)), limit=6)
    assert few.ids.tolist() == [0, 1, 50, 51, 100, 101]
    assert torch.equal(few.inputs, torch.from_numpy(IRIS.data[few.ids]).float())


def test_a_mark_at_the_start_quotes_and_empty_last_lines_are_fine(tmp_path):
    table = data.load(text(tmp_path, '\ufeff"x, y",label\r\n1,a\r\n"2",b\r\n\r\n'))
    assert table.feature_names == ("x, y",)
    assert table.inputs.flatten().tolist() == [1, 2]


def test_many_rows_are_read_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(_csv, "_CHUNK", 7)
    table = data.load(iris(tmp_path / "iris.csv", range(150)))
    assert torch.equal(table.inputs, torch.from_numpy(IRIS.data).float())
    lines = (tmp_path / "iris.csv").read_text().splitlines()
    lines[100] = lines[100].replace(",", ",x", 1)
    with pytest.raises(DataError, match="row 101 holds 'x"):
        data.load(text(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"t\.csv is empty"),
        ("x,label\n", "holds a header and no rows"),
        ("x,label\n1,a\n2\n", "row 3 has 1 values, but there are 2 columns"),
        ("x,label\n1,a\n,b\n", "row 3 has no value in the column 'x'; fill or remove it"),
        ("x,label\n1,a\nNaN,b\n", "row 3 has no value in the column 'x'"),
        ("x,label\n1,a\ninf,b\n", "row 3 holds 'inf' in the column 'x'; features must be finite numbers"),
        ("x,color,label\n1,red,a\n2,blue,b\n", "row 2 holds 'red' in the column 'color'; .*turn texts into numbers"),
        ("x,label\n1,a\n2,\n", "row 3 has no label in the column 'label'"),
        ("x,label\n1,a\n2,a\n", "one class only"),
        ("x,x,label\n1,2,a\n", "two columns named 'x'"),
        (",x,label\n0,1,a\n", "as pandas writes an index; save it with index=False"),
        ("x,,label\n0,1,a\n", "column 2 has no name"),
        ("1,2,3\n4,5,6\n", "has no header: its first row holds numbers"),
        (",,\n1,2,3\n", "has no header; its first row must name the columns"),
        ("label\n1\n2\n", "a table needs features and a label column"),
        ("x,y\n1,0.5\n2,0.25\n3,0.1\n4,0.7\n5,0.9\n", "5 values in 5 rows, too many for classes"),
        ("x,label\n1,0\n2,20000\n", "counts up to 20,000; name the column"),
        ("x,label\n1e300,a\n2,b\n", "sample 0 holds a value beyond single precision"),
        ('x,label\n1,"a\n2,b\n', "damaged CSV file"),
        ("x,label\n1,a\x00\n2,b\n", "no CSV file in UTF-8 text|damaged CSV"),
    ],
)
def test_wrong_tables_are_refused_with_the_place(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        data.load(text(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_other_encodings_and_huge_fields_are_refused(tmp_path):
    with pytest.raises(DataError, match="UTF-8"):
        data.load(text(tmp_path, "größe,label\n1,a\n2,b\n", "latin-1"))
    with pytest.raises(DataError, match="damaged CSV file: field larger than"):
        data.load(text(tmp_path, f"x,label\n{'1' * 200_000},a\n2,b\n"))


def test_tables_of_other_columns_do_not_go_together(tmp_path):
    write(tmp_path / "train.csv", ["x", "label"], [[1, 0], [2, 1]])
    write(tmp_path / "test.csv", ["z", "label"], [[1, 0], [2, 1]])
    with pytest.raises(DataError, match="have different columns"):
        data.load(str(tmp_path))
    write(tmp_path / "test.csv", ["x", "label"], [[1, "a"], [2, "b"]])
    with pytest.raises(DataError, match="labels of different kinds"):
        data.load(str(tmp_path))


def test_settings_for_other_data_are_refused(tmp_path):
    path = iris(tmp_path / "iris.csv", range(150))
    with pytest.raises(DataError, match="image_size and channels are for images"):
        data.load(path, image_size=(8, 8))
    with pytest.raises(DataError, match="synthetic-images is no table in a file"):
        data.load("synthetic-images", label="x")


def test_numbers_are_rounded_to_the_nearest_single(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 3)) * 10.0 ** np.arange(-3, 4, 3)
    path = write(
        tmp_path / "t.csv",
        ["a", "b", "c", "label"],
        [[*map(repr, map(float, row)), k % 2] for k, row in enumerate(values)],
    )
    assert torch.equal(data.load(path).inputs, torch.from_numpy(values).float())
