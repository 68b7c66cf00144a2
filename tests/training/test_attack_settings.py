import msgspec
import pytest

from pellucid.attacks import (
    L2,
    PGD,
    Flow,
    GridSearch,
    IntegratedSpatial,
    Linf,
    RandomSearch,
    RotateTranslate,
    standard_ensemble,
)
from pellucid.training import AttackSettings
from pellucid.training.objectives import Adversarial, Attacks


@pytest.mark.parametrize(
    ("settings", "attack", "text"),
    [
        ({"eps": 0.1}, PGD(Linf(0.1), steps=20), "PGD-20, linf eps 0.1"),
        (
            {"space": "l2", "eps": 1, "steps": 5, "step_size": 0.4, "restarts": 2, "start": "zero"},
            PGD(L2(1.0), steps=5, step_size=0.4, restarts=2, start="zero"),
            "PGD-5, l2 eps 1, 2 restarts",
        ),
        ({"eps": 0.1, "search": "random"}, RandomSearch(Linf(0.1), draws=10), "linf eps 0.1, worst of 10 at random"),
        (
            {"space": "flow", "max_px": 0.5, "padding": "border"},
            PGD(Flow(0.5, padding="border"), steps=20),
            "PGD-20, flow 0.5px",
        ),
        (
            {"space": "rotate-translate"},
            RandomSearch(RotateTranslate(), draws=10),
            "rotate-translate 30deg 3px, worst of 10 at random",
        ),
        (
            {"space": "rotate-translate", "max_deg": 15, "search": "grid", "grid": (11, 3, 3)},
            GridSearch(RotateTranslate(15.0), grid=(11, 3, 3)),
            "rotate-translate 15deg 3px, grid 11 x 3 x 3",
        ),
        (
            {"space": "rotate-translate", "search": "gradient", "steps": 3},
            PGD(RotateTranslate(), steps=3),
            "PGD-3, rotate-translate 30deg 3px",
        ),
        (
            {"space": "spatial", "flow_px": 0.5, "steps": 4, "draws": 6},
            IntegratedSpatial(0.5, steps=4, starts=6),
            "spatial 0.5px 30deg 3px, 4 steps",
        ),
    ],
)
def test_a_table_names_an_attack(settings, attack, text):
    built = AttackSettings(**settings)
    assert built.build() == attack
    assert str(built) == text
    assert built.build(early_stop=True).early_stop
    assert msgspec.convert(msgspec.to_builtins(built), AttackSettings) == built


def test_an_ensemble_is_the_standard_one():
    settings = AttackSettings(space="l2", eps=0.5, search="ensemble", steps=7, queries=30)
    built = settings.build(early_stop=True, classes=3)
    assert built == standard_ensemble(L2(0.5), 3, steps=7, queries=30)
    assert str(settings) == "the ensemble of four attacks, l2 eps 0.5, 7 steps, 30 queries"
    assert settings.budget == "l2,0.5"
    with pytest.raises(ValueError, match="needs to know how many classes"):
        settings.build()


@pytest.mark.parametrize("objective", ["adversarial", "attacks"])
def test_an_ensemble_is_not_for_training(objective):
    attack = AttackSettings(eps=0.1, search="ensemble")
    with pytest.raises(ValueError, match=r"is for the final test, under \[test\]"):
        Adversarial(attack=attack) if objective == "adversarial" else Attacks(attacks={"linf": attack})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": "flow", "search": "ensemble"}, 'search = "ensemble" is for linf and l2; use gradient or random'),
        ({"eps": 0.1, "queries": 5}, "queries does nothing for an attack in linf by gradient search"),
        ({"eps": 0.1, "search": "ensemble", "draws": 5}, "draws does nothing for an attack in linf by ensemble search"),
        ({}, "an attack in the space linf needs eps, the radius"),
        (
            {"space": "flow", "eps": 0.1},
            "eps does nothing for an attack in flow by gradient search, which reads",
        ),
        ({"space": "rotate-translate", "steps": 3}, "steps does nothing for an attack in rotate-translate by random"),
        ({"eps": 0.1, "draws": 3}, "draws does nothing for an attack in linf by gradient search"),
        (
            {"space": "flow", "search": "grid"},
            'search = "grid" is for rotate-translate; use gradient',
        ),
        ({"space": "spatial", "search": "random"}, 'spatial is searched by "gradient"'),
        ({"space": "rotate-translate", "search": "grid", "grid": (0, 1, 1)}, r"three counts of at least 1, got \[0, 1"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AttackSettings(**settings)
