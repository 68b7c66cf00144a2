"""What the bottleneck probe concludes from a spectrum, and what it leaves open."""

import pytest
import torch

from pellucid.audits.probes import _bottleneck


def spectrum(strength, spread=0.01, floor=0.0):
    values = torch.tensor(strength, dtype=torch.float64)
    relative = values / values.mean()
    return _bottleneck._Spectrum(
        ratios=torch.linspace(0, 1, len(values), dtype=torch.float64),
        strength=values,
        low=values - spread,
        high=values + spread,
        floor=torch.full_like(values, floor),
        relative=relative,
        relative_low=relative,
        relative_high=relative,
        per_sample=values[None],
        evaluations=1,
        method="made up",
    )


@pytest.mark.parametrize(
    ("s", "found", "words"),
    [
        (spectrum([4, 2, 1, 2, 4]), True, "a bottleneck"),
        (spectrum([4, 3, 3, 3, 4]), False, "no bottleneck"),
        (spectrum([4, 3, 3, 3, 4], spread=2), False, "no bottleneck"),
        (spectrum([4, 2, 1, 2, 4], spread=2), None, "their intervals overlap"),
        (spectrum([4, 2, 1, 2, 4], spread=torch.nan), None, "one sample gives no intervals"),
        (spectrum([4, 2, 1, 2, 4], floor=0.8), None, "too close to the noise floor"),
        (spectrum([0, 0, 0, 0, 0]), False, "no interactions"),
    ],
)
def test_a_deep_middle_is_a_bottleneck_only_with_intervals_apart(s, found, words):
    reading = _bottleneck._read(s)
    assert reading.found is found
    assert words in _bottleneck._answer(s, reading)


@pytest.mark.parametrize(
    ("strength", "lead"),
    [
        ([2, 9, 2, 2, 2, 2, 2, 2, 2, 2, 5], "most in simple contexts"),
        ([2, 2, 2, 2, 2, 9, 2, 2, 2, 2, 5], "most in contexts of middle size"),
        ([5, 2, 2, 2, 2, 2, 2, 2, 2, 9, 2], "most in nearly complete contexts"),
    ],
)
def test_the_strongest_order_leads(strength, lead):
    # The strongest order need not be an end of the curve.
    s = spectrum([float(v) + 3 for v in strength])
    assert lead in _bottleneck._answer(s, _bottleneck._read(s))
