"""A profile: the same samples under every attack, the worst case per sample, and the smallest sizes."""

import pytest
import torch
from torch import nn

from pellucid.attacks import L2, PGD, Flow, GridSearch, IntegratedSpatial, Linf, RotateTranslate
from pellucid.core import DataError
from pellucid.metrics import RobustnessProfile, robustness_curve, robustness_profile


@pytest.fixture(scope="module")
def scene():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(24, 1, 8, 8, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3))
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 3  # clean errors
    return model, x, y


SPATIAL = {
    "spatial": IntegratedSpatial(0.3, 20, 1, steps=3, starts=2),
    "rt": GridSearch(RotateTranslate(20, 1), grid=(5, 3, 3)),
    "flow": PGD(Flow(0.3), steps=4),
}


def test_the_worst_case_is_that_of_every_sample_under_all_attacks(scene, rng):
    profile = robustness_profile(*scene, SPATIAL | {"linf": PGD(Linf(0.02), steps=4)}, rng=rng)
    assert profile.names == ("spatial", "rt", "flow", "linf")
    assert float(profile.clean.value) == float(profile.correct.double().mean()) == 20 / 24
    held = (~profile.fooled).all(0)
    assert float(profile.worst.value) == float(held.double().mean())
    assert float(profile.worst.value) <= float(profile.accuracy.value.min())
    assert bool((profile.fooled[:, ~profile.correct]).all())
    assert profile.accuracy.low.shape == (4,)
    assert bool((profile.accuracy.low <= profile.accuracy.value).all())
    alone = (profile.fooled.sum(0) == 1) & profile.correct
    assert int(profile.alone.sum()) == int(alone.sum())
    assert profile.order()[0] == profile.names[int(profile.accuracy.value.argmin())]


def test_the_integrated_attack_begins_at_the_winners_of_its_parts(scene, rng):
    profile = robustness_profile(*scene, SPATIAL, rng=rng)
    spatial, rt, flow = profile.fooled
    assert bool((spatial | ~rt).all())
    assert bool((spatial | ~flow).all())


def test_smallest_sizes_fool_and_lie_within_the_budget(scene, rng):
    model, x, y = scene
    profile = robustness_profile(model, x, y, {"rt": SPATIAL["rt"], "flow": SPATIAL["flow"]}, rng=rng)
    for sizes, fooled, most in zip(profile.smallest, profile.fooled, (1.0, 0.3), strict=True):
        assert bool((sizes.isfinite() == fooled).all())
        assert bool((sizes[fooled] <= most + 1e-6).all())
        assert bool((sizes[~profile.correct] == 0).all())


def test_results_do_not_depend_on_the_batch_size(scene, rng):
    model, x, y = scene
    one, two = (robustness_profile(model, x, y, SPATIAL, rng=rng, batch_size=size) for size in (5, 24))
    assert torch.equal(one.fooled, two.fooled)
    assert one.evaluations == two.evaluations
    torch.testing.assert_close(one.smallest, two.smallest, atol=1e-5, rtol=0)


def test_an_attack_without_a_space_has_no_sizes(scene, rng):
    class Spaceless:
        def __call__(self, model, x, y, *, rng, start=None, target=None):
            import dataclasses

            return dataclasses.replace(PGD(L2(0.5), steps=3)(model, x, y, rng=rng), space=None)

    profile = robustness_profile(*scene, {"own": Spaceless()}, rng=rng)
    assert bool(profile.smallest[0][profile.correct].isnan().all())


def test_a_curve_of_turns_goes_by_shares_of_the_budget(scene, rng):
    curve = robustness_curve(
        *scene, lambda share: GridSearch(RotateTranslate(20, 1, share=share), grid=(5, 3, 3)), [0.5, 1.0], rng=rng
    )
    assert curve.params.shape == (24, 3)
    assert bool((curve.smallest[curve.smallest.isfinite()] <= 1).all())
    assert float(curve.accuracy.value[1]) <= float(curve.accuracy.value[0])


def test_all_wrong_leaves_nothing_to_attack(scene, rng):
    model, x, _ = scene
    profile = robustness_profile(model, x, (model(x).argmax(1) + 1) % 3, SPATIAL, rng=rng)
    assert float(profile.worst.value) == 0
    assert profile.evaluations == 24


def test_unfit_arguments_are_refused(scene, rng):
    model, x, y = scene
    with pytest.raises(ValueError, match="at least one attack"):
        robustness_profile(model, x, y, {}, rng=rng)
    with pytest.raises(DataError, match="at least one sample"):
        robustness_profile(model, x[:0], y[:0], SPATIAL, rng=rng)
    with pytest.raises(DataError, match="y must be int64"):
        robustness_profile(model, x, y[:3], SPATIAL, rng=rng)
    with pytest.raises(ValueError, match="bisections must be"):
        robustness_profile(model, x, y, SPATIAL, rng=rng, bisections=-1)


def test_a_profile_can_be_made_of_sizes():
    sizes = {"a": torch.tensor([0.0, torch.inf]), "b": torch.tensor([0.0, 0.3])}
    profile = RobustnessProfile.of(torch.tensor([False, True]), sizes)
    assert profile.accuracy.value.tolist() == [0.5, 0.0]
    assert profile.alone.tolist() == [0, 1]
