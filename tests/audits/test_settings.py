"""Changed settings of probes: what is read, what is refused, and where it is written down."""

import pytest
import torch

import pellucid
from pellucid.audits import MORE, PROBES, changed_settings, settings_of, with_settings
from pellucid.audits.probes import Robustness
from pellucid.cli import main
from pellucid.core import PellucidError, RunError, Subject


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        (["robustness.attacks=linf"], Robustness(attacks=("linf",))),
        (["robustness.attacks=l2,linf"], Robustness(attacks=("l2", "linf"))),
        (['robustness.attacks=["l2"]'], Robustness(attacks=("l2",))),
        (["robustness.radii.linf=0.1"], Robustness(radii={"linf": (0.1,)})),
        (
            ["robustness.radii.linf=0.1,0.2", "robustness.radii.l2=1"],
            Robustness(radii={"linf": (0.1, 0.2), "l2": (1,)}),
        ),
    ],
)
def test_a_change_makes_the_probe_with_it(changes, made):
    assert with_settings(["robustness"], changes) == (made,)
    assert with_settings([Robustness()], changes) == (made,)
    assert len(with_settings([], changes)) == len(PROBES)


def test_without_changes_names_stay_names():
    assert with_settings(["accuracy", "robustness"], []) == ("accuracy", "robustness")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("robustness", "takes key=value, got 'robustness'; write it like bottleneck.settings=official"),
        ("robustnes.attacks=linf", "no probe 'robustnes'; did you mean robustness?"),
        ("robustness.attack=linf", "no setting 'attack' of robustness; did you mean attacks?"),
        (
            "robustness=linf",
            "no setting of robustness is named; its settings are radii, attacks, flow_px, max_deg, max_px, padding",
        ),
        ("accuracy.norms=linf", "the probe accuracy has no settings"),
        ("robustness.name=other", "no setting 'name' of robustness"),
        ("robustness.attacks=l3", "attacks are linf, l2, flow, rt, spatial and ensemble, got 'l3'"),
        ("robustness.radii=7", "robustness.radii=7: expected `object`, got `int`"),
        ("concepts.grid=3", "the probe concepts is not asked"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, words):
    with pytest.raises(PellucidError, match=r"^--set ") as refused:
        with_settings(["accuracy", "robustness"], [change])
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_value_twice_as_table_and_value():
    with pytest.raises(PellucidError, match="radii has a value already"):
        with_settings([], ["robustness.radii=1", "robustness.radii.linf=1"])


def test_settings_are_listed_with_their_meaning():
    radii, attacks = settings_of(Robustness())[:2]
    assert attacks[:2] == ("attacks", ())
    assert "which of linf, l2" in attacks.text
    assert radii.text.startswith("more radii")
    assert all(setting.text for probe in (PROBES | MORE).values() for setting in settings_of(probe))


def test_changed_settings_are_those_that_differ():
    assert changed_settings(Robustness()) == {}
    assert changed_settings(Robustness(attacks=("l2",))) == {"attacks": ("l2",)}


@pytest.fixture
def subject():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    x = torch.rand(12, 1, 8, 8)
    return Subject(model, x, model(x).argmax(1).detach())


def test_the_report_and_its_next_commands_keep_the_settings(subject, tmp_path):
    probes = with_settings(["bottleneck"], ["bottleneck.grid=3x4"])
    command = "pellucid audit net data --budget 9000 --set bottleneck.grid=3x4 --set robustness.attacks=linf"
    report = pellucid.audit(subject, probes=probes, budget=9_000, command=command, out=tmp_path / "a")
    (finding,) = [f for f in report.findings if f.name.startswith("bottleneck")]
    assert finding.provenance.settings["chosen settings"] == "grid = (3, 4)"
    assert "grid=(3, 4)" in report.settings["probes"]
    assert finding.advice.command.endswith("--set bottleneck.grid=3x4")
    kept = tmp_path / "a"
    with pytest.raises(RunError, match="another choice of probes or of their settings"):
        pellucid.audit(subject, probes=["bottleneck"], budget=9_000, out=kept, resume=True)


def test_the_command_lists_settings_and_refuses_unknown_ones(capsys):
    assert main(["probes", "list"]) == 0
    assert "robustness.attacks" in capsys.readouterr().out
    assert main(["audit", "fashion-standard", "fashion-mnist", "--set", "bottleneck.gird=3"]) == 2
    assert "did you mean grid?" in capsys.readouterr().err
