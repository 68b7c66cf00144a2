"""Texts as ids: which word a token belongs to, phrases, tokenizers from files."""

import json

import pytest
import torch
from torch import nn

from pellucid.core import DataError, ModelError, Subject, Text, Tokenizer

tokenizers = pytest.importorskip("tokenizers")


WORDS = "[PAD] [UNK] [MASK] [CLS] [SEP] a good film not ##ly bad - ! don ' t , 好 看"


def backend(words=WORDS, piece=True):
    words = words.split()
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: k for k, word in enumerate(words)}, unk_token="[UNK]")
        if piece
        else tokenizers.models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    made.add_special_tokens(["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]"])
    return made


def test_all_pieces_of_a_word_belong_together_with_its_punctuation():
    encoded = Tokenizer(backend())(["A goodly film!", "Don't - bad"])
    first, second = encoded.texts
    assert first.pieces == ("[CLS]", "a", "good", "##ly", "film", "!", "[SEP]")
    assert first.words == (None, 0, 1, 1, 2, 2, None)
    assert first.names == ("A", "goodly", "film!")
    assert second.names == ("Don't -", "bad")
    assert second.words == (None, 0, 0, 0, 0, 1, None)
    assert encoded.ids.dtype == torch.int64
    assert encoded.ids.tolist()[0] == [3, 5, 6, 9, 7, 12, 4]


def test_shorter_texts_are_filled_up_with_padding_that_is_no_word():
    encoded = Tokenizer(backend())(["good", "not a good film"])
    assert encoded.ids[0].tolist() == [3, 6, 4, 0, 0, 0]
    assert encoded.texts[0].words == (None, 0, None, None, None, None)
    assert len(encoded.texts[0]) == 6
    assert encoded.cut == ()


def test_scripts_without_spaces_use_the_words_of_the_tokenizer():
    (text,) = Tokenizer(backend())(["好看 film"]).texts
    assert text.names == ("好", "看", "film")


def test_the_end_of_a_long_text_is_cut_and_said():
    encoded = Tokenizer(backend(), length=5)(["good", "not a good film a film"])
    assert encoded.cut == (1,)
    assert encoded.texts[1].names == ("not", "a", "good")
    assert encoded.ids.shape == (2, 5)


def test_padding_of_the_tokenizers_own_does_not_count_as_tokens():
    own = backend()
    own.enable_padding(length=40)
    assert Tokenizer(own)(["good film"]).ids.shape == (1, 4)
    assert own.padding["length"] == 40  # the user's object stays as it is


def test_an_absent_word_is_masked_else_unknown_else_padding():
    assert Tokenizer(backend()).absent == 2
    assert Tokenizer(backend("[PAD] [UNK] a good", piece=False), names={"mask": "nothing"}).absent in (1, 4)
    bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "good": 1}, unk_token="?"))
    assert (Tokenizer(bare).absent, Tokenizer(bare).pad, Tokenizer(bare).mask_is_own) == (0, 0, False)
    none = tokenizers.Tokenizer(tokenizers.models.WordLevel({"good": 0}, unk_token="good"))
    with pytest.raises(ModelError, match="neither a padding nor a mask nor an unknown token"):
        Tokenizer(none)


def test_a_tokenizer_comes_back_from_its_file(tmp_path):
    made = Tokenizer(backend(), length=9)
    made.save(tmp_path / "tokenizer.json")
    again = Tokenizer.read(tmp_path / "tokenizer.json", length=9)
    assert torch.equal(made(["not good"]).ids, again(["not good"]).ids)
    assert again.size == made.size


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        ("", "no tokenizer, or damaged"),
        ('{"version": "1.0", "trunc', "no tokenizer, or damaged"),
        (json.dumps({"model": {"type": "Nonsense"}}), "no tokenizer, or damaged"),
        (b"\x80\x04\x95\xff\xfe", "tokenizer.json"),
    ],
)
def test_a_damaged_tokenizer_is_one_sentence(tmp_path, content, says):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match=says):
        Tokenizer.read(path)


