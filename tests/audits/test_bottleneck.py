"""What the bottleneck probe concludes from a spectrum, and what it leaves open."""

import re

import pytest
import torch

from pellucid.audits.probes import Bottleneck, _spectra
from pellucid.audits.probes._signed_orders import signed_finding
from pellucid.core import PellucidError, Stream, Subject
from pellucid.explain import OFFICIAL, SignedCurve, SpectrumSettings
from pellucid.games import Features


def spectrum(strength, spread=0.01, floor=0.0, samples=16):
    values = torch.tensor(strength, dtype=torch.float64)
    relative = values / values.mean()
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(samples)[:samples, None]
    known = spread if spread == spread else 0.0  # four times the standard error of 16 samples is the deviation
    rows = values + 2 * known * signs * torch.tensor([-1.0, *[1.0] * (len(values) - 2), -1.0]) * (samples > 1)
    return _spectra.Spectrum(
        ratios=torch.linspace(0, 1, len(values), dtype=torch.float64),
        strength=values,
        low=values - spread,
        high=values + spread,
        floor=torch.full_like(values, floor),
        relative=relative,
        relative_low=relative,
        relative_high=relative,
        per_sample=rows.clamp_min(0),
        contexts=20,
        evaluations=1,
        method="made up",
    )


@pytest.mark.parametrize(
    ("s", "found", "words"),
    [
        (spectrum([4, 2, 1, 2, 4]), True, "a bottleneck"),
        (spectrum([4, 3, 3, 3, 4]), False, "no bottleneck"),
        (spectrum([4, 3, 3, 3, 4], spread=1.5), None, "undecided"),
        (spectrum([4, 2.08, 2.08, 2.08, 4], spread=0.4), None, "either side of 0.5"),
        (spectrum([4, 2.08, 2.08, 2.08, 4], spread=0.01), False, "no bottleneck"),
        (spectrum([4, 2.08, 2.08, 2.08, 4], floor=1.0), None, "undecided"),
        (spectrum([4, 4]), None, "No order between 20% and 80% of the other parts was measured"),
        (spectrum([4, 2, 1, 2, 4], spread=2), None, "their intervals overlap"),
        (spectrum([4, 2, 1, 2, 4], spread=torch.nan), None, "one sample gives no intervals"),
        (spectrum([4, 2, 1, 2, 4], floor=0.8), None, "too close to the noise floor"),
        (spectrum([4, 3, 3, 3, 4], samples=1), None, "1 sample cannot speak for the model"),
        (spectrum([0, 0, 0, 0, 0]), False, "no interactions"),
    ],
)
def test_a_deep_middle_is_a_bottleneck_only_with_intervals_apart(s, found, words):
    reading = _spectra.judged(s, Stream(0))
    assert reading.found is found
    assert words in _spectra.in_words(s, reading)


def test_no_bottleneck_is_not_concluded_while_any_order_is_lost_in_the_noise():
    s = spectrum([4, 2.5, 3, 2.5, 4])
    s.floor[2] = 2.0  # the weakest orders stand out, a stronger one between them does not
    reading = _spectra.judged(s, Stream(0))
    assert reading.found is None
    assert "At 50% of the other parts" in reading.why
    assert "times the average" not in _spectra.in_words(s, reading)  # no number from within the noise
    s.floor[2] = 1.0
    assert _spectra.judged(s, Stream(0)).found is False


@pytest.mark.parametrize(
    ("s", "more"),
    [
        (spectrum([4, 2.2, 2.2, 2.2, 4], spread=0.4), r"about \d+ samples"),
        (spectrum([4, 2.0, 2.0, 2.0, 4], spread=0.4), "more than 10,000 samples"),
        (spectrum([4, 1.9, 1.9, 1.9, 4], spread=1.5), r"about \d+ samples"),
        (spectrum([4, 2.08, 2.08, 2.08, 4], floor=1.0), r"more than 63 contexts per pair and order instead of 20"),
        (spectrum([4, 2.08, 2.08, 2.08, 4], floor=2.0), r"at least 74 contexts per pair and order instead of 20"),
        (spectrum([4, 3, 3, 3, 4], samples=1), "at least 8 samples"),
    ],
)
def test_what_is_undecided_says_what_would_decide(s, more):
    reading = _spectra.judged(s, Stream(0))
    assert reading.found is None
    assert re.search(more, reading.more)
    subject = subject_of(additive())
    assert reading.more in _spectra.advice_on(subject, reading).text


