"""Atoms of matrix decompositions in audits: planted ones are found, chance is told, layers have the user's names."""

import re

import pytest
import torch
from torch import nn

from pellucid.audits import MORE, audit, plan, usual_probes
from pellucid.core import Heatmap, Overlays, Stream, Subject, Table
from pellucid.data import synthetic_images
from pellucid.nn import Hamburger, MatrixDecomposition

COLORS = torch.eye(3)


class Planted(nn.Module):
    """Pixels are red, green or blue; the layer begins with these colors as its atoms and answers with them."""

    def __init__(self, rank=3, stride=1, **changes):
        super().__init__()
        self.pool = nn.AvgPool2d(stride)
        self.ham = MatrixDecomposition(3, rank=rank, init="learned", **changes)
        start = torch.cat([COLORS, torch.rand(rank - 3, 3, generator=torch.Generator().manual_seed(0))])
        with torch.no_grad():
            self.ham.start.copy_(start.T[None])

    def forward(self, x):
        return 5 * self.ham(self.pool(x))


def colored(n=16, classes=3):
    masks = Stream(1).integers(classes, (n, 4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    return COLORS[masks].permute(0, 3, 1, 2).contiguous(), masks


def dense(model, masks=None, **changes):
    x, found = colored()
    return Subject(model, x, found if masks is None else masks, class_names=("sea", "land", "lake"), **changes)


def values(finding):
    return {m.name.partition("[")[0]: m.value for m in (finding.measure, *finding.measures)}


def ask(subject, **changes):
    report = audit(subject, probes="concept-maps", **changes)
    assert not report.failed
    return report.findings


def table(finding):
    return next(e for e in finding.exhibits if isinstance(e, Table))


@pytest.mark.parametrize("stride", [1, 2])
def test_planted_atoms_follow_their_classes_wholly(stride):
    (finding,) = ask(dense(Planted(stride=stride)))
    found = values(finding)
    assert finding.name == "concept-maps"
    assert finding.level == "noted"
    assert found["atoms_matched"] == 3
    assert found["concept_iou"] > 99
    assert found["atom_steadiness"] == 100
    assert "3 of 3 atoms follow a class" in finding.answer
    assert "an IoU of 100%" in finding.answer
    rows = {row[0]: row for row in table(finding).rows}
    assert [rows[f"atom {k + 1}"][4] for k in range(3)] == ["sea", "land", "lake"]
    assert all(row[5] > 0.99 and row[6] < 0.5 and row[7] == "yes" for row in rows.values())
    # Without its atom a class is not answered any more, but where all are zero the first one is.
    assert [rows[f"atom {k + 1}"][9] > 0.99 for k in range(3)] == [False, True, True]
    assert "Without the layer's answer" in finding.answer
    assert found["decomposition_effect"] > found["atom_effect"] > 20
    # The name is that of the user's own model, also where its answers are enlarged.
    assert finding.measure.name == "atoms_matched[ham]"


def test_atoms_of_other_images_follow_nothing():
    _, masks = colored()
    (finding,) = ask(dense(Planted(), masks.roll(3, 0)))
    assert values(finding)["atoms_matched"] == 0
    assert "None of 3 atoms follows a class" in finding.answer
    assert all(row[7] == "no" for row in table(finding).rows)


def test_the_viewer_holds_image_labels_answer_and_every_atom():
    (finding,) = ask(dense(Planted()))
    viewer = next(e for e in finding.exhibits if isinstance(e, Overlays))
    assert len(viewer.pictures) == 6
    labels = [overlay.label for overlay in viewer.pictures[0].overlays]
    assert labels[:2] == ["labels", "answer"]
    assert sorted(labels[2:]) == ["atom 1", "atom 2", "atom 3"]
    assert not viewer.beside
    assert re.search(
        r"carries [\d.]+% of the layer's answer here\. It follows \w+: IoU 100%", viewer.pictures[0].overlays[2].caption
    )
    assert not any(isinstance(e, Heatmap) for e in finding.exhibits)


def test_unused_atoms_are_counted_and_a_smaller_rank_is_named():
    x, masks = colored(classes=2)
    (finding,) = ask(Subject(Planted(), x, masks, class_names=("sea", "land", "lake")))
    assert values(finding)["atoms_unused"] == pytest.approx(100 / 3)
    assert "1 atom is never used: rank 2 would do." in finding.answer
    assert finding.advice.text == "Train with rank 2: as much is carried, at less cost."
    assert any("Without" not in text for text in finding.cautions)


class Classifier(nn.Module):
    def __init__(self, blocks=1):
        super().__init__()
        self.body = nn.Sequential(*[Hamburger(3, MatrixDecomposition(3, rank=3, relu=True)) for _ in range(blocks)])
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(self.body(x.expand(-1, 3, -1, -1)).mean((2, 3)))


@pytest.fixture(scope="module")
def images():
    return synthetic_images(24, rng=Stream(0))


def classifier(images, blocks=1, **changes):
    with Stream(0).child("classifier").forked():
        model = Classifier(blocks)
    labels = changes.pop("labels", images.labels)
    return Subject(model, images.inputs, labels, class_names=images.class_names, **changes)


def test_a_classifier_is_asked_by_itself_and_its_atoms_matched_by_use(images):
    subject = classifier(images)
    assert usual_probes(subject)[-1] == "concept-maps"
    (finding,) = ask(subject)
    assert "concept_auc" in values(finding)
    assert "AUC" in table(finding).columns
    viewer = next(e for e in finding.exhibits if isinstance(e, Overlays))
    assert viewer.classes == ()
    assert ", answered " in viewer.pictures[0].caption
    assert finding.provenance.evaluations == 24 + 6 + 6 * (2 + 3)
    assert "on 6 images" in finding.answer


def test_each_layer_has_its_finding_and_the_budget_is_kept(images):
    subject = classifier(images, blocks=2)
    need = MORE["concept-maps"].need(subject, effort="quick")
    assert (need.least, need.wanted) == (14, 24 + 6 * (1 + 2 * (2 + 3)))
    findings = MORE["concept-maps"](subject, need.least, Stream(0))
    assert [f.name for f in findings] == ["concept-maps[body.0.ham]", "concept-maps[body.1.ham]"]
    assert sum(f.provenance.evaluations for f in findings) == 14
    assert "changes" not in table(findings[0]).columns
    assert any("does not show that the answer rests on it" in text for text in findings[0].cautions)
    findings = MORE["concept-maps"](subject, need.wanted, Stream(0))
    assert sum(f.provenance.evaluations for f in findings) == need.wanted
    assert all("changes" in table(f).columns for f in findings)
    assert "in body.0.ham" in findings[0].answer


def test_without_labels_what_is_carried_comes_first(images):
    (finding,) = ask(classifier(images, labels=None))
    assert finding.measure.name == "atoms_needed[body.0.ham]"
    assert "carry 99% of the layer's answer" in finding.answer
    assert any("no labels" in text for text in finding.cautions)


def test_few_samples_are_not_matched(images):
    (finding,) = ask(classifier(images).take(torch.tensor([0, 1, 2])))
    assert any("4 samples at least" in text for text in finding.cautions)
    (finding,) = ask(classifier(images).take(torch.tensor([0])))
    assert "atom_steadiness" not in values(finding)


def test_models_without_such_a_layer_are_left_alone(images):
    subject = Subject(nn.Sequential(nn.Flatten(), nn.Linear(144, 4)), images.inputs, images.labels)
    assert "concept-maps" not in usual_probes(subject)
    (row,) = plan(classifier(images), probes="concept-maps").rows
    assert not row.skip
    assert "holds no matrix-decomposition layer" in MORE["concept-maps"].need(subject, effort="quick").skip


def test_the_same_seed_gives_the_same_report(images):
    first, again = (ask(classifier(images), seed=3)[0] for _ in range(2))
    assert values(first) == values(again)
    assert first.answer == again.answer
