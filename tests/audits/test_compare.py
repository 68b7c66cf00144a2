"""Comparing audits: who is joined with whom, which test is used, what is said."""

import msgspec
import pytest

from pellucid.audits import compare
from pellucid.core import Axis, Curve, DataError, Finding, Line, Measure, Provenance
from pellucid.reports import Report, SubjectCard

NAMES = ("ants", "bees")


def finding(
    values=(),
    *,
    ids=None,
    name="accuracy",
    value=None,
    low=None,
    high=None,
    better="higher",
    curves=(),
):
    ids = tuple(range(len(values))) if ids is None else ids
    mean = sum(v or 0 for v in values) / len(values) * 100 if values else value
    measure = Measure(
        name=name, label=name, value=mean, low=low, high=high, unit="%" if values else "", better=better, samples=values
    )
    return Finding(
        probe="accuracy",
        name=name,
        question="How often?",
        answer="Often.",
        measure=measure,
        level="fine",
        reason="Because.",
        provenance=Provenance(seed=0, evaluations=len(values), sample_ids=ids),
        exhibits=curves,
    )


def report(*findings, model="old", data="insects", digest="d", names=NAMES, **changes):
    card = SubjectCard(
        model=model,
        data=data,
        modality="image",
        n_samples=40,
        n_classes=2,
        class_names=names,
        input_shape=(1, 4, 4),
        parameters=3,
        digests={"model": model, "data": digest},
    )
    base = Report(pellucid_version="0", subject=card, settings={"seed": 0, "budget": 9}, findings=findings)
    return msgspec.structs.replace(base, **changes)


def right(share, n=40):
    return tuple(1.0 if i < share * n else 0.0 for i in range(n))


def only(comparison):
    (difference,) = comparison.differences
    return difference


def test_more_right_answers_on_the_same_samples_are_better_by_mcnemar():
    d = only(compare(report(finding(right(0.5))), report(finding(right(0.9)), model="new")))
    assert d.verdict == "better"
    assert "McNemar" in d.test
    assert d.n == 40
    assert d.difference == pytest.approx(40)  # points of percent, as the measure's unit
    assert d.low < 40 < d.high
    assert d.p_value == pytest.approx(2 * 0.5**16)


def test_fewer_right_answers_are_worse_and_equal_ones_no_clear_difference():
    assert only(compare(report(finding(right(0.9))), report(finding(right(0.5))))).verdict == "worse"
    same = compare(report(finding(right(0.5))), report(finding(right(0.5))))
    assert only(same).verdict == "no clear difference"
    assert same.answer == "Between old (before) and old (after) no number differs clearly."


def test_lower_is_better_turns_the_verdict_and_neither_says_changed():
    lower = [finding(right(s), better="lower") for s in (0.9, 0.5)]
    assert only(compare(report(lower[0]), report(lower[1]))).verdict == "better"
    neither = [finding(right(s), better="neither") for s in (0.9, 0.5)]
    assert only(compare(report(neither[0]), report(neither[1]))).verdict == "changed"


def test_numbers_per_sample_that_are_no_yes_or_no_get_the_permutation_test():
    a, b = (tuple(i / 10 for i in range(20)), tuple(i / 10 + 0.5 for i in range(20)))
    d = only(compare(report(finding(a)), report(finding(b))))
    assert "sign-flip" in d.test
    assert d.verdict == "better"


def test_five_equal_signs_are_no_clear_difference_though_their_interval_excludes_zero():
    a, b = (0.1, 0.2, 0.3, 0.4, 0.5), (0.2, 0.3, 0.5, 0.7, 0.9)
    d = only(compare(report(finding(a)), report(finding(b))))
    assert d.low > 0
    assert d.p_value == pytest.approx(2 / 2**5)
    assert d.verdict == "no clear difference"


def test_only_shared_samples_are_paired_and_the_overlap_is_said():
    before = report(finding(right(1.0, 20), ids=tuple(range(20))))
    after = report(finding(right(0.0, 20), ids=tuple(range(10, 30))), digest="other")
    comparison = compare(before, after)
    assert only(comparison).n == 10
    assert any("share only 10 samples (of 20 and 20)" in caution for caution in comparison.cautions)


def test_an_undefined_value_of_a_sample_leaves_its_pair_out():
    d = only(compare(report(finding((None, 1.0, 0.0, 1.0), value=0)), report(finding((1.0, 1.0, 0.0, 1.0), value=0))))
    assert d.n == 3


