"""Players of images, texts and point clouds, and every baseline: laws first, then bad input."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from pellucid.core import Masker, MissingExtra, Stream
from pellucid.games import (
    Counted,
    Features,
    Marginal,
    Memoized,
    ModelGame,
    Patches,
    Points,
    Segments,
    Tokens,
    coalitions,
    harsanyi,
    interaction_strength,
    logit,
    pair_orders,
    segments,
    shapley,
    size_curve,
    table,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return Stream(seed).child("players").normal((1, *shape))[0]


MASKERS = {
    "patches": (Patches((2, 3), fill="zero"), drawn(2, 5, 6)),
    "segments": (Segments(torch.arange(30).view(5, 6) // 7, fill="blur"), drawn(2, 5, 6)),
    "features": (Features(fill="zero", groups=((0, 2), (1,))), drawn(4)),
    "ids": (Tokens(99, special=(1,)), torch.tensor([1, 5, 7, 5, 1])),
    "embeddings": (Tokens(drawn(3), fixed=(0,)), drawn(4, 3)),
    "points": (Points(4), drawn(20, 3)),
}


@pytest.mark.parametrize("name", MASKERS)
def test_every_player_owns_something_and_the_whole_is_the_input(name):
    masker, x = MASKERS[name]
    assert isinstance(masker, Masker)
    players = masker(x)
    assert sorted(players.owner[players.owner >= 0].unique().tolist()) == list(range(players.count))
    game = ModelGame(nn.Identity(), x, masker, logit(0))
    everyone, nobody = coalitions(players.count)[[-1, 0]]
    whole, none = game.masked(torch.stack([everyone, nobody]))
    assert torch.equal(whole, x)
    assert players.baseline.dtype == x.dtype
    hidden = torch.broadcast_to(players.owner >= 0, x.shape)
    assert torch.equal(none[hidden], torch.broadcast_to(players.baseline, x.shape)[hidden])
    assert torch.equal(none[~hidden], x[~hidden])


@given(st.integers(1, 6), st.integers(0, 99))
def test_masking_equals_the_choice_element_by_element(n, seed):
    x, baseline = drawn(7, seed=seed), drawn(7, seed=seed + 100)
    for kind in (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool):
        a, b = (x * 9).to(kind), (baseline * 9).to(kind)
        groups = [[column for column in range(7) if column % n == player] for player in range(n)]
        game = ModelGame(nn.Identity(), a, Features(fill=b, groups=groups), logit(0))
        keep = coalitions(n)
        expected = torch.where(keep[:, game.players.owner], a, b)
        assert torch.equal(game.masked(keep), expected)


# -- segments -------------------------------------------------------------------------------------------------------


def test_segments_are_counted_by_label_and_fixed_ones_never_play():
    labels = torch.tensor([[9, 9, 4], [-1, -2, 4]])
    players = Segments(labels, fill="zero", names=("four", "nine"))(torch.ones(3, 2, 3))
    assert (players.count, players.names) == (2, ("four", "nine"))
    assert players.owner.tolist() == [[1, 1, 0], [-1, -2, 0]]
    mean = Segments(labels, background=torch.stack([torch.ones(3, 2, 3), torch.zeros(3, 2, 3)]))(torch.ones(3, 2, 3))
    assert mean.baseline.flatten().tolist() == [0.5, 0.5, 0.5]


def test_a_grid_as_a_label_map_is_the_same_game():
    x = drawn(2, 5, 6)
    grid = Patches((2, 3), fill="zero")
    with Stream(1).forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(60, 2))
    ours, theirs = (
        table(ModelGame(model, x, masker, logit(0))) for masker in (grid, Segments(grid(x).owner, fill="zero"))
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("channels", [1, 3])
def test_superpixels_follow_an_edge(channels):
    pytest.importorskip("skimage", reason="needs the vision extra")
    x = torch.zeros(channels, 12, 16)
    x[:, :, 8:] = 5
    labels = segments(x, 2)
    assert labels.shape == (12, 16)
    assert torch.equal(
        labels, torch.cat([torch.full((12, 8), int(labels[0, 0])), torch.full((12, 8), int(labels[0, -1]))], 1)
    )
    assert Segments(segments(x, 6), fill="zero")(x).count >= 2


def test_superpixels_without_scikit_image_name_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingExtra, match=r"pip install \"pellucid\[vision\]\""):
        segments(torch.zeros(3, 4, 4), 2)


# -- tokens ---------------------------------------------------------------------------------------------------------


def test_words_of_several_tokens_play_together_and_lend_their_text():
    ids = torch.tensor([101, 11, 12, 13, 14, 102, 0])
    texts = ("[CLS]", "un", "##believ", "##able", "film", "[SEP]", "[PAD]")
    players = Tokens(103, special=(101, 102, 0), words=(None, 0, 0, 0, 1, None, None), texts=texts)(ids)
    assert players.owner.tolist() == [-1, 0, 0, 0, 1, -1, -1]
    assert players.names == ("unbeliev" + "able", "film")
    spaced = Tokens(0, texts=("\u2581a", "\u0120good", "ly</w>"))(torch.tensor([1, 2, 3]))
    assert spaced.names == ("a", "good", "ly")


def test_a_bag_of_tokens_game_is_additive_in_its_ids():
    weight = torch.arange(10.0)
    game = ModelGame(lambda ids: weight[ids].sum(1), torch.tensor([3, 7, 9]), Tokens(0), lambda z: z[:, 0])
    assert table(game).tolist() == [0, 3, 7, 10, 9, 12, 16, 19]
    assert game.masked(coalitions(3)).dtype == torch.int64


def test_embeddings_and_ids_play_the_same_game():
    with Stream(4).forked():
        embed, head = nn.Embedding(12, 5), nn.Linear(5, 2)

    def of_embeddings(e: torch.Tensor) -> torch.Tensor:
        return head(torch.tanh(e).mean(1))

    ids = torch.tensor([2, 5, 6, 3])
    by_id = ModelGame(lambda i: of_embeddings(embed(i)), ids, Tokens(1, special=(2,)), logit(1))
    by_vector = ModelGame(of_embeddings, embed(ids).detach(), Tokens(embed.weight[1], fixed=(0,)), logit(1))
    assert_close(table(by_id), table(by_vector), atol=1e-6, rtol=0)


# -- points ---------------------------------------------------------------------------------------------------------


def test_farthest_points_on_a_line():
    line = torch.stack([torch.arange(10.0), torch.zeros(10), torch.zeros(10)], 1)
    owner = Points(4)(line).owner[:, 0]
    assert [int(owner[p]) for p in (0, 9, 4, 2)] == [0, 1, 2, 3]  # chosen in this order
    assert int(owner[1]) == 0  # as near to point 0 as to point 2
    assert Points(1, start=3)(line).owner.unique().tolist() == [0]


@given(st.integers(1, 12), st.integers(0, 50))
def test_each_point_joins_its_nearest_center(count, seed):
    cloud = drawn(30, 3, seed=seed).double()
    owner = Points(count)(cloud).owner[:, 0]
    centers = [int((owner == 0).nonzero()[0])]
    centers[0] = 0
    for _ in range(1, count):
        centers.append(int(torch.cdist(cloud, cloud[centers]).amin(1).argmax()))
    assert torch.equal(owner, torch.cdist(cloud, cloud[centers]).argmin(1))


def test_absent_points_go_to_the_center_or_the_origin():
    cloud = drawn(9, 3) + 2
    center = Points(2)(cloud).baseline
    assert_close(center, cloud.double().mean(0, keepdim=True).float())
    assert torch.equal(Points(2, fill="zero")(cloud).baseline, torch.zeros(1, 3))


# -- the average over a background ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 2, 5])
def test_marginal_is_the_average_of_the_games(batch_size):
    with Stream(2).forked():
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    x, rows = drawn(4), drawn(7, 4, seed=9)
    game = ModelGame(model, x, Features(fill=Marginal(rows)), logit(1), batch_size=batch_size)
    each = [table(ModelGame(model, x, Features(fill=row), logit(1))) for row in rows]
    assert game.cost == 7
    assert_close(table(game), torch.stack(each).mean(0), atol=1e-6, rtol=0)
    assert game.masked(coalitions(4)[:3]).shape == (21, 4)
    one = ModelGame(model, x, Features(fill=Marginal(rows[:1])), logit(1))
    assert one.cost == 1
    assert_close(table(one), each[0], atol=1e-6, rtol=0)


def test_every_estimator_counts_what_an_average_costs(rng):
    with Stream(2).forked():
        model = nn.Linear(5, 2)
    rows = drawn(3, 5, seed=9)
    game = ModelGame(model, drawn(5), Features(fill=Marginal(rows)), logit(1))
    plain = ModelGame(model, drawn(5), Features(fill="zero"), logit(1))
    budget = 3 * interaction_strength(plain, [0, 1, 2], budget=2000, rng=rng).evaluations
    for estimate in (
        harsanyi,
        lambda g: shapley(g, permutations=4, rng=rng),
        lambda g: size_curve(g, permutations=3, rng=rng),
        lambda g: pair_orders(g, [torch.arange(4)], [1, 2], contexts=2, rng=rng),
    ):
        counted = Counted(game)
        assert estimate(counted).evaluations == counted.evaluations == 3 * estimate(plain).evaluations
    counted = Counted(game)
    assert interaction_strength(counted, [0, 1, 2], budget=budget, rng=rng).evaluations <= budget
    assert counted.evaluations <= budget
    memory = Memoized(game)
    assert harsanyi(memory).evaluations == memory.evaluations == 96


def test_marginal_works_for_images_and_clouds():
    images = drawn(3, 2, 4, 4)
    with Stream(2).forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(32, 2))
    for masker in (
        Patches(2, fill=Marginal(images)),
        Segments(Patches(2, fill="zero")(images[0]).owner, fill=Marginal(images)),
    ):
        game = ModelGame(model, images[0], masker, logit(0))
        each = [table(ModelGame(model, images[0], Patches(2, fill=one), logit(0))) for one in images]
        assert_close(table(game), torch.stack(each).mean(0), atol=1e-6, rtol=0)
    assert Points(2, fill=Marginal(drawn(5, 9, 3)))(drawn(9, 3)).backgrounds == 5


@pytest.mark.parametrize(
    ("masker", "x", "message"),
    [
        (lambda: Segments(torch.full((2, 2), -1)), None, "labels name no segment"),
        (lambda: Segments(torch.full((2, 2), -3)), None, "labels must be 0 or more, -1 or -2, got -3"),
        (
            lambda: Segments(torch.zeros(2, 2, dtype=torch.int64), fill="zero"),
            torch.zeros(1, 3, 3),
            r"of \(2, 2\) does not fit",
        ),
        (
            lambda: Segments(torch.zeros(2, 2, dtype=torch.int64), names=("a", "b"), fill="zero"),
            torch.zeros(1, 2, 2),
            "got 2 for 1",
        ),
        (lambda: Tokens(3), torch.zeros(2, 2, dtype=torch.int64), r"ids \(length,\) or embeddings"),
        (lambda: Tokens(3), torch.zeros(2, 2), "fill=3 is a token id, but the input holds embeddings"),
        (lambda: Tokens("zero"), torch.zeros(3, dtype=torch.int64), 'fill="zero" needs embeddings'),
        (lambda: Tokens("zero", special=(1,)), torch.zeros(3, 2), "give positions by fixed="),
        (lambda: Tokens("mean"), torch.zeros(3, 2), "a batch of embeddings"),
        (lambda: Tokens(0, special=(5,)), torch.tensor([5, 5]), "no token plays"),
        (lambda: Tokens(0, words=(1,)), torch.tensor([5, 5]), "one entry per token, got 1 for 2"),
        (lambda: Tokens(0, fixed=(4,)), torch.tensor([5, 5]), "position 4, but there are 2 tokens"),
        (lambda: Tokens(torch.ones(2)), torch.tensor([5, 5]), "fill with integers, or play on embeddings"),
        (lambda: Points(0), None, "count must be at least 1, got 0"),
        (lambda: Points(3), torch.zeros(9, 3), "only 1 different points, too few for 3 regions"),
        (lambda: Points(1, start=9), torch.zeros(9, 3), "start must name one of the 9 points"),
        (lambda: Points(1), torch.zeros(3, 2), r"shape \(points, 3 or more\)"),
        (lambda: Marginal(torch.zeros(0, 2)), None, "with K >= 1"),
        (lambda: Features(fill=Marginal(torch.zeros(4, 3))), torch.zeros(2), r"shape \(3,\), which does not fit"),
    ],
)
def test_players_refuse(masker, x, message):
    with pytest.raises(ValueError, match=message):
        masker()(x)


def test_superpixels_refuse():
    with pytest.raises(ValueError, match="from 1 to the number of pixels, 4, got 5"):
        segments(torch.zeros(1, 2, 2), 5)