def test_the_depth_has_an_interval():
    s = spectrum([4, 3, 3, 3, 4], spread=0.2)
    (depth, *_) = _spectra.measures(s, _spectra.judged(s, Stream(0)))
    assert depth.low < depth.value == 0.75 < depth.high


def test_nothing_bounds_the_depth_where_a_resampled_end_may_be_noise():
    s = spectrum([1, 3, 3, 3, 4], spread=0.5, floor=0.49, samples=8)
    reading = _spectra.judged(s, Stream(0))
    (depth, *_) = _spectra.measures(s, reading)
    assert depth.high is None
    assert re.search(r"95% interval [\d.]+ or more, noise included", reading.why)


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
    assert lead in _spectra.in_words(s, _spectra.judged(s, Stream(0)))


def signed(mean, spread=0.1):
    mean = torch.tensor(mean, dtype=torch.float64)
    edges = torch.arange(len(mean) + 1)
    utilities = mean + torch.tensor([[-spread], [spread]], dtype=torch.float64)
    return SignedCurve(
        edges=edges,
        first_order=torch.zeros(2, dtype=torch.float64),
        utilities=utilities,
        total=utilities.sum(1),
        mean=mean,
        stderr=torch.full_like(mean, spread),
        low=mean - spread,
        high=mean + spread,
        noise=torch.full_like(mean, spread / 10),
        n_players=len(mean) + 1,
        evaluations=1,
    )


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        ([3.0, -5.0, 3.0], "the range of orders that counts most adds -5, with about 50%"),
        ([0.01, 0.01, 0.01], "no range of orders stands out"),
    ],
)
def test_the_signed_curve_names_its_strongest_range_with_its_sign(mean, words):
    x = torch.zeros(2, 4)
    subject = Subject(torch.nn.Linear(4, 2), x, torch.tensor([0, 1]), bounds=None, modality="tabular")
    players = Features(fill="zero")(x[0])
    finding = signed_finding("bottleneck", "?", subject, players, signed(mean), needed=9, looked=0, rng=Stream(0))
    assert words in finding.answer
    assert "95% interval" in finding.answer


def subject_of(model, n=6, shape=(1, 8, 8)):
    x = Stream(1).uniform((n, *shape))
    return Subject(model, x, torch.arange(n) % 3)


def additive():
    with Stream(2).forked():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))


SMALL = SpectrumSettings(6, 1, 2, ratios=(0, 0.5, 1))


