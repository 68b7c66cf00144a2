"""Answers for every pixel: what is counted, how it is judged and shown."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pellucid import audit, compare
from pellucid.audits import MORE, Requirement, judge, plan, usual_probes
from pellucid.audits._levels import segmentation as level
from pellucid.core import IGNORED, NOBODY, Overlays, Stream, Subject
from pellucid.data import synthetic_images, synthetic_scenes
from pellucid.reports import Report


class Told(nn.Module):
    """Answers with the masks it is told, image by image, by a mark in the first pixel."""

    def __init__(self, answers, classes=3):
        super().__init__()
        self.logits = nn.Buffer(10 * F.one_hot(answers, classes).permute(0, 3, 1, 2).float())

    def forward(self, x):
        return self.logits[(x[:, 0, 0, 0] * 100).round().long()]


def subject(answers, masks, **changes):
    x = torch.rand(len(masks), 3, *masks.shape[1:], generator=torch.Generator().manual_seed(0))
    x[:, 0, 0, 0] = torch.arange(len(masks)) / 100
    return Subject(Told(answers), x, masks, class_names=("sea", "land", "lake"), **changes)


def scene(n=12, noise=0.0):
    masks = Stream(1).integers(3, (n, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    off = Stream(2).uniform((n, 32, 32)) < noise
    return torch.where(off, (masks + 1) % 3, masks), masks


def ask(subject, **changes):
    return audit(subject, probes="segmentation", **changes)


def found(subject):
    (finding,) = ask(subject).findings
    return finding, {m.name: m.value for m in (finding.measure, *finding.measures)}


def test_numbers_are_those_of_the_counts():
    answers, masks = scene(noise=0.2)
    finding, values = found(subject(answers, masks))
    both = torch.stack([((answers == k) & (masks == k)).sum() for k in range(3)]).double()
    either = torch.stack([((answers == k) | (masks == k)).sum() for k in range(3)]).double()
    assert finding.measure.value == pytest.approx(100 * float((both / either).mean()))
    assert values["iou[land]"] == pytest.approx(100 * float(both[1] / either[1]))
    assert values["pixel_accuracy"] == pytest.approx(100 * float((answers == masks).double().mean()))
    assert finding.measure.low < finding.measure.value < finding.measure.high
    assert finding.level == "fine"
    assert len(finding.provenance.sample_ids) == 12
    assert finding.provenance.evaluations == 12 + 6


def test_a_perfect_answer_and_a_constant_one():
    _, masks = scene()
    finding, values = found(subject(masks, masks))
    assert finding.measure.value == 100
    assert "No pixel is wrong" in finding.answer
    assert "border_errors" not in values
    finding, values = found(subject(torch.zeros_like(masks), masks))
    assert finding.level == "watch"  # 12 images
    assert "every pixel the same answer, sea" in finding.answer
    assert values["mean_iou"] <= values["mean_iou_floor"] + 1e-9


def test_mistakes_at_borders_are_told_from_others():
    _, masks = scene()
    answers = masks.clone()
    answers[:, :, 8] = masks[:, :, 7]  # one column further right
    finding, values = found(subject(answers, masks))
    assert values["border_errors"] == 100
    assert "borders" in finding.advice.text
    answers = masks.clone()
    answers[:, 2:6, 2:6] = (answers[:, 2:6, 2:6] + 1) % 3
    finding, values = found(subject(answers, masks))
    assert values["border_errors"] == 0


def test_pixels_without_a_label_count_nowhere():
    answers, masks = scene(noise=0.2)
    hidden = masks.clone()
    hidden[:, :, :16] = IGNORED
    finding, values = found(subject(answers, hidden))
    shown = masks[:, :, 16:]
    assert values["pixel_accuracy"] == pytest.approx(100 * float((answers[:, :, 16:] == shown).double().mean()))
    assert any("50% of the pixels have no label" in text for text in finding.cautions)
    viewer = next(e for e in finding.exhibits if isinstance(e, Overlays))
    labels, answer, wrong = viewer.pictures[0].overlays
    assert (labels.values[:, :16] == NOBODY).all()
    assert (answer.values != NOBODY).all()
    assert (wrong.values[:, :16] == 0).all()
    assert [o.label for o in viewer.pictures[0].overlays] == ["labels", "answer", "wrong"]


def test_an_image_without_any_label_has_no_number_of_its_own():
    answers, masks = scene()
    hidden = masks.clone()
    hidden[3] = IGNORED
    finding, _ = found(subject(answers, hidden))
    image_iou = next(m for m in finding.measures if m.name == "image_iou")
    assert image_iou.samples[3] is None
    assert "Sample 3," not in "".join(p.title for p in finding.exhibits[0].pictures)
    assert not next(m for m in finding.measures if m.name == "pixel_accuracy").samples


def test_the_worst_images_come_first():
    answers, masks = scene()
    answers[7] = (answers[7] + 1) % 3
    finding, _ = found(subject(answers, masks))
    assert finding.exhibits[0].pictures[0].title == "Sample 7, worst"
    assert len(finding.exhibits[0].pictures) == 6


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_images_say_so(n):
    answers, masks = scene(n=n, noise=0.1)
    finding, _ = found(subject(answers, masks))
    assert any("few" in text for text in finding.cautions)
    assert finding.level == "watch" if n == 1 else True
    assert len(finding.exhibits[0].pictures) == n


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0.3, 0.2, 0.4, 0.25), ("weak", "not above the 25%")),
        ((0.4, 0.35, 0.45, 0.2), ("watch", "half of the way")),
        ((0.7, 0.65, 0.75, 0.2), ("fine", "no class is clearly missed")),
    ],
)
def test_levels(arguments, expected):
    judged = level(*arguments, n=100, worst_high=0.9)
    assert judged.level == expected[0]
    assert expected[1] in judged.reason
    assert level(0.7, 0.65, 0.75, 0.2, n=100, worst_high=0.3).level == "watch"
    assert level(0.3, 0.2, 0.4, 0.25, n=10, worst_high=0.9).level == "watch"


def test_it_joins_models_that_answer_for_every_pixel_and_no_others():
    answers, masks = scene()
    dense = subject(answers, masks)
    assert usual_probes(dense) == ("segmentation",)
    rows = {row.probe: row for row in plan(dense, probes=("accuracy", "segmentation")).rows}
    assert rows["segmentation"].granted == 18
    assert "answers for every pixel" in rows["accuracy"].skip
    data = synthetic_images(8, rng=Stream(0))
    plain = Subject(nn.Sequential(nn.Flatten(), nn.Linear(144, 4)), data.inputs, data.labels)
    assert "segmentation" not in usual_probes(plain)
    need = MORE["segmentation"].need(plain, effort="quick")
    assert need.skip == "asks about answers for every pixel, and model gives each sample one"
    assert (
        "needs labels"
        in MORE["segmentation"].need(Subject(nn.Conv2d(3, 3, 1), torch.rand(4, 3, 8, 8)), effort="quick").skip
    )


def test_two_models_are_compared_and_one_is_checked(tmp_path):
    answers, masks = scene(n=40, noise=0.1)
    worse, _ = scene(n=40, noise=0.4)
    first, second = ask(subject(answers, masks, name="good")), ask(subject(worse, masks, name="bad"))
    verdicts = {d.name: d.verdict for d in compare(first, second).differences}
    assert verdicts["mean_iou"] == verdicts["image_iou"] == verdicts["pixel_accuracy"] == "worse"
    assert verdicts["iou[lake]"] == "worse"
    first.save(tmp_path)
    demands = [Requirement.parse("mean_iou >= 60%"), Requirement.parse("iou[sea] >= 0.5")]
    assert judge(Report.load(tmp_path), demands).passed
    assert not judge(second, demands).passed


def test_shared_out_over_batches_it_is_the_same(monkeypatch):
    data = synthetic_scenes(20, rng=Stream(0))
    torch.manual_seed(0)
    model = Subject(nn.Conv2d(3, 3, 3, padding=1), data.inputs, data.labels, class_names=data.class_names)
    first, values = found(model)
    monkeypatch.setattr("pellucid.audits.probes._segmentation.forwards", lambda subject: 3)
    second, others = found(model)
    assert values == others
    assert first.answer == second.answer
