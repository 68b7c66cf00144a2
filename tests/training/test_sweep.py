"""A sweep: trained once, opened afterwards, resumed bit for bit, and the front of what was measured."""

import json

import pytest

from pellucid.core import RecipeError, RunError, RunFolder
from pellucid.training import Recipe, Sweep, sweep

PARETO = (
    "epochs=2",
    "limit=24",
    "weighting.kind=pareto",
    "weighting.window=2",
    "weighting.resolve_every=1",
    "weighting.smoothing=0.5",
    "objective.kind=attacks",
    "objective.attacks.linf.eps=0.1",
    "objective.attacks.linf.steps=1",
    "objective.attacks.rt.space=rotate-translate",
    "objective.attacks.rt.draws=2",
    "test.limit=12",
    "test.attacks.linf.eps=0.1",
    "test.attacks.linf.steps=3",
    "test.attacks.ensemble.search=ensemble",
    "test.attacks.ensemble.eps=0.1",
    "test.attacks.ensemble.steps=2",
    "test.attacks.ensemble.queries=3",
    "test.attacks.flow.space=flow",
    "test.attacks.flow.steps=2",
    "test.attacks.spatial.space=spatial",
    "test.attacks.spatial.steps=1",
    "test.attacks.spatial.draws=2",
    "test.attacks.rt.space=rotate-translate",
    "test.attacks.rt.search=grid",
    "test.attacks.rt.grid=[3, 3, 3]",
)


@pytest.fixture
def pareto(recipe_file):
    return Recipe.load(recipe_file, overrides=PARETO)


def files(folder):
    """What a sweep computed: weights and logs of its models, and the front."""
    names = ("model.safetensors", "log.jsonl", "front.json")
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.name in names}


def test_a_sweep_is_trained_measured_and_opened_again(pareto, tmp_path):
    told = []
    settings = {"over": "weighting.rho", "values": (0, 1.0)}
    found = sweep(pareto, tmp_path / "s", seeds=(4,), **settings, on_event=lambda title, e: told.append(title))
    front = found.front
    assert [(m.label, m.seed) for m in front.models] == [("0", 4), ("1.0", 4)]
    assert front.axes == ("natural", "linf", "ensemble", "flow", "spatial", "rt")
    assert front.samples == 12
    assert front.name == "tiny"
    assert front.complete
    assert any(model.member for model in front.models)
    assert told[0] == "rho = 0, seed 4"
    for model in front.models:
        natural, linf, ensemble, flow, spatial, rt = model.values
        assert spatial <= min(flow, rt) <= natural
        assert max(linf, ensemble) <= natural
        assert sum(weights[-1] for weights in model.weights.values()) == pytest.approx(1, abs=1e-5)
        assert found.run(model).recipe.seed == model.seed
    # On the last step all weight is where the dial points, up to the smoothing.
    assert front.models[0].weights["natural"][-1] != front.models[1].weights["natural"][-1]
    before = files(tmp_path / "s")
    again = sweep(pareto, tmp_path / "s", seeds=(4,), **settings, on_event=lambda title, e: pytest.fail("trained"))
    assert again.front == front == Sweep.open(tmp_path / "s").front
    assert files(tmp_path / "s") == before


def test_an_interrupted_sweep_goes_on_bit_for_bit(pareto, tmp_path):
    settings = {"over": "weighting.rho", "values": (0.25, 0.75), "seeds": (3,)}
    sweep(pareto, tmp_path / "whole", **settings)

    def stop(title, event):
        if title.startswith("rho = 0.75") and event.kind == "step" and event.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(pareto, tmp_path / "broken", **settings, on_event=stop)
    assert RunFolder.open(tmp_path / "broken").status == "partial"
    assert len(Sweep.open(tmp_path / "broken").front.models) == 1
    assert not Sweep.open(tmp_path / "broken").front.complete
    sweep(pareto, tmp_path / "broken", **settings)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_any_setting_can_be_swept(recipe_file, tmp_path):
    changes = ("epochs=1", "test.limit=9", "test.attack.eps=0.05", "test.attack.steps=1")
    found = sweep(recipe_file, tmp_path / "s", over="weighting.kind", values=("uniform", "max"), overrides=changes)
    assert found.front.axes == ("natural", "linf,0.05")
    assert [model.weights for model in found.front.models] == [{}, {}]  # one term: its weight never changes
    assert [path.name for path in sorted((tmp_path / "s" / "models").iterdir())] == [
        "kind-max-seed-0",
        "kind-uniform-seed-0",
    ]
    assert json.loads((tmp_path / "s" / "front.json").read_text())["over"] == "weighting.kind"


@pytest.mark.parametrize(
    ("over", "values", "seeds", "message"),
    [
        ("weighting.row", (0,), (0,), r"there is no key weighting\.row; did you mean rho\?"),
        ("weighting.rho", (0, 2), (0,), r"weighting\.rho is 2: expected `float` <= 1"),
        ("weighting.rho", (), (0,), "the values of a sweep must be one or more different ones, got none"),
        ("weighting.rho", (0, 0), (0,), "different ones, got 0, 0"),
        ("weighting.rho", (0,), (1, 1), "the seeds of a sweep must be one or more different ones"),
        ("test.attacks", ("{}",), (0,), "a front needs something to trade accuracy against"),
    ],
)
def test_mistakes_are_found_before_the_first_training(pareto, tmp_path, over, values, seeds, message):
    with pytest.raises(RecipeError, match=message):
        sweep(pareto, tmp_path / "s", over=over, values=values, seeds=seeds)
    assert not (tmp_path / "s").exists()


def test_a_folder_of_something_else_is_refused(pareto, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="an output folder that is not ours"):
        sweep(pareto, tmp_path / "s", over="weighting.rho", values=(0,))
    with pytest.raises(RunError, match="holds no run"):
        Sweep.open(tmp_path / "s")
