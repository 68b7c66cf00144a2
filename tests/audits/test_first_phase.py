import math

import pytest

from pellucid.audits import advise, first_phase_finding, first_phase_report
from pellucid.core import Curve, Heatmap, Table
from pellucid.metrics import DiversityHead, DiversityHistory, history_row
from pellucid.reports import Report, SubjectCard


def history(*, flat=600, total=1000, similarity=(0.7, 0.8), sizes=(0.2, 0.01), biases=False, tiny=0.0):
    """A record of a training whose loss stands still for `flat` steps while two layers grow alike."""
    head = DiversityHead(
        layers=("act1", "act2"), kinds=("ReLU", "ReLU"), gradient_layers=("fc1", "fc2", "fc3"), sample_ids=(4, 7, 9),
        input_similarity=0.0, every=50, gradients_every=200, reduce="flatten", biases=biases,
    )  # fmt: skip
    rows = []
    for step in range(0, total + 1, 50):
        along = min(1.0, step / flat)
        s = similarity[0] + along * (similarity[1] - similarity[0])
        losses = [2.3 if k < flat else 1.5 for k in range(step - 50, step)] if step else []
        features = [[s, s + 0.05, s - 0.01, 0.0, size] for size in sizes]
        gradients = [[0.0, 0.4, 0.0, 1e-3, tiny, 1.0, 3 + along, 0.5 * along]] * 3 if step % 200 == 0 else ()
        rows.append(history_row(step, losses, features, gradients))
    return DiversityHistory(head, tuple(rows))


def test_a_trap_that_ended_is_to_be_watched_and_explained():
    finding = first_phase_finding(history())
    assert finding.level == "watch"
    assert finding.measure.name == "flat_steps"
    assert finding.measure.value == pytest.approx(601, abs=3)
    assert "stood still at 2.3 for 60" in finding.answer
    assert "fed themselves (cosine up to 0.50)" in finding.answer
    assert finding.provenance.sample_ids == (4, 7, 9)
    measures = {measure.name: measure.value for measure in finding.measures}
    assert measures["similarity_rise"] == pytest.approx(0.1)
    assert measures["peak_similarity"] == pytest.approx(0.8)
    assert measures["peak_dominance"] == pytest.approx(4)
    titles = [exhibit.title for exhibit in finding.exhibits]
    assert titles[:2] == ["Loss", "Similarity of features and gradients"]
    shaded = [line for exhibit in finding.exhibits if isinstance(exhibit, Curve) for line in exhibit.lines
              if line.name == "first phase"]  # fmt: skip
    assert {line.x[1] for line in shaded} == {finding.measure.value}
    maps = [exhibit for exhibit in finding.exhibits if isinstance(exhibit, Heatmap)]
    assert [one.rows for one in maps] == [("act1", "act2"), ("fc1", "fc2", "fc3")]
    assert isinstance(finding.exhibits[-1], Table)
    assert finding.advice.command.startswith("pellucid train mlp-cifar10")


def test_levels_follow_what_happened():
    assert first_phase_finding(history(flat=2000)).level == "weak"
    assert first_phase_finding(history(flat=2000, similarity=(0.5, 0.5))).level == "watch"
    soon = first_phase_finding(history(flat=30))
    assert soon.level == "fine"
    assert soon.advice is None
    assert "there was no flat first phase" in soon.answer


@pytest.mark.parametrize(
    ("flat", "text"), [(1200, "will probably end by itself"), (20_000, "no sign that it will end")]
)
def test_a_phase_that_lasts_says_whether_it_looks_like_ending(flat, text):
    answer = first_phase_finding(history(flat=flat)).answer
    assert text in answer
    assert "self-enhancement of a hidden layer 0.00 at the start" in answer
    assert "itself" not in first_phase_finding(history()).answer


def test_remedies_are_ranked_by_what_the_record_shows():
    def names(**changes):
        return [remedy.name for remedy in advise(history(**changes))]

    assert names(flat=30) == []
    assert names()[:2] == ["standardize over the batch", "He initialization"]
    assert names(sizes=(0.2, 0.1))[-1] == "He initialization"  # signals that keep their size need none
    assert "zero biases" not in names(similarity=(0.9, 0.99))
    assert "zero biases" in names(similarity=(0.9, 0.99), biases=True)
    assert names(tiny=0.9)[-1] == "more precise gradients"
    assert "20 times smaller" in advise(history())[0].reason
    assert advise(history(), patience=900) == ()


def test_every_remedy_names_a_recipe_that_exists():
    from pellucid.training import Recipe

    for remedy in advise(history(similarity=(0.9, 0.99), biases=True, tiny=0.9)):
        if remedy.command:
            words = remedy.command.split()
            overrides = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
            assert Recipe.load(words[2], overrides=overrides).record is not None
        assert remedy.text
        assert remedy.reason
        assert remedy.name in str(remedy)


def test_cautions_name_rounding_and_steps_left_out():
    made = history(tiny=0.8)
    assert any("smaller than fp16 can hold" in text for text in first_phase_finding(made).cautions)
    warm = DiversityHistory(made.head, (*made.rows, history_row(1002, [None, math.nan])))
    assert any(text.startswith("2 steps at learning rate 0") for text in first_phase_finding(warm).cautions)


def test_a_record_without_losses_says_so(tmp_path):
    bare = history()
    bare = DiversityHistory(bare.head, tuple(history_row(r.step, [], r.features, r.gradients) for r in bare.rows))
    assert "too few losses" in first_phase_finding(bare).answer
    card = SubjectCard(
        model="m", data="d", modality="image", n_samples=3, n_classes=0, class_names=(), input_shape=(), parameters=0
    )
    first_phase_report(history(), card).save(tmp_path)
    assert Report.load(tmp_path).findings[0].name == "first-phase"
