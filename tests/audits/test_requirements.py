"""The grammar of requirements, on one line and in files."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.audits import MEASURES, MORE, PROBES, Requirement, Requirements, Settings, check_known
from pellucid.core import DataError, RequirementError

COMPARISONS = st.sampled_from([">=", ">", "<=", "<"])
SPACE = st.text(" \t", max_size=2)
# A name of a measure with what its brackets may hold: classes have names of all kinds.
DETAILS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=20)
NAMES = st.sampled_from(sorted(set(MEASURES) - {"robust_accuracy"}))
NUMBERS = st.floats(-1, 1, allow_nan=False).map(lambda v: round(v, 6) + 0.0)


@given(NAMES, COMPARISONS, NUMBERS, SPACE, SPACE)
def test_what_is_written_is_read(name, comparison, number, before, after):
    read = Requirement.parse(f"{name}{before}{comparison}{after}{number!r}")
    assert (read.measure, read.comparison, read.bound) == (name, comparison, number)
    assert read.probe == MEASURES[name].probe


@given(NAMES, COMPARISONS, NUMBERS, st.booleans())
def test_a_requirement_survives_its_own_text(name, comparison, number, percent):
    percent = percent and MEASURES[name].share
    read = Requirement.parse(f"{name} {comparison} {100 * number if percent else number!r}{'%' * percent}")
    assert Requirement.parse(str(read)) == read


@given(DETAILS, COMPARISONS)
def test_classes_may_have_any_name(detail, comparison):
    read = Requirement.parse(f"accuracy[{detail}] {comparison} 0.5")
    assert read.measure == f"accuracy[{detail}]"
    assert read.comparison == comparison


@given(st.text(max_size=60))
def test_any_text_is_a_requirement_or_one_sentence(text):
    said = ""
    try:
        read = Requirement.parse(text)
    except RequirementError as error:
        said = str(error)
    else:
        assert Requirement.parse(str(read)).bound == read.bound
    assert len(said.splitlines()) <= 1


@pytest.mark.parametrize("number", ["0.6", "60%", "60 %", ".6", "6e-1", "+0.60", "060%", "60.0%"])
def test_shares_are_written_as_shares_or_percentages(number):
    assert Requirement.parse(f"accuracy >= {number}").bound == 0.6


@pytest.mark.parametrize(("number", "bound"), [("7%", 0.07), ("0.07", 0.07), ("29%", 0.29), ("0.1%", 0.001)])
def test_percentages_are_exact(number, bound):
    assert Requirement.parse(f"accuracy >= {number}").bound == bound


@pytest.mark.parametrize("radius", ["0.0313725490196078", "8/255", " 8 / 255 ", "3.13725490196078e-2"])
def test_radii_have_one_name_and_stay_exact(radius):
    read = Requirement.parse(f"robust_accuracy[linf,{radius}] >= 0.5")
    assert read.measure == "robust_accuracy[linf,0.0313725]"
    assert read.radius == pytest.approx(8 / 255, rel=1e-12)
    assert read.norm == "linf"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no requirement; write MEASURE >= NUMBER"),
        ("accuracy", "'accuracy' is no requirement"),
        ("accuracy == 0.9", "is no requirement; write MEASURE >= NUMBER, with >=, >, <= or <"),
        ("accuracy = 0.9", "is no requirement"),
        ("accuracy => 0.9", "is no requirement"),
        ("accuracy >> 0.9", "is no requirement"),
        ("0.9 <= accuracy", "demands 'accuracy', which is no number"),
        ("accuracy >= high", "demands 'high', which is no number"),
        ("accuracy >= nan", "demands 'nan', which is no number"),
        ("accuracy >= inf", "demands 'inf', which is no number"),
        ("accuracy >= ٣", "which is no number"),
        ("accuracy >= 0,9", "demands '0,9', which is no number"),
        ("accuracy >= ", "demands '', which is no number"),
        (">= 0.5", "is no requirement"),
        ("accuracy >= 90", "asks for a share beyond 1; write a share such as 0.6, or 60%"),
        ("accuracy >= 130%", "asks for a share beyond 1"),
        ("log_loss <= 60%", "gives a percentage, but log_loss is not a share; write a plain number"),
        ("two words >= 0.5", "'two words' is no measure's name"),
        ("robust_accuracy[linf] >= 0.5", "must name a norm and a radius, such as robust_accuracy[linf,0.1]"),
        ("robust_accuracy[0.1] >= 0.5", "must name a norm and a radius"),
        ("robust_accuracy[linf,wide] >= 0.5", "must name a norm and a radius"),
        ("robust_accuracy[linf,1/0] >= 0.5", "must name a norm and a radius"),
        ("robust_accuracy[linf,0] >= 0.5", "names a radius that is not above 0"),
        ("robust_accuracy[linf,-1] >= 0.5", "names a radius that is not above 0"),
        ("robust_accuracy[linf,nan] >= 0.5", "names a radius that is not above 0"),
        ("robust_accuracy[lnf,0.1] >= 0.5", "names the norm 'lnf'; did you mean linf? known are l2 and linf"),
    ],
)
def test_what_is_no_requirement_is_refused_in_one_sentence(text, sentence):
    with pytest.raises(RequirementError, match=re.escape(sentence)) as caught:
        Requirement.parse(text, where="here")
    assert str(caught.value).startswith("here: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_long_text_is_cut_in_the_sentence():
    with pytest.raises(RequirementError, match=r"\.\.\.' is no requirement") as caught:
        Requirement.parse("x" * 10_000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("acuracy >= 0.9", "names a measure that no probe makes; did you mean accuracy?"),
        ("robust_acuracy[linf,0.1] >= 0.9", "did you mean robust_accuracy?"),
        ("robust_accuracy >= 0.9", "robust_accuracy is one number per norm,radius; write robust_accuracy[norm,radius]"),
        ("ece[3] <= 0.1", "ece takes no brackets; write ece"),
        ("smallest_radius[l3] >= 0.1", "knows the norms l2 and linf"),
    ],
)
def test_unknown_measures_are_refused_with_the_nearest_name(text, sentence):
    with pytest.raises(RequirementError, match=re.escape(sentence)):
        check_known([Requirement.parse(text)])


def test_names_that_a_report_holds_are_known():
    check_known([Requirement.parse("mine[3] >= 0.5")], also=["mine[3]"])


def test_every_measure_belongs_to_a_probe():
    assert {known.probe for known in MEASURES.values()} == set(PROBES) | set(MORE)


@pytest.mark.parametrize(
    ("comparison", "below", "same", "above"),
    [(">=", False, True, True), (">", False, False, True), ("<=", True, True, False), ("<", True, False, False)],
)
def test_comparisons_mean_what_they_say(comparison, below, same, above):
    read = Requirement.parse(f"ece {comparison} 0.5")
    assert [read.meets(v) for v in (0.4, 0.5, 0.6)] == [below, same, above]
    assert [read.meets(v, 50.0) for v in (40, 50, 60)] == [below, same, above]


# -- files --------------------------------------------------------------------------------------------------------

FILE = """
[settings]
budget = 100_000
samples = 200
seed = 7
quick = true
probes = ["calibration"]

