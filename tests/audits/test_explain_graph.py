"""And-Or graphs as an audit: what is found, said, drawn, kept, compared and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pellucid.audits import (
    ExplainedGraphs,
    ExplainGraph,
    compare,
    explain_graph,
    graph_exhibit,
    graphs_beside,
)
from pellucid.core import BudgetError, DataError, Graph, PellucidError, Picture, RunError, Stream, Subject
from pellucid.data import synthetic_images, synthetic_table
from pellucid.explain import and_or_graph_of
from pellucid.games import Features, zeta


def net(seed: int, inputs: int, classes: int) -> nn.Module:
    with Stream(seed).child("net").forked():
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, classes))


def images(seed: int = 0) -> Subject:
    data = synthetic_images(12, rng=Stream(0))
    return Subject(net(seed, 144, 4), data.inputs, data.labels, name=f"net-{seed}", data_name="drawn")


def rows() -> Subject:
    data = synthetic_table(12, rng=Stream(0))
    return Subject(
        net(0, 6, 2), data.inputs, data.labels, bounds=None, modality="tabular", name="net", data_name="rows"
    )


QUICK = ExplainGraph(players="grid:2", samples=2)


def drawings(found: ExplainedGraphs) -> list[Graph]:
    return [e for f in found.report.findings for e in f.exhibits if isinstance(e, Graph)]


def test_each_sample_has_its_graph_with_its_image() -> None:
    found = explain_graph(images(), QUICK)
    assert found.report.findings[0].name == "graph"
    assert len(found.graphs) == len(found.drawings) == 2
    for sample, drawing in found.drawings.items():
        graph = found.graphs[sample]
        assert drawing.picture is not None
        assert drawing.picture.grid == (2, 2)
        assert [n.weight for n in drawing.nodes if n.kind == "pattern"] == [p.effect for p in graph.patterns]
        assert "of the variance of the score over all 16 masked versions" in drawing.caption


def test_features_show_their_values_against_the_baseline() -> None:
    subject = rows()
    found = explain_graph(subject, ExplainGraph(samples=1, explained=1.0))
    (drawing,) = drawings(found)
    row = subject.inputs[subject.ids.tolist().index(found.file.samples[0].sample)]
    mean = subject.inputs.double().mean(0)
    for node in drawing.nodes:
        if node.kind == "player":
            (p,) = node.players
            if abs(row[p] - mean[p]) > 1e-5:
                assert node.trend == ("above" if row[p] > mean[p] else "below")
            assert float(node.value.replace(",", "")) == pytest.approx(float(row[p]), rel=0.01)


def test_what_absent_parts_show_does_not_depend_on_which_samples_are_explained() -> None:
    subject = images()
    two, one = explain_graph(subject, QUICK), None
    ids = tuple(two.graphs)
    one = explain_graph(subject, ExplainGraph(players="grid:2", ids=ids[:1]))
    torch.testing.assert_close(one.graphs[ids[0]].and_terms, two.graphs[ids[0]].and_terms)


def test_it_is_kept_read_and_exported(tmp_path: Path) -> None:
    found = explain_graph(images(), QUICK, out=tmp_path / "run")
    again = ExplainedGraphs.load(tmp_path / "run")
    assert again.file == found.file
    files = again.export(tmp_path / "run", ("svg", "graphml", "json"))
    assert sorted(path.name for path in files) == sorted(
        f"graph-{sample}.{kind}" for sample in found.graphs for kind in ("svg", "graphml", "json")
    )
    assert graphs_beside(tmp_path / "run" / "report.json") == found.file
    assert graphs_beside(tmp_path) is None
    with pytest.raises(RunError, match=r"holds no graphs: its graph.json is missing"):
        ExplainedGraphs.load(found.report.save(tmp_path / "bare").parent)


def test_a_constant_model_is_said_plainly() -> None:
    model = net(0, 144, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    data = synthetic_images(12, rng=Stream(0))
    found = explain_graph(Subject(model, data.inputs, data.labels), QUICK)
    assert drawings(found) == []
    assert found.report.findings[0].answer == "No score changes when cells are masked, so there are no patterns."
    assert "does not change when cells are masked" in found.report.findings[1].answer


def test_not_sparse_is_said_first() -> None:
    found = explain_graph(images(), ExplainGraph(players="grid:3", samples=1, max_patterns=2, explained=0.999))
    assert found.report.findings[1].answer.startswith("Not sparse here: 2 patterns of 511 explain")
    assert "Not sparse on the other" in found.report.findings[0].answer


@pytest.mark.parametrize("how", [{"against": images(1)}, {"attack": "linf:0.1"}], ids=["model", "attack"])
def test_concepts_are_compared(how: dict[str, object]) -> None:
    found = explain_graph(images(), ExplainGraph(players="grid:2", samples=2, **how))
    first = found.report.findings[0]
    alike = next(m for m in first.measures if m.name == "concept_jaccard")
    assert 0 < alike.value < 1
    assert len(drawings(found)) == 4  # two of each sample
    assert all(one.other is not None for one in found.file.samples)
    tables = [e.title for e in found.report.findings[1].exhibits]
    assert "Patterns matched" in tables


def test_a_model_compared_with_itself_has_the_same_concepts() -> None:
    found = explain_graph(images(), ExplainGraph(players="grid:2", samples=2, against=images()))
    alike = next(m for m in found.report.findings[0].measures if m.name == "concept_jaccard")
    assert alike.value == pytest.approx(1.0)


def test_two_runs_are_matched_pattern_by_pattern(tmp_path: Path) -> None:
    how = ExplainGraph(players="grid:2", samples=2, of="label")
    one, two = explain_graph(images(), how), explain_graph(images(1), how)
    whole = compare(one.report, two.report, graphs=(one.file, two.file))
    assert "The concepts of 2 samples have a Jaccard similarity of" in whole.answer
    assert whole.exhibits[0].title == "How alike the concepts are"
    drawn = compare(one.report, two.report)
    assert any("by the patterns drawn in both reports" in caution for caution in drawn.cautions)
    whole.save(tmp_path / "compared")


def test_and_or_patterns_and_a_learned_baseline() -> None:
    found = explain_graph(rows(), ExplainGraph(samples=1, logic="and-or", learn_baseline=True))
    (graph,) = found.graphs.values()
    assert graph.logic == "and-or"
    assert graph.baseline.l1_after <= graph.baseline.l1_before
    assert "Learning what absent features show lowered the sum" in found.report.findings[1].answer


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        (ExplainGraph(players="grid:5"), BudgetError, "25 players"),
        (ExplainGraph(players="grid:3x6"), BudgetError, "a graph of 18 players would take 2\\*\\*18 = 262,144"),
        (ExplainGraph(players="words"), DataError, "words are no players"),
        (ExplainGraph(explained=0.0), DataError, "explained must lie in"),
        (ExplainGraph(max_patterns=0), DataError, "max-patterns be at least 1"),
        (ExplainGraph(attack="linf"), DataError, "such as linf:8/255"),
        (ExplainGraph(attack="linf:1/0"), DataError, "such as linf:8/255"),
        (ExplainGraph(of="cow"), DataError, "there is no class 'cow'"),
        (ExplainGraph(value="luck"), DataError, "there is no value 'luck'"),
        (ExplainGraph(against=rows()), DataError, "takes other inputs"),
    ],
)
def test_what_cannot_be_drawn_is_said(how: ExplainGraph, error: type[PellucidError], text: str) -> None:
    with pytest.raises(error, match=text):
        explain_graph(images(), how)


def test_both_comparisons_at_once_are_refused() -> None:
    found = explain_graph  # raised while it is measured, so the audit keeps it as a skipped question
    report = found(images(), ExplainGraph(players="grid:2", against=images(1), attack="l2:1")).report
    assert "not with both at once" in report.skipped[0].reason


def exact(*effects: float) -> torch.Tensor:
    return zeta(torch.tensor(effects, dtype=torch.float64))


def test_an_exhibit_draws_the_strongest_and_what_they_are_made_of() -> None:
    players = Features(fill="zero", names=("a", "b", "c"))(torch.zeros(3))
    graph = and_or_graph_of(exact(0, 1, 2, 0, 3, 0, 0, 4), players, noise=0.0, explained=1.0)
    drawing = graph_exhibit(graph, most=2)
    assert [n.label for n in drawing.nodes] == ["score", "a + b + c", "c", "a", "b", "c"]
    assert drawing.caption.endswith("The strongest 2 are drawn.")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"values": ("1",)}, "values must have one entry per player, got 1 for 2"),
        ({"trends": ("above",)}, "trends must have one entry"),
        ({"picture": Picture(pixels=torch.zeros(4, 4, dtype=torch.uint8).numpy(), title="p", grid=(3, 3))}, "3 x 3"),
    ],
)
def test_an_exhibit_of_other_players_is_refused(given: dict[str, object], text: str) -> None:
    players = Features(fill="zero")(torch.zeros(2))
    with pytest.raises(ValueError, match=text):
        graph_exhibit(and_or_graph_of(exact(0, 1, 2, 3), players, noise=0.0), **given)
