"""The probe of implicit layers: level, advice, and its way through the command line."""

import json
import shlex

import pytest
import torch

import pellucid
from pellucid.audits import MEASURES, _levels, usual_probes
from pellucid.audits.probes import ImplicitLayers
from pellucid.cli import main
from pellucid.core import Interval, Stream, Subject
from pellucid.data import synthetic_images
from pellucid.nn.models import ImplicitConvSettings, SolverSettings


def subject(**settings):
    data = synthetic_images(16, rng=Stream(0), size=8)
    with Stream(1).child("model").forked():
        model = ImplicitConvSettings(image_size=8, channels=4, groups=2, classes=4, **settings).build().double()
    return Subject(model, data.inputs.double(), data.labels)


def finding(**settings):
    made = subject(**settings)
    (found,) = ImplicitLayers(samples=10, few=2)(made, 500, Stream(0))
    return found


def test_it_joins_audits_of_models_that_hold_such_a_layer():
    made = subject()
    assert "implicit" in usual_probes(made)
    other = Subject(torch.nn.Linear(3, 2), torch.rand(5, 3), modality="tabular")
    assert "implicit" not in usual_probes(other)
    row = ImplicitLayers().need(other, effort="full")
    assert "holds no implicit layer" in row.skip


def test_a_layer_that_settles_is_fine():
    found = finding(solver=SolverSettings(max_iter=40))
    assert found.level == "fine"
    assert found.measure.value == 100
    assert found.advice is None
    names = {m.name for m in (found.measure, *found.measures)}
    assert {"settled[equilibrium]", "gradient_cosine[equilibrium,upg]", "backward_memory[equilibrium,exact]"} <= names
    for measure in (found.measure, *found.measures):
        known = MEASURES[measure.name.partition("[")[0]]
        assert known.probe == "implicit"
        assert known.share == (measure.unit == "%")
    assert len(found.exhibits) == 5


def test_missing_steps_are_told_with_their_number():
    found = finding(solver=SolverSettings(max_iter=8, tol=1e-4))
    assert found.level in ("watch", "weak")
    assert found.measure.value < 50
    assert "more steps" in found.advice.text
    asked = next(word for word in shlex.split(found.advice.command) if word.startswith("model.solver.max_iter="))
    again = finding(solver=SolverSettings(max_iter=int(asked.partition("=")[2]), tol=1e-4))
    assert again.measure.value == 100


@pytest.mark.parametrize(
    ("settled", "changed", "cosine", "level"),
    [
        (0.99, 0.0, 0.9, "fine"),
        (0.99, None, float("nan"), "fine"),
        (0.5, 0.0, 0.9, "watch"),
        (0.99, 0.0, 0.2, "watch"),
        (0.99, 0.0, -0.1, "weak"),
        (0.99, 0.3, 0.9, "weak"),
        (0.99, 0.06, 0.9, "watch"),
    ],
)
def test_levels(settled, changed, cosine, level):
    def about(share):
        return Interval(share, max(0.0, share - 0.02), min(1.0, share + 0.02))

    judged = _levels.implicit(about(settled), None if changed is None else about(changed), cosine)
    assert judged.level == level
    assert judged.reason.endswith(".")


def test_settings_are_checked():
    with pytest.raises(ValueError, match="few must be at least 1"):
        ImplicitLayers(few=0)


def test_a_penalty_on_the_jacobian_is_trained_and_audited_from_the_command_line(tmp_path, capsys):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        'name = "tiny"\nepochs = 1\nbatch_size = 16\n[model]\nkind = "implicit-graph"\nfeatures = 3\nwidth = 4\n'
        'readout = "first"\n[model.backward]\nmode = "exact"\ntol = 1e-3\n[data]\nkind = "synthetic-graphs"\nn = 32\n'
        '[objective]\nkind = "equilibrium"\n[weighting]\nweights = {clean = 1, jacobian = 0.1}\n',
        encoding="utf-8",
    )
    run, report = tmp_path / "run", tmp_path / "report"
    assert main(["train", str(recipe), "--out", str(run)]) == 0
    log = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert log["jacobian"] >= 0
    assert main(["audit", str(run), "synthetic-graphs", "--samples", "10", "--out", str(report), "--quick"]) == 0
    made = pellucid.reports.Report.load(report)
    assert {f.probe for f in made.findings} >= {"accuracy", "implicit"}
    assert any("graphs are not taken apart" in s.reason for s in made.skipped)
    durations = json.loads((report / "manifest.json").read_text())["durations"]
    assert "implicit: equilibrium, exact" in durations
    assert "seconds" not in (report / "report.json").read_text().replace("Seconds depend on the machine", "")
    capsys.readouterr()


def test_another_network_has_no_jacobian_to_keep_small(tmp_path, capsys):
    changes = (
        "objective.kind=equilibrium",
        "data.kind=synthetic-images",
        "data.size=28",
        "data.classes=10",
        "limit=128",
    )
    words = [word for change in changes for word in ("--set", change)]
    assert main(["train", "fashion-standard", *words, "--out", str(tmp_path / "run")]) == 2
    assert "needs a network with an implicit layer" in capsys.readouterr().err