[[require]]
rule = "accuracy >= 90%"
because = "The old model had 89%."

[[require]]
rule = "robust_accuracy[linf,0.1] >= 0.6"
interval = true
"""


def test_a_file_holds_requirements_and_settings(tmp_path):
    path = tmp_path / "pellucid.toml"
    path.write_text(FILE, encoding="utf-8")
    read = Requirements.load(path)
    assert [str(demand) for demand in read.demands] == ["accuracy >= 90%", "robust_accuracy[linf,0.1] >= 0.6"]
    assert [demand.because for demand in read.demands] == ["The old model had 89%.", ""]
    assert [demand.interval for demand in read.demands] == [False, True]
    assert read.settings == Settings(budget=100_000, samples=200, seed=7, quick=True, probes=("calibration",))


RULE = '[[require]]\nrule = "accuracy >= 0.9"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "requires nothing; add a [[require]] table with a rule"),
        ("require = []", "requires nothing; add a [[require]] table with a rule"),
        ("[settings]\nseed = 1", "requires nothing"),
        ('require = ["accuracy >= 0.9"]', "requirement 1: expected a table, got `str`"),
        ("require = 3", "require: expected `array`, got `int`"),
        (RULE + "[setings]", "has an unknown key 'setings' at the top; did you mean settings?"),
        (RULE + "[settings]\nbuget = 3", "has an unknown key 'buget' in [settings]; did you mean budget?"),
        (RULE + "becaus = 'x'", "has an unknown key 'becaus' in requirement 1; did you mean because?"),
        (RULE + "[[require]]\nbecause = 'x'", "requirement 2: there is no key `rule`"),
        (RULE + "[[require]]\nrule = 3", "requirement 2.rule: expected `str`, got `int`"),
        (RULE + "[settings]\nseed = 'x'", "settings.seed: expected `int | null`, got `str`"),
        (RULE + "[settings]\nsamples = 0", "settings.samples: expected `int` >= 1"),
        ('[[require]]\nrule = "accuracy"', "requirement 1: 'accuracy' is no requirement"),
    ],
)
def test_files_that_are_wrong_are_refused_in_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "pellucid.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequirementError, match=re.escape(sentence)) as caught:
        Requirements.load(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(RequirementError, match="there is no requirements file"):
        Requirements.load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "open.toml").write_text("require = [", encoding="utf-8")
    with pytest.raises(DataError, match=r"open\.toml is not TOML"):
        Requirements.load(tmp_path / "open.toml")
    with pytest.raises(DataError, match=r"bytes\.toml"):
        Requirements.load(tmp_path / "bytes.toml")