def test_settings_by_name_are_those_of_explain():
    assert Bottleneck(settings="official")._most == OFFICIAL
    assert Bottleneck(settings="quick", normalize="uniform")._most.normalize == "uniform"
    assert not Bottleneck(settings="official", only_correct=False)._most.only_correct
    subject = subject_of(additive())
    assert Bottleneck()._cells(subject) == (8, 8)
    assert Bottleneck(settings="official", grid=4)._cells(subject) == (4, 4)
    assert "smaller than the grid of 16 x 16" in Bottleneck(settings="official").need(subject, effort="full").skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"settings": "offical"}, "no settings 'offical'; did you mean official?"),
        ({"normalize": "mean"}, "no normalize 'mean'"),
        ({"value": "probability"}, "no value 'probability'"),
        ({"grid": 1}, "at least 2 cells per side"),
        ({"grid": (4, 1)}, "at least 2 cells per side"),
    ],
)
def test_a_setting_that_is_unknown_is_named(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Bottleneck(**settings)


def test_chosen_settings_are_measured_whole_or_not_at_all():
    subject = subject_of(additive())
    probe = Bottleneck(settings=SMALL, grid=4, normalize="uniform")
    need = probe.need(subject, effort="quick")
    assert need.least == need.wanted  # six samples are too few for the structure test
    (finding,) = probe(subject, need.least, Stream(0))
    assert finding.provenance.evaluations <= need.least
    assert finding.provenance.settings["players"] == "grid 4 x 4"
    assert finding.provenance.settings["normalize"].startswith("mean over the range")
    assert [m.name for m in finding.measures if m.name.startswith("interaction")] == [
        f"interaction_strength[{r}]" for r in ("0.00", "0.50", "1.00")
    ]


def test_wrong_samples_are_left_out_and_counted():
    model = additive()
    subject = subject_of(model)
    right = int((subject.logits().argmax(1) == subject.labels).sum())
    assert 0 < right < 6
    (finding,) = Bottleneck(settings=SMALL, grid=4, only_correct=True)(subject, 10**6, Stream(0))
    assert f"Of 6 samples {6 - right} were left out" in finding.answer
    assert len(finding.provenance.sample_ids) == right
    wrong = subject.take((subject.logits().argmax(1) != subject.labels).nonzero()[:, 0])
    with pytest.raises(PellucidError, match=r"classifies none of the .* correctly"):
        Bottleneck(settings=SMALL, grid=4, only_correct=True)(wrong, 10**6, Stream(0))


class Noise(torch.nn.Module):
    """A flat random game: every coalition has a worth of its own, none of them structured."""

    def forward(self, x):
        bits = (x.flatten(1) > 0.5).double() @ torch.arange(1, 65, dtype=torch.float64).sqrt()
        z = torch.stack([(bits * k).sin() * 1e4 for k in (91.7, 13.3, 57.1)], 1)
        return (z - z.floor()).float()


class Wide(Noise):
    """The same for rows of 24 features."""

    def forward(self, x):
        return super().forward(torch.nn.functional.pad(x, (0, 40)))


def test_a_flat_random_game_and_few_contexts_conclude_nothing():
    x = 0.6 + 0.4 * Stream(1).uniform((10, 1, 8, 8))
    x[:5] -= 0.6  # so that an absent cell, the mean, differs from a present one
    subject = Subject(Noise(), x, torch.arange(10) % 3)
    few = SpectrumSettings(10, 1, 3, ratios=(0, 0.25, 0.5, 0.75, 1))
    (finding,) = Bottleneck(settings=few, grid=8)(subject, 10**6, Stream(0))
    assert "no bottleneck" not in finding.answer
    assert "bottleneck. " not in finding.answer
    assert finding.level == "watch"
    assert "no conclusion is drawn" in finding.reason
    assert finding.advice.command.startswith("pellucid audit")
    maps = [exhibit for exhibit in finding.exhibits if exhibit.title.startswith("Where parts interact")]
    assert ["(noise)" in heat.title for heat in maps] == [False, True, False]
    assert "what differs here is chance" in maps[1].caption


def test_a_mean_of_noise_is_no_number():
    s = spectrum([4, 3, 3, 3, 4], floor=2.1)
    mean = _spectra.center(s, Stream(0))
    assert (mean.value, mean.low, mean.samples) == (None, None, ())
    assert "no strength is above 2 times the noise floor" in mean.usual
    assert _spectra.center(spectrum([4, 3, 3, 3, 4], floor=1.9), Stream(0)).value is not None
    s.floor[0] = 0.0
    assert "4 of 5 orders are within the noise" in _spectra.center(s, Stream(0)).usual
    s.floor[0] = 2.1
    players = Features(fill="zero")(torch.zeros(4))
    assert "Measured curve and theory" not in [exhibit.title for exhibit in _spectra.exhibits(s, players)]


def test_pairs_of_features_in_noise_are_marked():
    x = torch.where(Stream(5).uniform((8, 24)) > 0.3, 1.0, 0.0)
    subject = Subject(Wide(), x, torch.arange(8) % 3, modality="tabular", bounds=None)
    few = SpectrumSettings(8, 1, 8, ratios=(0.3, 0.5, 0.7))
    (finding, *_) = Bottleneck(settings=few)(subject, 10**6, Stream(0))
    assert finding.measure.value is None
    titles = [exhibit.title for exhibit in finding.exhibits]
    assert "Features that interact most (noise)" in titles


def test_the_structure_test_is_a_finding_of_its_own():
    class Middle(torch.nn.Module):
        """Sees the four middle pixels alone."""

        def forward(self, x):
            bright = x[:, 0, 3:5, 3:5].mean((1, 2))
            return torch.stack([bright, 1 - bright], 1) * 9

    x = 0.05 * Stream(3).uniform((40, 1, 8, 8))
    x[::2] += 0.9
    subject = Subject(Middle(), x, torch.arange(40) % 2)
    settings = SpectrumSettings(4, 1, 2, ratios=(0, 1))
    probe = Bottleneck(settings=settings)
    spectrum, structure = probe(subject, probe.need(subject, effort="full").wanted, Stream(0))
    assert (spectrum.name, structure.name, structure.level) == ("bottleneck", "structure", "noted")
    assert structure.measure.low > 0.01
    assert "keeps its layout" in structure.answer
    assert structure.provenance.evaluations == 40 * 20
    (alone,) = probe(subject, probe.need(subject, effort="full").least, Stream(0))
    assert alone.name == "bottleneck"
