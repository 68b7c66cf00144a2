"""Do a classifier's probabilities mean what they say?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import Interval, cross_entropy, wilson

from ._logits import checked


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy lie apart.

    Args:
        ece: expected calibration error: mean over bins of |accuracy - mean confidence|, weighted by samples.
        floor: the error that perfectly calibrated probabilities would show on so few samples (normal approximation).
        overconfidence: mean confidence minus accuracy; positive when the model promises too much.
        brier: mean over samples of the squared distance between the probabilities and the true class's corner.
        nll: mean of -log p_y, in nats.
        edges: ends of the confidence bins `(bins + 1,)`, equally wide; a bin includes its upper end.
        count: samples per bin `(bins,)`.
        mean_confidence: per bin `(bins,)`, NaN in an empty bin.
        accuracy: per bin with Wilson's 95 % interval, each `(bins,)`, NaN in an empty bin.
        confidence: probability of the predicted class, per sample `(N,)`.
        correct: whether the prediction is right `(N,)`.
    """

    ece: float
    floor: float
    overconfidence: float
    brier: float
    nll: float
    edges: Float[Tensor, " edges"]
    count: Int[Tensor, " bins"]
    mean_confidence: Float[Tensor, " bins"]
    accuracy: Interval[Tensor]
    confidence: Float[Tensor, " N"]
    correct: Bool[Tensor, " N"]


def calibration(logits: Tensor, labels: Tensor, *, bins: int = 15) -> Calibration:
    """Do the probabilities mean what they say?

    Predictions are sorted into bins of equal width by their confidence p; in a bin of n_b of the N samples the model
    should be right as often as it says: ECE = sum_b n_b / N * |accuracy_b - mean confidence_b| (Naeini et al. 2015;
    Guo et al. 2017, arXiv:1706.04599). The ECE is biased upwards on few samples: compare it with `floor`.

    Args:
        logits: `(N, K)` finite numbers.
        labels: true classes `(N,)`.
        bins: number of bins.

    Raises:
        ValueError: `bins` is below 1.
        ModelError: logits are not `(N, K)` or not finite.
        DataError: labels do not fit them.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    logits, labels = checked(logits, labels)
    probabilities = logits.softmax(1)
    confidence = probabilities.amax(1)
    correct = logits.argmax(1) == labels
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)
    place = torch.bucketize(confidence, edges[1:-1])  # right ends belong to their bin
    hits = correct.double()

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(bins).index_add_(0, place, values)

    count = torch.bincount(place, minlength=bins)
    gap = (total(hits) - total(confidence)).abs()
    # A calibrated bin's sum of hits has variance sum p (1 - p); the mean size of a normal number is sqrt(2 / pi) sd.
    noise = math.sqrt(2 / math.pi) * total(confidence * (1 - confidence)).sqrt()
    return Calibration(
        ece=float(gap.sum()) / len(labels),
        floor=float(noise.sum()) / len(labels),
        overconfidence=float((confidence - hits).mean()),
        brier=float((probabilities - torch.nn.functional.one_hot(labels, logits.shape[1])).square().sum(1).mean()),
        nll=float(cross_entropy(logits, labels).mean()),
        edges=edges,
        count=count,
        mean_confidence=total(confidence) / count,
        accuracy=wilson(total(hits), count),
        confidence=confidence,
        correct=correct,
    )


_COLDEST, _HOTTEST = 1e-4, 1e4  # factors between which the best one is looked for


def fit_temperature(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], *, weights: Float[Tensor, " n"] | None = None
) -> float:
    """By which factor must logits be multiplied so that probabilities fit these labels best?

    It minimizes the mean of -log softmax(t z)_y over t > 0, which is convex in t. The answers stay the same. (Guo et
    al. 2017 divide by 1 / t.) Fit it on samples that were neither trained nor tested on. A label counts (N + 1) / (N +
    2) for its class and the rest, evenly, for the others (Platt 1999), so that a few samples that are all answered
    rightly do not ask for certainty.

    Args:
        logits: `(N, K)` finite numbers.
        labels: true classes `(N,)`.
        weights: of the samples; 1 if not given. N is then their sum.

    Raises:
        ModelError: logits are not `(N, K)` or not finite.
        DataError: labels do not fit them.

    Example:
        >>> round(fit_temperature(torch.eye(3), torch.arange(3)), 6) == round(math.log(8), 6)
        True
    """
    logits, labels = checked(logits, labels)
    share = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
    share = share.to(logits.device)
    doubt = 1 / (float(share.sum()) + 2)
    share = share / share.sum()
    own = logits.gather(1, labels[:, None])[:, 0]
    others = (logits.sum(1) - own) / (logits.shape[1] - 1)
    wanted = (1 - doubt) * own + doubt * others

    def slope(t: float) -> float:
        return float((share * (((t * logits).softmax(1) * logits).sum(1) - wanted)).sum())

    low, high = _COLDEST, _HOTTEST
    if slope(high) <= 0:
        return high
    if slope(low) >= 0:
        return low
    for _ in range(80):  # the slope rises with t, and halving the logarithm 80 times leaves nothing
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return math.sqrt(low * high)