def test_texts_without_words_are_refused():
    tokenizer = Tokenizer(backend())
    with pytest.raises(DataError, match="text 1 has no word"):
        tokenizer(["good", " \n"])
    with pytest.raises(DataError, match="no texts"):
        tokenizer([])
    with pytest.raises(DataError, match="cut it"):
        tokenizer(["a" * 2_000_000])


def test_neighbors_join_until_few_phrases_are_left():
    (text,) = Tokenizer(backend())(["a good film not a bad film"]).texts
    short = text.phrases(3)
    assert " ".join(short.names) == text.text
    assert len(short.names) == 3
    for word, phrase in zip(text.words, short.words, strict=True):
        assert (word is None) == (phrase is None)
        assert phrase is None or text.names[word] in short.names[phrase]
    assert [w for w in short.words if w is not None] == sorted(w for w in short.words if w is not None)
    assert text.phrases(7) == text
    with pytest.raises(ValueError, match="at least 1"):
        text.phrases(0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"words": (0,)}, "needs as many words"),
        ({"words": (0, 2)}, "numbered 0 to 1"),
        ({"pad": -1}, "ids from 0 on"),
        ({"words": (None, None), "names": ()}, "has no words"),
    ],
)
def test_texts_that_contradict_themselves_are_refused(change, says):
    fields = {"text": "x", "pieces": ("a", "b"), "words": (0, 1), "names": ("a", "b"), "absent": 1, "pad": 0}
    with pytest.raises(DataError, match=says):
        Text(**{**fields, **change})


class Bag(nn.Module):
    def __init__(self, columns=2):
        super().__init__()
        self.embedding = nn.Embedding(30, columns)

    def forward(self, ids):
        return self.embedding(ids).sum(1)


def test_a_subject_of_texts():
    encoded = Tokenizer(backend())(["good film", "not a good film", "bad"])
    subject = Subject(Bag(), encoded.ids, torch.tensor([0, 1, 1]), modality="text", texts=encoded.texts)
    assert subject.bounds is None
    assert not subject.differentiable
    assert subject.logits().shape == (3, 2)
    part = subject.take(torch.tensor([2, 0]))
    assert [text.text for text in part.texts] == ["bad", "good film"]


def test_a_subject_that_measures_a_number_keeps_it():
    encoded = Tokenizer(backend())(["good film", "bad"])
    subject = Subject(Bag(1), encoded.ids, modality="text", texts=encoded.texts, number="warmth")
    assert subject.class_names == ("warmth",)
    assert torch.equal(subject.logits(), subject.model(encoded.ids).detach())
    with pytest.raises(ModelError, match="2 numbers, not with one warmth"):
        Subject(Bag(2), encoded.ids, modality="text", texts=encoded.texts, number="warmth")
    with pytest.raises(DataError, match="leave the labels out"):
        Subject(Bag(1), encoded.ids, torch.tensor([0, 0]), modality="text", texts=encoded.texts, number="warmth")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"inputs": torch.rand(2, 4)}, "token ids must be int64"),
        ({"inputs": torch.zeros(2, 3, 3, dtype=torch.int64)}, "of shape"),
        ({"inputs": torch.full((2, 4), -1)}, "from 0 on"),
        ({"inputs": torch.full((2, 4), 99)}, "its own tokenizer"),
        ({"texts": ()}, "2 rows of token ids but 0 texts"),
        ({"inputs": torch.zeros(2, 9, dtype=torch.int64)}, "fill up with padding"),
    ],
)
def test_subjects_of_texts_that_do_not_fit_are_refused(change, says):
    encoded = Tokenizer(backend())(["good film", "bad film"])
    fields = {"inputs": encoded.ids, "texts": encoded.texts, **change}
    inputs = fields.pop("inputs")
    with pytest.raises((DataError, ModelError), match=says):
        Subject(Bag(), inputs, modality="text", **fields)
