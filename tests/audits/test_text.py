"""Audits and explanations of texts."""

import pytest
import torch
from torch import nn

import pellucid
from pellucid.audits import Explain, audit, explain
from pellucid.audits._cast import Cast, fill_in_words
from pellucid.core import DataError, Subject, Text

GOOD, ABSENT = 7, 2


def text(words):
    """A text whose tokens are the words, and padding up to 16."""
    fill = 16 - len(words)
    pieces = (*words, *["[PAD]"] * fill)
    return Text(" ".join(words), pieces, (*range(len(words)), *[None] * fill), tuple(words), absent=ABSENT, pad=0)


class Votes(nn.Module):
    """One point for each good word, and two for a good word after the word 5 ("very")."""

    def __init__(self, columns=2):
        super().__init__()
        self.columns = columns
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids):
        good = ids == GOOD
        very = torch.cat([torch.zeros_like(good[:, :1]), ids[:, :-1] == 5], dim=1)
        z = self.scale * (good.float() + 2 * (good & very).float()).sum(1, keepdim=True) - 1
        return z if self.columns == 1 else torch.cat([-z, z], dim=1)


def texts(count=30, words=12):
    ids = torch.zeros(count, 16, dtype=torch.int64)
    made = []
    for row in range(count):
        line = [3 + (row + k) % 4 + (k == 2) for k in range(words)]
        line[4:6] = [5, GOOD]
        ids[row, : len(line)] = torch.tensor(line)
        made.append(text([f"w{one}" for one in line]))
    return ids, tuple(made)


@pytest.fixture
def subject():
    ids, made = texts()
    return Subject(Votes(), ids, torch.arange(30) % 2, modality="text", texts=made, name="votes")


def test_an_audit_of_texts_answers_what_it_can_and_says_what_not(subject, tmp_path):
    report = audit(subject, budget=20_000)
    assert [finding.name for finding in report.findings] == ["accuracy", "calibration", "concepts"]
    assert not report.failed
    reasons = {entry.probe: entry.reason for entry in report.skipped}
    assert reasons["robustness"] == "attacks change numbers a little, and words are no numbers"
    assert "texts have their own words each" in reasons["bottleneck"]
    assert "places of texts" in reasons["feature-diversity"]
    mistakes = next(e for f in report.findings for e in f.exhibits if e.title == "The mistakes it is surest of")
    assert mistakes.columns[-1] == "text"
    concepts = report.findings[-1]
    assert concepts.provenance.settings["players"] == "words, joined to 10 phrases where there are more"
    assert concepts.provenance.settings["absent players"] == "the token that stands for a missing word (id 2)"
    report.save(tmp_path / "report")


def test_words_are_explained_with_the_names_they_have(subject):
    found = explain(subject, Explain(players="words:12", index="harsanyi", samples=2))
    (one, _) = found.file.samples
    assert len(one.players) == 12
    pairs = zip(one.interactions["sets"], one.interactions["values"], strict=True)
    known = {tuple(players): value for players, value in pairs}
    assert known[(5,)] == pytest.approx(2)
    assert known[(4, 5)] == pytest.approx(4)
    assert sum(abs(v) > 1e-5 for players, v in known.items() if len(players) > 1) == 1
    assert one.players[4:6] == ("w5", "w7")
    assert found.file.settings["absent players"] == "the token that stands for a missing word (id 2)"


def test_texts_of_different_lengths_have_different_players():
    ids, made = texts(4)
    ids[0, 3:] = 0
    short = (text(made[0].names[:3]), *made[1:])
    subject = Subject(Votes(), ids, torch.tensor([0, 1, 0, 1]), modality="text", texts=short)
    found = explain(subject, Explain(samples=4))
    assert [len(one.players) for one in found.file.samples] == [3, 10, 10, 10]
    report = audit(subject, budget=20_000, probes="concepts")
    assert report.findings[0].provenance.sample_ids == (0, 1, 2, 3)  # three words each: so many have all four


def test_a_number_is_explained_as_it_is():
    ids, made = texts(4)
    subject = Subject(Votes(1), ids, modality="text", texts=made, number="warmth", name="votes")
    found = explain(subject, Explain(samples=2))
    (one, _) = found.file.samples
    assert (one.score, one.empty, found.file.value, one.target_name) == (2.0, -1.0, "warmth", "warmth")
    report = audit(subject, budget=20_000, probes=("accuracy", "concepts", Explain(samples=1)))
    assert {entry.probe for entry in report.skipped} == {"accuracy", "concepts"}
    assert report.skipped[0].reason == "asks about classes, and votes measures a number, warmth"
    with pytest.raises(DataError, match="measures warmth and has no margin; use the value output"):
        explain(subject, Explain(value="margin"))


def test_players_and_fills_that_do_not_fit_are_refused(subject):
    with pytest.raises(DataError, match="grid:3 are no players of texts; use words or words:8"):
        explain(subject, Explain(players="grid:3"))
    with pytest.raises(DataError, match="fill must be one of mean, mask, padding for words"):
        explain(subject, Explain(fill="blur"))
    table = Subject(nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 0, 1]), bounds=None, modality="tabular")
    with pytest.raises(DataError, match="words are no players of a table"):
        explain(table, Explain(players="words"))
    with pytest.raises(DataError, match="players must be"):
        explain(subject, Explain(players="words:0"))


def test_a_missing_word_may_be_padding(subject):
    cast = Cast.parse("words:3", subject)
    assert cast.maskers(subject, "padding")[0](subject.inputs[0]).baseline.tolist() == [0]
    assert cast.maskers(subject, "mask")[0](subject.inputs[0]).baseline.tolist() == [2]
    assert fill_in_words(subject, "padding") == "padding (id 0)"


def test_the_command_line_explains_texts(tmp_path, capsys):
    from pellucid.cli import main

    pytest.importorskip("tokenizers")
    (tmp_path / "sentences.txt").write_text("A wonderful film about love.\nNot a wonderful film at all.\n")
    arguments = ["explain", "movie-snippets-classifier", str(tmp_path / "sentences.txt"), "--players", "words"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "wonderful" in said
    assert pellucid.audits.Explained.load(tmp_path / "out").file.class_names == ("negative", "positive")
