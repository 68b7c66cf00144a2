"""A finding survives JSON and refuses what it does not know; numbers never carry NaN into a report."""

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import (
    Advice,
    Axis,
    Curve,
    Finding,
    Gallery,
    Heatmap,
    Line,
    Mark,
    Measure,
    Picture,
    Provenance,
    Table,
    number,
    numbers,
)

EXHIBITS = (
    Curve(title="c", x=Axis("radius"), y=Axis("accuracy", "%"), lines=(Line(name="a", x=(0.0, 1.0), y=(1.0, None)),)),
    Table(title="t", columns=("class", "n", "share"), rows=(("<b>cat</b>", 3, 0.5), ("dog", None, None))),
    Heatmap(title="h", rows=("a",), columns=("b", "c"), values=((0.5, None),)),
)


def finding(exhibits=EXHIBITS) -> Finding:
    return Finding(
        probe="accuracy",
        name="accuracy",
        question="How often is the model right?",
        answer="In 9 of 10 cases.",
        measure=Measure(name="accuracy", label="accuracy", value=0.9, low=0.8, high=0.95, better="higher"),
        level="fine",
        reason="above 0.8",
        provenance=Provenance(seed=0, evaluations=10, sample_ids=(1, 2), settings={"k": 1}, versions={"torch": "2"}),
        advice=Advice(text="look at the mistakes", command="pellucid report x"),
        exhibits=exhibits,
        references=("2111.06236",),
    )


def test_a_finding_survives_json():
    made = finding()
    assert msgspec.json.decode(msgspec.json.encode(made), type=Finding) == made


def test_equal_findings_give_equal_bytes():
    assert msgspec.json.encode(finding()) == msgspec.json.encode(finding())


def test_a_gallery_holds_pixels_and_marks():
    picture = Picture(pixels=np.zeros((4, 4), np.uint8), title="p", grid=(2, 2), marks=(Mark(cells=(0,), weight=1.0),))
    found = finding((Gallery(title="g", pictures=(picture,)),))
    assert found.exhibits[0].pictures[0].grid == (2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown field `colour`"),
        ({"level": "bad"}, "Invalid enum value 'bad'"),
        ({"measure": {"name": "m"}}, "missing required field `label`"),
        ({"exhibits": [{"type": "pie"}]}, r"Invalid value 'pie' - at `\$\.exhibits"),
    ],
)
def test_json_of_another_shape_is_refused(change, message):
    data = msgspec.json.decode(msgspec.json.encode(finding()))
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({**data, **change}, Finding)


def test_a_finding_cannot_be_changed():
    with pytest.raises(AttributeError):
        finding().answer = "no"


@given(st.floats())
def test_numbers_are_finite_or_absent(value):
    found = number(value)
    assert found == value if math.isfinite(value) else found is None


def test_vectors_of_every_kind_become_numbers():
    expected = (1.0, None, 2.0)
    assert numbers(torch.tensor([1, torch.inf, 2])) == expected
    assert numbers(np.array([1, np.nan, 2])) == expected
    assert numbers([1, -math.inf, 2]) == expected
