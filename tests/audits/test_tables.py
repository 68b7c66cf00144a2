"""Audits of tables: players by name, absence from the training data, radii in standard deviations."""

from __future__ import annotations

import inspect
import pkgutil
import re

import numpy as np
import pytest
import torch
from torch import nn

import pellucid
from pellucid.audits import _players as players
from pellucid.audits.probes import Robustness
from pellucid.audits.probes._pairs import pair_exhibits
from pellucid.core import Curve, Heatmap, Stream, Subject, Table
from pellucid.reports import Report

NAMES = ("age", "height", "weight", "income", "rent", "code")


class Linear(nn.Module):
    """Two logits from a weighted sum; a table's features on very different scales."""

    def __init__(self, *, blind=False):
        super().__init__()
        self.weight = torch.tensor([1.0, 0.0, 0.01, 1e-4, 0.0, 5.0])
        self.blind = blind

    def forward(self, x):
        x = x.detach() if self.blind else x
        score = x @ self.weight.to(x)
        return torch.stack([-score, score], dim=1)


def people(n=60, *, seed=0):
    x = Stream(seed).normal((n, 6)) * torch.tensor([1.0, 10.0, 100.0, 1e4, 500.0, 0.0])
    x[:, 5] = 0.0
    return x


def subject(*, groups=None, background=True, blind=False, **changes):
    model, x = Linear(blind=blind), people()
    labels = model(x).argmax(1)
    labels[:3] = 1 - labels[:3]
    return Subject(
        model,
        x,
        labels,
        bounds=None,
        modality="tabular",
        class_names=("poor", "rich"),
        feature_names=NAMES,
        background=people(200, seed=1) if background else None,
        groups=groups or {},
        name="line",
        data_name="people",
        **changes,
    )


def test_a_player_is_a_group_or_a_lone_column_in_the_order_of_the_table():
    s = subject(groups={"money": (4, 3), "body": (1, 2)})
    assert players.feature_players(s) == [("age", (0,)), ("body", (1, 2)), ("money", (4, 3)), ("code", (5,))]
    made = players.features(s)(s.inputs[0])
    assert made.count == 4
    assert made.names == ("age", "body", "money", "code")
    assert made.owner.tolist() == [0, 1, 1, 2, 2, 3]
    assert players.players_in_words(s, made) == "2 groups of features and 2 features"
    every = subject(groups={"a": (0, 1, 2), "b": (3, 4, 5)})
    assert players.kind_of_players(every) == "groups of features"


def test_absence_is_the_mean_of_the_training_data():
    s = subject()
    torch.testing.assert_close(players.background(s), s.background.mean(0))
    assert players.absence_in_words(s) == "mean of the training data, per feature"
    alone = subject(background=False)
    torch.testing.assert_close(players.background(alone), alone.inputs.mean(0))
    assert players.absence_in_words(alone) == "mean of the audited inputs, per feature"


def test_the_spread_is_that_of_the_training_data_and_exactly_zero_where_nothing_varies():
    s = subject()
    scale = players.spread(s)
    torch.testing.assert_close(scale[:5], s.background[:, :5].double().std(0, correction=0))
    assert scale[5] == 0
    near = torch.full((7, 1), 0.1)  # a mean of 0.1s is not 0.1, and leaves a deviation by rounding
    assert players.spread(Subject(nn.Linear(1, 2), near, bounds=None, modality="tabular")) == 0


@pytest.fixture(scope="module")
def report():
    return pellucid.audit(subject(), budget=300_000, quick=True)


def finding(report, name):
    (found,) = [f for f in report.findings if f.name == name]
    return found


def tables(found):
    return {e.title: e for e in found.exhibits if isinstance(e, Table)}


def test_radii_are_standard_deviations_and_say_so(report):
    found = finding(report, "robustness-linf")
    assert found.measure.name == "robust_accuracy[linf,0.1]"
    assert found.measure.label == "accuracy under PGD, linf radius 0.1 sd"
    assert "at most 0.1 standard deviations in each feature" in found.answer
    assert found.provenance.settings["unit of the radii"] == "standard deviation of each feature in the training data"
    curve = next(e for e in found.exhibits if isinstance(e, Curve))
    assert curve.x.unit == "sd"
    names = {m.name: m for m in (found.measure, *found.measures)}
    for radius in ("0.05", "0.1", "0.2", "0.3", "0.5", "1"):
        assert f"robust_accuracy[linf,{radius}]" in names
    assert names["smallest_radius[linf]"].unit == "sd"
    assert any("never changed: code" in caution for caution in found.cautions)
    assert "robustness-l2" in {f.name for f in report.findings}


def test_the_smallest_radius_is_that_of_the_closed_form(report):
    """For a linear score the nearest fooling change has linf size |score| / sum of |w| sd."""
    found, s = finding(report, "robustness-linf"), subject()
    scale = players.spread(s)
    exact = (s.inputs.double() @ s.model.weight.double()).abs() / (s.model.weight.double() * scale).sum()
    (measure,) = [m for m in found.measures if m.name == "smallest_radius[linf]"]
    by_id = dict(zip(found.provenance.sample_ids, measure.samples, strict=True))
    for row in range(3, 60):  # the first three are wrong without any change
        assert by_id[row] == pytest.approx(min(float(exact[row]), 1.0), rel=0.03, abs=5e-4)
        assert by_id[row] >= min(float(exact[row]), 1.0) - 1e-6


