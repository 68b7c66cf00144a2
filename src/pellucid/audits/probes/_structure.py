"""What a kept layout is worth to a model: the companion of its order spectrum (`explain.structure_test`)."""

from __future__ import annotations

from pellucid.core import (
    Axis,
    Curve,
    Effort,
    Finding,
    Line,
    Masker,
    Measure,
    Provenance,
    Stream,
    Subject,
    Work,
    number,
    numbers,
)
from pellucid.explain import structure_test

from .._players import absence_in_words, is_image, is_large, players_in_words
from .._samples import draw, ids_of

STRUCTURE_SAMPLES = {"quick": 100, "full": 200}
LARGE_SAMPLES, FEWEST = 32, 16
EACH = 20
"""Evaluations of one sample: ten shares, removed at random and from the edge."""


def cost_structure(subject: Subject, effort: Effort) -> int:
    """Return the evaluations of the test; 0 where it does not apply."""
    n = _samples(subject, STRUCTURE_SAMPLES[effort])
    return EACH * n if n >= FEWEST else 0


def structure_finding(
    probe: str, subject: Subject, masker: Masker, budget: int, rng: Stream, work: Work
) -> Finding | None:
    """Return the finding, or None without labels or a grid, or where the budget pays fewer than 16 samples."""
    n = min(_samples(subject, STRUCTURE_SAMPLES["full"]), budget // EACH)
    if n < FEWEST:
        return None
    assert subject.labels is not None  # else no samples
    part = subject.take(draw(subject, n, rng=rng.child("samples")))
    assert part.labels is not None
    test = structure_test(part.model, part.inputs, part.labels, masker, rng=rng.at(part.ids), work=work)
    low, value, high = float(test.area.low), float(test.area.value), float(test.area.high)
    half = len(test.shares) // 2
    curves = (
        f"With {float(test.shares[half]):.0%} of the cells removed at random it is right on "
        f"{float(test.random.value[half]):.1%} of the samples, with the outer ones removed first on "
        f"{float(test.layout.value[half]):.1%}."
    )
    if low > 0:
        lead = "The model is right more often where the middle of the image keeps its layout."
    elif high < 0:
        lead = "The model is right more often with cells from everywhere than with the middle of the image whole."
    else:
        lead = "It makes no clear difference to the model whether the middle of the image keeps its layout."
    x = numbers(test.shares)
    return Finding(
        probe=probe,
        name="structure",
        question="Does the model need the layout of the parts it sees?",
        answer=f"{lead} {curves}",
        measure=Measure(
            name="structure_area",
            label="area between the two accuracy curves over the share removed, kept layout minus random",
            value=number(value),
            low=number(low),
            high=number(high),
            usual="0 if only the number of cells counts",
            samples=numbers(test.per_sample),
        ),
        level="noted",
        reason="A description: networks of high orders gain more from a kept layout, which is neither good nor bad.",
        exhibits=(
            Curve(
                title="Accuracy while cells are removed",
                x=Axis("share of the cells removed", "%"),
                y=Axis("accuracy", "%"),
                lines=tuple(
                    Line(name=name, x=x, y=numbers(c.value), low=numbers(c.low), high=numbers(c.high))
                    for name, c in (("outer cells first", test.layout), ("at random", test.random))
                ),
                caption="At each share both remove the same number of cells; the removed ones show the channel mean.",
            ),
        ),
        provenance=Provenance(
            seed=0,
            evaluations=test.evaluations,
            sample_ids=ids_of(part),
            settings={
                "players": players_in_words(part, masker(part.inputs[0])),
                "absent players": absence_in_words(part),
                "interval": "bootstrap over samples, 1000 draws, 95%",
            },
        ),
        references=("arXiv:2111.06236",),
        cautions=(
            "Objects are often in the middle: what the middle keeps is content as well as layout.",
            "Masked inputs lie off the data the model was trained on.",
        ),
    )


def _samples(subject: Subject, most: int) -> int:
    if subject.labels is None or not is_image(subject):
        return 0
    return min(LARGE_SAMPLES if is_large(subject) else most, len(subject))
