"""Which probes run: names, objects, both."""

import pytest
import torch
from torch import nn

import pellucid
from pellucid.audits import PROBES, plan, usual_probes
from pellucid.audits._plan import chosen
from pellucid.audits.probes import Accuracy, Robustness
from pellucid.core import Need, Subject


@pytest.fixture
def subject():
    return Subject(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(9, 1, 4, 4), torch.arange(9) % 3)


def test_one_name_needs_no_list(subject):
    assert [row.probe for row in plan(subject, probes="accuracy").rows] == ["accuracy"]
    assert [f.probe for f in pellucid.audit(subject, probes="accuracy").findings] == ["accuracy"]
    assert list(chosen(None, "accuracy")) == [name for name in PROBES if name != "accuracy"]


def test_objects_take_the_place_of_their_name_and_new_ones_come_last():
    class Own:
        name, question = "own", "What?"

        def need(self, subject, *, effort): ...

        def __call__(self, subject, budget, rng, *, work=None): ...

    robust, own = Robustness(attacks=("l2",)), Own()
    picked = chosen([own, robust, "accuracy"], ())
    assert list(picked) == ["accuracy", "robustness", "own"]
    assert picked["robustness"] is robust
    assert picked["own"] is own


def test_probes_outside_the_audit_run_where_they_are_named(monkeypatch):
    class Extra:
        name, question = "extra", "What else?"

        def need(self, subject, *, effort): ...

        def __call__(self, subject, budget, rng, *, work=None): ...

    monkeypatch.setattr("pellucid.audits._plan.MORE", {"extra": Extra()})
    assert list(chosen(None, ())) == list(PROBES)
    assert list(chosen(["extra", "accuracy"], ())) == ["accuracy", "extra"]
    with pytest.raises(ValueError, match="did you mean 'extra'"):
        chosen("extr", ())


def test_a_probe_joins_the_audits_that_it_suits(monkeypatch, subject):
    class Flat:
        name, question = "flat", "Does it flatten?"

        def suits(self, subject):
            return any(isinstance(layer, nn.Flatten) for layer in subject.model.modules())

        def need(self, subject, *, effort):
            return Need(0, 0)

        def __call__(self, subject, budget, rng, *, work=None):
            return []

    monkeypatch.setattr("pellucid.audits._plan.MORE", {"flat": Flat()})
    other = Subject(nn.Linear(4, 3), torch.rand(9, 4), modality="tabular")
    assert usual_probes() == (*PROBES, "flat")
    assert usual_probes(subject) == (*PROBES, "flat")
    assert usual_probes(other) == tuple(PROBES)
    assert [row.probe for row in plan(subject).rows] == [*PROBES, "flat"]
    assert [row.probe for row in plan(subject, probes="accuracy").rows] == ["accuracy"]
    assert [row.probe for row in plan(subject, skip="flat").rows] == list(PROBES)
    assert [row.probe for row in plan(other, probes=["flat", "accuracy"]).rows] == ["accuracy", "flat"]


@pytest.mark.parametrize(
    ("probes", "error", "message"),
    [
        ("acuracy", ValueError, "there is no probe 'acuracy'; did you mean 'accuracy'?"),
        (["robustness", Robustness()], ValueError, "'robustness' is given twice"),
        ([Accuracy(), Accuracy()], ValueError, "'accuracy' is given twice"),
        ([], None, ""),
    ],
)
def test_unfit_choices_are_refused(probes, error, message):
    if error is None:
        assert list(chosen(probes, ())) == list(PROBES)
        return
    with pytest.raises(error, match=message):
        chosen(probes, ())
