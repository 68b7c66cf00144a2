"""Interactions of sets as one player: both definitions, closed forms, dividends and the authors' estimator."""

import pytest
import torch
from torch.testing import assert_close

from pellucid.core import Estimate, Stream
from pellucid.explain import LogitGap, coalition_interactions, perturbation_game
from pellucid.games import TableGame, coalitions, harsanyi, index, logit, shapley, table

SINGLE = coalitions(3).double()


def value(worth, group, definition="shapley"):
    return float(coalition_interactions(worth, [group], definition=definition).values[0])


def random_table(n, seed=0):
    return Stream(seed).normal((1, 2**n), dtype=torch.float64)[0]


def test_the_definitions_differ_on_products():
    pair, triple = SINGLE[:, 0] * SINGLE[:, 1], SINGLE.prod(1)
    assert value(pair, (0, 1)) == pytest.approx(1)
    assert value(pair, (0, 1), "merged") == pytest.approx(0, abs=1e-12)
    assert value(triple, (0, 1)) == pytest.approx(1 / 2)
    assert value(triple, (0, 1), "merged") == pytest.approx(-1 / 6)


def test_subsets_of_at_least_two_members_count():
    assert value(SINGLE[:, 0] * SINGLE[:, 1], (0, 1, 2)) == pytest.approx(1)
    assert value(SINGLE.prod(1), (0, 1, 2)) == pytest.approx(1)


def test_a_square_of_the_number_of_players():
    square = SINGLE.sum(1).square()
    assert value(square, (0, 1)) == pytest.approx(2)
    assert value(square, (0, 1), "merged") == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("definition", ["shapley", "merged"])
