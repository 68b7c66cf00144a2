"""What stands in for the order spectrum when the budget is short: the signed size curve (`games.size_curve`)."""

from __future__ import annotations

from itertools import pairwise

from pellucid.core import (
    Advice,
    Axis,
    Curve,
    Finding,
    Line,
    Measure,
    Players,
    Provenance,
    Stream,
    Subject,
    bootstrap,
    number,
    numbers,
)
from pellucid.explain import SignedCurve

from .. import _levels
from .._players import absence_in_words, players_in_words, value_in_words
from .._samples import ids_of
from .._wording import brief

ORDER_CAUTIONS = (
    "Masked inputs lie off the data the model was trained on; the orders describe the model there too.",
    "Players and fill decide the curve: compare models only with the same ones.",
    "Strengths are in log odds and grow with the model's confidence; the relative curve does not.",
)


def signed_finding(
    probe: str,
    question: str,
    subject: Subject,
    players: Players,
    curve: SignedCurve,
    *,
    unit: str = "log odds",
    needed: int,
    looked: int,
    rng: Stream,
) -> Finding:
    """Word the signed size curve of some samples.

    Args:
        probe, question: of the probe that asks.
        subject: the samples of the curve.
        players: of one sample.
        curve: what was measured.
        unit: of the score.
        needed: evaluations that the full spectrum would take.
        looked: evaluations spent besides the curve.
        rng: chance of the bootstrap.
    """
    total, alone = float(curve.total.mean()), float(curve.first_order.mean())
    n = curve.n_players
    centers = ((curve.edges[:-1] + curve.edges[1:] - 1).double() / 2 / max(1, n - 2)).tolist()
    clear = ((curve.low > 0) | (curve.high < 0)) & (curve.mean.abs() > _levels.FLOORS_NEEDED * curve.noise)
    strongest = int((curve.mean.abs() * clear).argmax())
    share = curve.utilities.sum(1)
    interval = bootstrap(share, rng=rng)
    answer = (
        f"The order spectrum needs {needed:,} evaluations and was not measured. This is the signed size curve, in "
        f"which interactions of opposite sign cancel: of a score gain of {brief(total)} {unit}, single "
        f"parts add {brief(alone)} and interactions {brief(total - alone)}"
    )
    if bool(interval.low.isfinite()):
        answer += f" (95% interval {brief(float(interval.low))} to {brief(float(interval.high))})"
    if bool(clear[strongest]):
        answer += (
            f"; the range of orders that counts most adds {brief(float(curve.mean[strongest]))}, with about "
            f"{centers[strongest]:.0%} of the other parts present."
        )
    else:
        answer += "; no range of orders stands out from the noise."
    edges = curve.edges.tolist()
    return Finding(
        probe=probe,
        name="bottleneck-signed",
        question=question,
        answer=answer,
        measure=Measure(
            name="interaction_gain",
            label="part of the score gain that comes from interactions",
            value=number(interval.value),
            low=number(interval.low),
            high=number(interval.high),
            unit=unit,
            samples=numbers(share),
        ),
        level="watch",
        reason="The signed size curve cannot show how strong interactions are, only what they sum to: the question is "
        "open until the spectrum is measured.",
        advice=Advice(
            text=f"Give this question {needed:,} evaluations for the full order spectrum.",
            command=f"pellucid audit MODEL DATA --probe bottleneck --budget {needed}",
        ),
        exhibits=(
            Curve(
                title="What each range of orders adds (signed)",
                x=Axis("share of the other parts present", "%"),
                y=Axis("added to the score", unit),
                lines=(
                    Line(
                        name="interactions",
                        x=numbers(centers),
                        y=numbers(curve.mean),
                        low=numbers(curve.low),
                        high=numbers(curve.high),
                    ),
                    Line(
                        name=f"{_levels.FLOORS_NEEDED:g} x sampling error",
                        x=numbers(centers),
                        y=numbers(_levels.FLOORS_NEEDED * curve.noise),
                        role="noise",
                    ),
                ),
                caption="Sums over all pairs: where strong interactions of opposite sign cancel, the curve is near 0.",
            ),
        ),
        provenance=Provenance(
            seed=0,
            evaluations=curve.evaluations + looked,
            sample_ids=ids_of(subject),
            settings={
                "players": players_in_words(subject, players),
                "absent players": absence_in_words(subject),
                "value": value_in_words(subject, unit),
                "method": "signed size curve from nested coalitions",
                "orders": ", ".join(f"{a}-{b - 1}" for a, b in pairwise(edges)),
                "interval": "bootstrap over samples, 1000 draws, 95%",
            },
        ),
        references=("arXiv:2111.06236",),
        cautions=(*ORDER_CAUTIONS, "A signed mean near 0 does not mean that there are no interactions."),
    )
