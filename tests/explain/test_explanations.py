"""Explanations: laws on games with known answers, exact and sampled, one masker or one per sample, and shared work."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pellucid import games
from pellucid.core import BudgetError, Ranks, Stream, Work
from pellucid.explain import (
    Explanation,
    ExplanationSettings,
    check_explanation,
    cost_explanation,
    explanations,
)
from pellucid.games import Features, Segments, logit, noise_limits

D = 6


def model(x: Tensor) -> Tensor:
    """A score of singles, one pair and one triple, in double precision."""
    x = x.double().flatten(1)
    z = 2 * x[:, 0] - x[:, 1] + 3 * x[:, 2] * x[:, 3] - 4 * x[:, 3] * x[:, 4] * x[:, 5]
    return torch.stack([z, -z], dim=1)


X = torch.ones(3, D, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64)
Y = torch.zeros(3, dtype=torch.int64)


def explained(**settings: object) -> tuple[Explanation, ...]:
    made = ExplanationSettings(**settings)  # type: ignore[arg-type]
    return explanations(model, X, Y, Features(fill="zero"), settings=made, value=logit, rng=Stream(0))


def test_a_known_game_is_taken_apart_exactly() -> None:
    one, two, _ = explained(index="Moebius", order=3)
    found = {players: round(float(value), 9) for players, value in one.interactions if abs(float(value)) > 1e-9}
    assert found == {(0,): 2, (1,): -1, (2, 3): 3, (3, 4, 5): -4}
    assert_close(one.shapley, torch.tensor([2, -1, 1.5, 1.5 - 4 / 3, -4 / 3, -4 / 3], dtype=torch.float64))
    assert one.exact
    assert (one.empty, one.score) == (0, 0)
    assert float(two.interactions[3, 4, 5]) == pytest.approx(-32)


def test_shares_of_the_variance_are_those_of_the_walsh_coefficients() -> None:
    one = explained(index="SII", order=2)[0]
    assert one.variance is not None
    players = ((torch.arange(2**D)[:, None] >> torch.arange(D)) & 1).bool()
    worth = model(players.double())[:, 0]
    assert float(one.variance.sum()) == pytest.approx(float(worth.var(correction=0)))
    # A unanimity game of t players has Walsh coefficients of size 2**-t on all parts of it.
    triple = explanations(
        lambda x: torch.stack([x[:, :3].prod(1), -x[:, 0]], dim=1),
        X[:1],
        Y[:1],
        Features(fill="zero"),
        value=logit,
        settings=ExplanationSettings(order=2),
        rng=Stream(0),
    )[0]
    assert triple.variance is not None
    assert_close(triple.variance[:4], torch.tensor([0, *(comb(3, s) / 64 for s in (1, 2, 3))], dtype=torch.float64))
    shares = triple.shares()
    assert shares is not None
    assert float(shares.sum()) == pytest.approx(1)


def test_the_curve_is_the_mean_worth_by_size_and_everything_adds_up() -> None:
    one = explained(index="k-SII", order=2)[1]
    assert_close(one.curve[[0, -1]], torch.tensor([one.empty, one.score], dtype=torch.float64))
    assert float(one.interactions.total()) == pytest.approx(one.score)
    assert float(one.shapley.sum()) == pytest.approx(one.score - one.empty)


def test_a_constant_score_has_no_shares() -> None:
    flat = explanations(lambda x: torch.zeros(len(x), 2), X, Y, Features(fill="zero"), rng=Stream(0))[0]
    assert flat.shares() is None


def test_sampled_shapley_values_agree_with_the_exact_ones_and_say_how_well() -> None:
    exact, sampled = explained(index="SV", order=1), explained(index="SV", order=1, max_exact=4, permutations=200)
    for a, b in zip(exact, sampled, strict=True):
        assert b.variance is None
        assert not b.exact
        assert ((a.shapley - b.shapley).abs() <= 5 * b.shapley_stderr + 1e-12).all()
        assert_close(b.shapley.sum(), a.shapley.sum())
        assert ((a.curve[b.sizes] - b.curve).abs() <= 6 * b.curve_stderr + 1e-12).all()
        assert b.evaluations == cost_explanation(D, ExplanationSettings("SV", 1, 200, 4))
        assert (b.noise()[1:] >= 2 * b.stderr[1:]).all()


@pytest.mark.parametrize("index", ["k-SII", "Co-Moebius", "Moebius", "STII", "SV"])
def test_the_noise_of_an_explanation_is_that_of_its_index(index: str) -> None:
    one = replace(explained(index=index, order=1 if index == "SV" else 4)[0], floor=1e-3)
    limits = noise_limits(index, D, one.order, 1e-3)
    assert one.noise().tolist() == pytest.approx([limits[len(players)] for players in one.interactions.players])
    marked = games.index(torch.zeros(1 << D), index, order=one.order, floor=1e-3)
    assert marked.noise is not None
    assert bool(marked.noise.all())
    # What independent noise in every evaluation makes of the numbers stays below.
    unit = games.index(torch.eye(1 << D, dtype=torch.float64), index, order=one.order)
    assert bool((unit.values.norm(dim=1) * 3e-3 <= one.noise() + 1e-12).all())
    if index == "k-SII":
        assert limits[1] > 1.1 * 3e-3 * 2**0.5


def test_the_price_is_exact() -> None:
    calls = []

    def counting(x: Tensor) -> Tensor:
        calls.append(len(x))
        return model(x)

    for settings in (ExplanationSettings(), ExplanationSettings("SV", 1, 20, 3)):
        calls.clear()
        explanations(counting, X[:1], Y[:1], Features(fill="zero"), settings=settings, rng=Stream(0))
        assert sum(calls) == cost_explanation(D, settings)


def test_one_process_and_three_shards_give_the_same_bits(tmp_path: Path) -> None:
    alone = explained()
    folders = [tmp_path / str(k) for k in range(3)]
    for k, folder in enumerate(folders):
        with pytest.raises(Exception, match="has done its part"):
            explanations(
                model,
                X,
                Y,
                Features(fill="zero"),
                value=logit,
                rng=Stream(0),
                work=Work(folder=folder, ranks=Ranks(k, 3)),
            )

    def never(x: Tensor) -> Tensor:
        raise AssertionError("computed again")

    merged = explanations(
        never, X, Y, Features(fill="zero"), value=logit, rng=Stream(0), work=Work(stored=tuple(folders))
    )
    for a, b in zip(alone, merged, strict=True):
        assert torch.equal(a.interactions.values, b.interactions.values)
        assert torch.equal(a.curve, b.curve)


def test_each_input_may_be_cut_otherwise() -> None:
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    halves = torch.arange(4)[:, None].expand(4, 4) // 2
    quarters = halves * 2 + torch.arange(4)[None, :] // 2
    two, four = explanations(
        lambda x: torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], dim=1),
        images,
        Y[:2],
        [Segments(halves, fill="zero"), Segments(quarters, fill="zero")],
        value=logit,
        rng=Stream(0),
    )
    assert (two.n_players, four.n_players) == (2, 4)
    assert two.interactions.values.isfinite().all()
    assert_close(two.shapley, images[0, 0].double().view(2, 8).sum(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("n", "settings", "error", "text"),
    [
        (25, ExplanationSettings(), BudgetError, r"SII of 25 players takes 2\*\*25 evaluations .* or the index SV"),
        (4, ExplanationSettings("SV", 2), ValueError, "order of SV must be from 1 to 1"),
        (4, ExplanationSettings("nonsense"), ValueError, "no index 'nonsense'"),
        (4, ExplanationSettings(order=5), ValueError, "order of SII must be from 1 to 4"),
        (20, ExplanationSettings("Moebius", 20), BudgetError, "choose a lower order"),
        (30, ExplanationSettings("SV", 1, 3), ValueError, "even number of at least 4"),
        (8, ExplanationSettings(max_exact=40), ValueError, "at most 24"),
    ],
)
def test_settings_that_cannot_be_are_refused(n: int, settings: ExplanationSettings, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        check_explanation(n, settings)


def test_one_masker_for_each_input_or_one_for_all() -> None:
    with pytest.raises(ValueError, match="one masker per input"):
        explanations(model, X, Y, [Features(fill="zero")], rng=Stream(0))


def test_many_players_take_no_more_memory_than_their_singles() -> None:
    x = torch.rand(1, 60, dtype=torch.float64)
    settings = ExplanationSettings("SV", 1, 4)
    found = explanations(
        lambda z: torch.stack([z.sum(1), -z.sum(1)], dim=1),
        x,
        torch.tensor([0]),
        Features(fill="zero"),
        settings=settings,
        value=logit,
        rng=Stream(0),
    )[0]
    assert_close(found.shapley, x[0])
    assert found.interactions.players == ((), *((p,) for p in range(60)))
    assert found.order == 1