def test_sums_of_single_players_do_not_interact(definition):
    worth = coalitions(5).double() @ torch.tensor([1.0, -2.0, 3.0, 0.5, 4.0], dtype=torch.float64) + 7
    found = coalition_interactions(worth, [(0, 1), (2, 3, 4), (0, 1, 2, 3, 4)], definition=definition)
    assert_close(found.values, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("group", [(0, 3), (1, 2, 4), (0, 1, 2, 3, 4, 5)])
def test_the_formula_in_dividends(group):
    worth, members = random_table(6), set(group)
    dividends = harsanyi(worth).values
    sets = [{p for p in range(6) if row >> p & 1} for row in range(64)]
    expected = sum(
        h / (len(s - members) + 1) for h, s in zip(dividends.tolist(), sets, strict=True) if len(s & members) >= 2
    )
    assert value(worth, group) == pytest.approx(expected)


def test_pairs_are_the_shapley_interaction_index():
    worth = random_table(6)
    found = index(worth, "SII", order=2)
    pairs = [(0, 1), (2, 5), (3, 4)]
    assert_close(
        coalition_interactions(worth, pairs).values, torch.stack([found[p] for p in pairs]), atol=1e-10, rtol=1e-10
    )


def test_merged_is_made_of_ordinary_shapley_values():
    worth = random_table(5)
    single = shapley(worth).values
    # [A] as one player: the table of the game in which players 0 and 1 come together.
    together = worth.view(2, 2, 2, 2, 2)[:, :, :, [0, 1], [0, 1]].reshape(-1)
    assert value(worth, (0, 1), "merged") == pytest.approx(float(shapley(together).values[0] - single[0] - single[1]))


@pytest.mark.parametrize("definition", ["shapley", "merged"])
def test_sampling_finds_the_exact_values(definition, rng):
    worth, sets = random_table(8), [(0, 1), (4, 6), (2, 5, 7), (0, 1, 2, 3)]
    exact = coalition_interactions(worth, sets, definition=definition)
    found = coalition_interactions(TableGame(worth), sets, definition=definition, contexts=2000, rng=rng)
    assert isinstance(found, Estimate)
    assert bool(((found.values - exact.values).abs() < 4 * found.stderr).all())
    assert bool((found.stderr > 0).all())
    per_context = [2 + len(s) if definition == "shapley" else 2 + 2 * len(s) for s in sets]
    assert found.evaluations == 2000 * sum(per_context)


def test_a_game_of_all_players_as_one_has_one_context(rng):
    worth = random_table(4)
    found = coalition_interactions(TableGame(worth), [(0, 1, 2, 3)], contexts=4, rng=rng)
    assert_close(found.values, coalition_interactions(worth, [(0, 1, 2, 3)]).values)
    assert float(found.stderr[0]) == pytest.approx(0, abs=1e-12)


def test_the_draw_does_not_depend_on_the_other_sets(rng):
    game = TableGame(random_table(7))
    both = coalition_interactions(game, [(0, 1), (2, 3, 4)], contexts=8, rng=rng).values
    alone = coalition_interactions(game, [(2, 3, 4)], contexts=8, rng=rng).values
    assert float(both[1]) == float(alone[0])


# -- the authors' estimator ---------------------------------------------------------------------------------------


def tanh_network():
    with Stream(3).child("network").forked():
        return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double()


def by_slices(net, delta, players, slices, orders=400):
    """The authors' phi of the first player: slices leave in random order, gradients at what is left are averaged."""
    member = torch.zeros(len(players), len(delta), dtype=torch.float64)
    for player, inputs in enumerate(players):
        member[player, list(inputs)] = 1
    left, total = delta.repeat(orders, 1), torch.zeros(orders, len(delta), dtype=torch.float64)
    leaving = Stream(1).permutations(slices * len(players), orders) % len(players)
    for step in range(slices * len(players)):
        left = (left - member[leaving[:, step]] * delta / slices).detach().requires_grad_()
        (grad,) = torch.autograd.grad(net(left).sum(), left)
        total += grad
    mean = (total / (slices * len(players))).mean(0)
    return float((delta * mean)[list(players[0])].sum())


def test_the_authors_merged_interaction_vanishes_with_finer_slices():
    net, delta = tanh_network(), torch.tensor([1.5, -1.0, 2.0, 0.7], dtype=torch.float64)
    merged = []
    for slices in (1, 10, 40):
        together = by_slices(net, delta, [(0, 1), (2,), (3,)], slices)
        alone = by_slices(net, delta, [(0,), (1,), (2,), (3,)], slices)
        alone += by_slices(net, delta, [(1,), (0,), (2,), (3,)], slices)
        merged.append(abs(together - alone))
    assert merged[0] > 3 * merged[2]
    with torch.no_grad():
        worth = torch.stack([net((delta * keep)[None])[0, 0] for keep in coalitions(4).double()])
    assert abs(value(worth, (0, 1))) > 3 * merged[2]  # the same whatever the slices


# -- games on perturbations ---------------------------------------------------------------------------------------


def test_players_are_the_cells_of_the_perturbation():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).double()
    x, delta = Stream(0).uniform((1, 4, 4), dtype=torch.float64), Stream(1).normal((1, 4, 4), dtype=torch.float64)
    game = perturbation_game(net, x, delta, LogitGap(2, 0), grid=2)
    worth = table(game)
    with torch.no_grad():
        clean, attacked = net(x[None])[0], net((x + delta)[None])[0]
    assert_close(worth[0], clean[2] - clean[0])
    assert_close(worth[-1], attacked[2] - attacked[0])
    slope = ((net[1].weight[2] - net[1].weight[0]).detach() * delta.flatten()).view(2, 2, 2, 2)
    assert_close(shapley(game).values, slope.sum((1, 3)).flatten())


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: coalition_interactions(random_table(3), [(0,)]), "at least two different players"),
        (lambda: coalition_interactions(random_table(3), [(1, 1)]), "at least two different players"),
        (lambda: coalition_interactions(random_table(3), [(0, 3)]), "players are 0 to 2"),
        (lambda: coalition_interactions(random_table(3), [(0, 1)], contexts=8, rng=Stream(0)), "leave contexts out"),
        (lambda: coalition_interactions(TableGame(random_table(3)), [(0, 1)], contexts=8), "needs rng="),
        (lambda: coalition_interactions(TableGame(random_table(3)), [(0, 1)], contexts=3, rng=Stream(0)), "even"),
        (
            lambda: perturbation_game(lambda x: x, torch.rand(1, 2, 2), torch.rand(1, 2, 3), logit(0)),
            "one image .* and its change",
        ),
    ],
)
def test_bad_input_is_explained(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_no_sets_no_values(rng):
    assert coalition_interactions(random_table(3), []).values.shape == (0,)