def test_without_samples_the_intervals_decide():
    far = [finding(value=v, low=v - 1, high=v + 1) for v in (1.0, 9.0)]
    near = [finding(value=v, low=v - 1, high=v + 1) for v in (1.0, 2.0)]
    d = only(compare(report(far[0]), report(far[1])))
    assert (d.verdict, d.p_value) == ("better", None)
    assert only(compare(report(near[0]), report(near[1]))).verdict == "no clear difference"


def test_a_number_without_interval_is_shown_without_verdict():
    d = only(compare(report(finding(value=1.0)), report(finding(value=5.0))))
    assert (d.difference, d.verdict, d.test) == (4.0, "not tested", "")
    assert only(compare(report(finding(value=None)), report(finding(value=5.0)))).difference is None


def test_why_one_audit_has_no_number_is_said():
    untold = msgspec.structs.replace(finding(value=None), answer="Not told: too few; use --set x.attack=linf:0.2.")
    comparison = compare(report(finding(value=5.0)), report(untold, model="new"))
    assert any(c.startswith("new has no number for accuracy. Not told: too few") for c in comparison.cautions)
    neither = compare(report(untold), report(untold, model="new"))
    assert not any("no number" in caution for caution in neither.cautions)


def test_questions_that_only_one_audit_answers_are_named():
    comparison = compare(report(finding(right(0.5)), finding(value=1.0, name="depth")), report(finding(right(0.5))))
    assert any("depth" in caution for caution in comparison.cautions)
    assert len(comparison.differences) == 1


def test_curves_of_both_are_laid_over_each_other():
    def curve(y):
        lines = (
            Line(name="accuracy", x=(0.0, 1.0), y=y),
            Line(name="floor", x=(0.0, 1.0), y=(0.1, 0.1), role="noise"),
            Line(name="chance", x=(0.0, 1.0), y=(0.5, 0.5), role="reference"),
        )
        return Curve(title="Attack", x=Axis("radius"), y=Axis("accuracy"), lines=lines)

    before = report(finding(right(0.5), curves=(curve((1.0, 0.2)),)))
    after = report(finding(right(0.5), curves=(curve((0.9, 0.8)),)), model="new")
    (overlay,) = compare(before, after).exhibits
    assert [line.name for line in overlay.lines] == ["old", "new", "old: floor", "new: floor", "chance"]


def test_curves_with_a_line_per_sample_are_not_laid_over_each_other():
    lines = tuple(Line(name=f"sample {k}", x=(0.0, 1.0), y=(0.0, float(k))) for k in range(5))
    crowded = Curve(title="Patterns", x=Axis("patterns"), y=Axis("variance"), lines=lines)
    one = report(finding(right(0.5), curves=(crowded,)))
    assert compare(one, report(finding(right(0.5), curves=(crowded,)), model="new")).exhibits == ()


def test_the_answer_names_what_got_better_and_worse():
    before = report(finding(right(0.5)), finding(right(0.9), name="robustness"))
    after = report(finding(right(0.9)), finding(right(0.5), name="robustness"), model="new")
    answer = compare(before, after).answer
    assert answer == ("new is better than old in accuracy (50% to 90%). It is worse in robustness (90% to 50%).")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "cats"}, "audit both models on the same data"),
        ({"names": ("a", "b")}, "audit both models on the same data"),
        ({"digest": "other"}, "the samples themselves differ"),
    ],
)
def test_different_data_are_refused_in_one_sentence(change, message):
    with pytest.raises(DataError, match=message):
        compare(report(finding(right(0.5))), report(finding(right(0.5)), **change))


def test_no_shared_sample_is_refused():
    with pytest.raises(DataError, match="share no sample"):
        compare(report(finding((1.0,), ids=(1,))), report(finding((1.0,), ids=(2,)), digest="other"))


def test_no_common_question_is_refused():
    with pytest.raises(DataError, match=r"answer no common question.*--probe"):
        compare(report(finding(right(0.5))), report())


def test_a_partial_audit_and_other_settings_are_said():
    other = report(finding(right(0.5)), settings={"seed": 1, "budget": 9}, complete=False)
    cautions = " ".join(compare(report(finding(right(0.5))), other).cautions)
    assert "another seed (0 and 1)" in cautions
    assert "The second audit is partial" in cautions


def test_comparing_again_gives_the_same_bytes(tmp_path):
    a = tuple(i / 10 for i in range(30))
    b = tuple((i * 7 % 30) / 10 for i in range(30))
    for name in ("x", "y"):
        compare(report(finding(a)), report(finding(b))).save(tmp_path / name)
    assert (tmp_path / "x/report.json").read_bytes() == (tmp_path / "y/report.json").read_bytes()
