"""What `explain_graph` measures: learned baselines of words, comparisons that make sense, evaluations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pellucid.audits import ExplainGraph, explain_graph
from pellucid.core import DataError, ModelError, Stream, Subject, Text
from pellucid.games import on_embeddings

ABSENT = 9


class Reader(nn.Module):
    """Reads the embeddings of ids in their order; counts what it reads."""

    def __init__(self, seed: int = 0, classes: int = 3) -> None:
        super().__init__()
        with Stream(seed).forked():
            self.words = nn.Embedding(12, 6)
            self.mix, self.answer = nn.GRU(6, 8, batch_first=True), nn.Linear(8, classes)
        self.read = 0

    def forward(self, ids: Tensor) -> Tensor:
        self.read += len(ids)
        return self.answer(self.mix(self.words(ids))[0].tanh().sum(1))


def texts(model: nn.Module, **changes: object) -> Subject:
    names = ("a", "rather", "goodly", "film")
    text = Text(" ".join(names), ("S", *names, "E"), (None, 0, 1, 2, 3, None), names, absent=ABSENT, pad=0)
    ids = torch.tensor([[1, 3, 4, 5, 6, 2], [1, 7, 8, 5, 3, 2], [1, 4, 4, 7, 6, 2]])
    settings = {"modality": "text", "texts": (text,) * 3, "name": "reader"} | changes
    return Subject(model, ids, torch.tensor([0, 1, 2]), **settings)  # type: ignore[arg-type]


def test_what_absent_words_show_is_learned_on_embeddings() -> None:
    model = Reader()
    subject = texts(model)
    how = ExplainGraph(samples=3, value="logit")
    plain = explain_graph(subject, how).graphs
    learning = replace(how, learn_baseline=True)
    before = model.read
    planned = learning.need(subject, effort="full").wanted
    found = explain_graph(subject, learning)
    scale = model.words.weight.detach().std(0)
    for row, graph in found.graphs.items():
        learned = graph.baseline
        assert learned is not None
        assert learned.l1_before == pytest.approx(plain[row].l1, rel=1e-4)
        assert graph.l1 == pytest.approx(learned.l1_after, rel=1e-4)
        assert graph.l1 < plain[row].l1
        assert graph.score == pytest.approx(plain[row].score, rel=1e-5)
        away = learned.baseline - model.words.weight[ABSENT].detach()
        assert bool((away.abs() <= 0.05 * scale * 1.001 + 1e-6).all())
        assert not bool(away[[0, -1]].any())  # special tokens play no part
        assert bool(away[1:-1].abs().sum(1).all())
    spent = found.report.findings[0].provenance.evaluations
    forwards = model.read - before
    assert spent <= planned
    # A gradient counts one more than its forward: 50 steps of 16 coalitions, on 3 texts. The subject's own checks, of
    # need and of the audit, look a few times more.
    assert 0 <= forwards - (spent - 3 * 50 * 16) < 20
    assert "then learned" in str(found.report.findings[0].provenance.settings["absent players"])


def test_padding_as_the_start_and_another_model_beside_it() -> None:
    how = ExplainGraph(samples=2, value="logit", fill="padding", learn_baseline=True, of="label")
    found = explain_graph(texts(Reader()), replace(how, against=texts(Reader(seed=1), name="other")))
    summary = found.report.findings[0]
    assert summary.measures[0].name == "concept_jaccard"
    assert 0 < float(summary.measures[0].value or 0) < 1
    file = found.file
    assert file is not None
    for one in file.samples:
        assert one.graph["baseline"] is not None
        assert one.other is not None
        assert one.other["baseline"]["baseline"] != one.graph["baseline"]["baseline"]
    pad = on_embeddings(found_model := Reader(), torch.tensor([1, 3, 4, 5, 6, 2])).vector(0)
    start = torch.tensor(file.samples[0].graph["baseline"]["baseline"]).reshape(6, 6)[1]
    assert bool(((start - pad).abs() <= 0.05 * found_model.words.weight.detach().std(0) * 1.001).all())


class Counts(nn.Module):
    """Reads ids as numbers."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.stack([ids.float().sum(1), ids[:, 1].float(), ids[:, 2].float()], dim=1)


def test_models_that_cannot_be_learned_on_or_compared_are_refused() -> None:
    subject = texts(Reader())
    with pytest.raises(ModelError, match="looks its ids up in no"):
        ExplainGraph(learn_baseline=True).need(texts(Counts()), effort="full")
    with pytest.raises(ModelError, match="looks its ids up in no"):
        ExplainGraph(learn_baseline=True, against=texts(Counts())).need(subject, effort="full")
    other = replace(texts(Reader(seed=1), name="other"), inputs=subject.inputs.flip(0))
    with pytest.raises(DataError, match="other cuts the texts into other tokens than reader"):
        ExplainGraph(against=other).need(subject, effort="full")
    with pytest.raises(DataError, match="other tells 4 classes apart but reader 3"):
        ExplainGraph(against=texts(Reader(classes=4), name="other")).need(subject, effort="full")


@pytest.mark.parametrize("more", [{}, {"attack": "linf:0.05"}, {"of": "label"}, {"attack": "l2:0.5", "of": 1}])
def test_what_is_planned_is_spent_the_attack_included(more: dict[str, object]) -> None:
    with Stream(2).forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3))
    subject = Subject(model, Stream(3).uniform((9, 3, 4, 4)), torch.arange(9) % 3)
    how = ExplainGraph(players="grid:2", samples=3, **more)  # type: ignore[arg-type]
    report = explain_graph(subject, how).report
    planned, spent = how.need(subject, effort="full").wanted, report.findings[0].provenance.evaluations
    # An attack's cost is an upper limit: up to three forwards of each of the three samples may not be needed.
    assert planned - (9 if "attack" in more else 0) <= spent <= planned
