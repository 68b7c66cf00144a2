"""Training on texts: the tokenizer is made, kept, and found again."""

import pytest
import torch

import pellucid
from pellucid import models
from pellucid.core import DataError, ModelError, RecipeError
from pellucid.training import Recipe, Run, train

pytest.importorskip("tokenizers")

GOOD, BAD = ("good", "bright", "moving", "lovely"), ("bad", "dull", "flat", "boring")
FRAMES = ("a {} film", "the story is {}", "{} and {} acting", "this was {} , really")


@pytest.fixture
def texts(tmp_path):
    rows = [
        (frame.format(*[words[(k + j) % 4] for j in range(2)]), name)
        for frame in FRAMES
        for words, name in ((GOOD, "pos"), (BAD, "neg"))
        for k in range(4)
    ]
    for split in ("train", "test"):
        lines = "".join(f'"{text}",{name}\n' for text, name in rows)
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{lines}", encoding="utf-8")
    return tmp_path


def recipe(texts, **more):
    raw = {
        "name": "little",
        "epochs": 8,
        "batch_size": 8,
        "model": {"kind": "text-cnn", "vocabulary": 40, "width": 8, "length": 12, "dropout": 0.1},
        "data": {"kind": "texts", "path": str(texts)},
        "optimizer": {"kind": "adam", "lr": 0.02},
    }
    return Recipe.parse({**raw, **more})


def test_a_classifier_of_texts_learns_and_opens_with_its_tokenizer(texts):
    run = train(recipe(texts), texts / "run")
    assert run.figures["accuracy"] > 0.9
    assert run.test_set.inputs.dtype == torch.int64
    subject = run.subject("test", n=8)
    assert [len(text.names) > 1 for text in subject.texts] == [True] * 8
    loaded = models.load(str(run.folder.path))
    assert loaded.tokenizer is not None
    ids = loaded.tokenizer(["a moving film"]).ids
    assert torch.equal(loaded.model.eval()(ids), run.model(ids))
    opened = pellucid.subject(str(run.folder.path), str(texts), samples=10)
    assert opened.class_names == ("neg", "pos")
    assert float((opened.logits().argmax(1) == opened.labels).double().mean()) > 0.9


def test_an_export_takes_the_tokenizer_along_and_the_card_knows_it(texts):
    run = train(recipe(texts, epochs=1), texts / "run")
    run.export(texts / "out" / "little.safetensors")
    assert models.load(str(texts / "out" / "little.safetensors")).tokenizer.size == run.tokenizer.size
    path = texts / "out" / "little.tokenizer.json"
    path.write_text(path.read_text().replace("film", "flim"))
    with pytest.raises(ModelError, match="is not the tokenizer the card describes"):
        models.load(str(texts / "out" / "little.safetensors"))
    path.write_text(path.read_text()[:50])
    with pytest.raises(ModelError, match="no tokenizer, or damaged"):
        models.load(str(texts / "out" / "little.safetensors"))
    path.unlink()
    with pytest.raises(ModelError, match="a model of texts needs its tokenizer"):
        models.load(str(texts / "out" / "little.safetensors"))


def test_the_same_recipe_makes_the_same_network(texts):
    a, b = (train(recipe(texts, epochs=1), texts / name) for name in "ab")
    for key, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[key])
    assert isinstance(Run.open(texts / "a").tokenizer, type(a.tokenizer))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": {"kind": "small-cnn"}}, 'use model.kind = "text-cnn"'),
        ({"data": {"kind": "synthetic-images"}}, "reads texts, but synthetic"),
        ({"objective": {"kind": "adversarial", "attack": {"space": "linf", "eps": 0.1}}}, "cannot be attacked"),
        ({"test": {"attack": {"space": "linf", "eps": 0.1}}}, "cannot be attacked"),
        ({"model": {"kind": "text-cnn", "reach": [2]}}, "odd numbers"),
    ],
)
def test_recipes_that_do_not_fit_texts_are_refused(texts, change, says):
    with pytest.raises(RecipeError, match=says):
        train(recipe(texts, **change), texts / "run")


def test_models_and_data_of_different_kinds_are_told_apart(texts):
    run = train(recipe(texts, epochs=1), texts / "run")
    with pytest.raises(DataError, match="comes without a tokenizer"):
        pellucid.subject(run.model, str(texts))
    with pytest.raises(DataError, match="little reads texts, but synthetic"):
        pellucid.subject(str(run.folder.path), "synthetic-images")