def test_victims_are_rows_before_and_after_with_what_counts_first(report):
    table = tables(finding(report, "robustness-linf"))["Smallest changes found that fool the model (linf)"]
    assert table.columns[3:] == ("feature", "before", "after", "change", "effect")
    scale = dict(zip(NAMES, players.spread(subject()).tolist(), strict=True))
    for _, _, _, name, before, after, change, effect in table.rows:
        moved = (float(after) - float(before)) / scale[name] if scale[name] else 0.0
        assert moved == pytest.approx(float(change.removesuffix(" sd")), abs=0.02)
        assert effect <= 1e-6
        assert name != "code" or before == after
    assert {row[3] for row in table.rows if row[7] < -1e-4} == {"age", "weight", "income"}  # the weights that are not 0


def test_mistakes_are_rows_with_their_unusual_features(report):
    table = tables(finding(report, "accuracy"))["The mistakes it is surest of"]
    assert len(table.rows) == 3
    assert {row[0] for row in table.rows} == {0, 1, 2}
    assert all(any(name in cell for name in NAMES) and cell.endswith("sd)") for row in table.rows for cell in row[4:])
    assert "mean of the training data" in table.caption


def test_combinations_and_settings_name_the_features(report):
    found = finding(report, "concepts")
    bars = next(e for e in found.exhibits if isinstance(e, Curve) and e.title == "The combinations that count most")
    assert set(bars.categories) == {"age", "weight", "income"}  # a sum has no interactions
    assert found.provenance.settings["absent players"] == "mean of the training data, per feature"
    assert found.provenance.settings["players"] == "6 features"
    rows = tables(found)["Strongest patterns"].rows
    assert {row[2] for row in rows} <= {"age", "weight", "income"}


def test_a_model_without_gradients_answers_everything_else():
    made = pellucid.audit(subject(blind=True), budget=300_000, quick=True)
    assert {s.probe: s.reason for s in made.skipped} == {
        "feature-diversity": "line has no activation, linear or convolutional layer to watch",
        "collapse": "line has no linear layer that can be watched, so there are no class directions to compare",
    }
    assert [f.name for f in made.findings] == [
        "accuracy",
        "calibration",
        "robustness-linf",
        "robustness-l2",
        "bottleneck",
        "concepts",
    ]
    searched = finding(made, "robustness-linf")
    assert searched.provenance.settings["attack"] == "Square"
    assert "The attack is Square with 60 queries" in searched.answer
    assert any("flow, rt and spatial, because" in caution for caution in searched.cautions)
    assert not made.failed


def test_too_many_columns_can_be_grouped():
    x = Stream(0).normal((8, 15))
    model = nn.Linear(15, 2)
    wide = Subject(model, x, bounds=None, modality="tabular")
    said = pellucid.audits.PROBES["concepts"].need(wide, effort="full").skip
    assert "put the columns into at most 12 groups, in Python by the argument groups={'NAME': (0, 1), ...}" in said
    for name in re.findall(r"pellucid\.\w+\.\w+", said):
        assert "groups" in inspect.signature(pkgutil.resolve_name(name)).parameters
    groups = {f"g{k}": tuple(range(3 * k, 3 * k + 3)) for k in range(5)}
    grouped = Subject(model, x, bounds=None, modality="tabular", groups=groups)
    assert not pellucid.audits.PROBES["concepts"].need(grouped, effort="full").skip


def test_a_table_in_which_nothing_varies_is_not_attacked():
    flat = Subject(nn.Linear(2, 2), torch.ones(4, 2), torch.tensor([0, 1, 0, 1]), bounds=None, modality="tabular")
    assert "all inputs are the same" in Robustness().need(flat, effort="full").skip


def test_pairs_are_named_and_averaged_over_the_samples_that_measured_them():
    pairs = torch.tensor([[[0, 1], [1, 2]], [[1, 0], [0, 2]]])
    values = torch.tensor([[[1.0, 3.0], [0.5, 0.5]], [[-3.0, 1.0], [0.0, 0.0]]])
    matrix, table = pair_exhibits(("a", "b", "c"), pairs, values, torch.tensor([0.0, 1.0]), unit="nats")
    assert isinstance(matrix, Heatmap)
    assert matrix.values == ((None, 2.0, 0.0), (2.0, None, 0.5), (0.0, 0.5, None))
    assert table.rows == (("a", "b", 2.0, 2.0, 2.0, 2), ("b", "c", 0.5, 0.5, 0.5, 1))
    assert pair_exhibits(("a", "b", "c"), pairs, torch.zeros_like(values), torch.tensor([0.0, 1.0]), unit="nats") == ()


@pytest.mark.parametrize("kind", ["forest", "network"])
def test_scikit_learn_models_are_audited_end_to_end(kind, tmp_path):
    ensemble = pytest.importorskip("sklearn.ensemble")
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from pellucid import data

    train = data.load("breast-cancer", split="train")
    model = (
        ensemble.RandomForestClassifier(10, random_state=0)
        if kind == "forest"
        else make_pipeline(
            StandardScaler(), MLPClassifier((16,), solver="lbfgs", max_iter=500, tol=1e-3, random_state=0)
        )
    )
    model.fit(np.asarray(train.inputs), np.asarray(train.labels))
    audited = pellucid.subject(model, "breast-cancer", samples=60)
    report = pellucid.audit(audited, quick=True, out=tmp_path / "run")
    names = ["accuracy", "calibration", "robustness-linf", "robustness-l2", "bottleneck", "concepts"]
    assert [f.name for f in report.findings] == names
    assert {s.probe for s in report.skipped} == {"feature-diversity", "collapse"}
    assert finding(report, "accuracy").measure.value > 85
    assert "concave points" in str(tables(finding(report, "concepts"))["Strongest patterns"].rows)
    assert Report.load(tmp_path / "run").findings[-1].provenance.settings["players"] == "10 groups of features"
