import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from pellucid.core import Stream
from pellucid.metrics import Front, FrontModel, hypervolume, pareto_front, rank_correlation

FIVE = torch.tensor([[0.9, 0.1], [0.8, 0.5], [0.7, 0.4], [0.5, 0.6], [0.3, 0.65]], dtype=torch.float64)


def drawn(seed, n, m):
    return Stream(seed).uniform((n, m), dtype=torch.float64)


def dominated(a, b):
    """Whether point b is beaten by point a, by the definition."""
    return all(p >= q for p, q in zip(a, b, strict=True)) and any(p > q for p, q in zip(a, b, strict=True))


def counted(points, cells):
    """The hypervolume of points on a grid of `cells` per side, by counting its cells."""
    m = points.shape[1]
    steps = torch.arange(cells)
    corners = torch.cartesian_prod(*[steps] * m).view(-1, m) + 1
    covered = (points[:, None] * cells + 1e-9 >= corners[None]).all(2).any(0)
    return covered.double().mean().item()


def test_the_front_of_five_points():
    assert pareto_front(FIVE).tolist() == [True, True, False, True, True]
    assert hypervolume(FIVE, [0.0, 0.0]) == pytest.approx(0.475, abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 4))
def test_the_front_is_what_the_definition_says(seed, n, m):
    points = (drawn(seed, n, m) * 4).round()  # coarse, so that ties occur
    rows = points.tolist()
    expected = [not any(dominated(other, row) for other in rows) for row in rows]
    assert pareto_front(points).tolist() == expected
    assert pareto_front(-points, maximize=False).tolist() == expected
    assert any(expected)


def test_equal_points_stay_together():
    assert pareto_front(torch.ones(3, 2)).all()


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 4))
def test_the_volume_is_that_of_the_cells_it_covers(seed, n, m):
    points = (drawn(seed, n, m) * 5).round() / 5
    assert hypervolume(points, [0.0] * m) == pytest.approx(counted(points, 5), abs=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(2, 4))
def test_laws_of_the_volume(seed, n, m):
    points, zero = drawn(seed, n, m), [0.0] * m
    volume = hypervolume(points, zero)
    order = Stream(seed).permutations(n, 1)[0]
    axes = Stream(seed).permutations(m, 1)[0]
    assert hypervolume(points[order][:, axes], zero) == pytest.approx(volume, abs=1e-12)
    assert hypervolume(points[pareto_front(points)], zero) == pytest.approx(volume, abs=1e-12)
    assert hypervolume(points[1:], zero) <= volume + 1e-12
    assert max(points.prod(1)) - 1e-12 <= volume <= min(1, points.prod(1).sum()) + 1e-12
    assert hypervolume(points * 2 + 1, [1.0] * m) == pytest.approx(volume * 2**m, abs=1e-9)
    assert hypervolume(-points, zero, maximize=False) == pytest.approx(volume, abs=1e-12)


def test_points_at_or_below_the_reference_add_nothing():
    assert hypervolume(FIVE, [0.9, 0.0]) == 0
    assert hypervolume(torch.zeros(0, 3), [0.0] * 3) == 0
    assert hypervolume(torch.tensor([[0.5, -1.0], [0.25, 0.5]]), [0.0, 0.0]) == pytest.approx(0.125)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="points must be finite; leave out models"):
        pareto_front(torch.tensor([[torch.nan, 1.0]]))
    with pytest.raises(ValueError, match="reference must be 2 finite numbers, one per column"):
        hypervolume(FIVE, [0.0])


@given(st.integers(0, 10**6))
def test_rank_correlation_is_spearmans(seed):
    points = (drawn(seed, 9, 3) * 6).round()
    if any(len(set(column)) == 1 for column in points.T.tolist()):
        return
    expected = spearmanr(points.numpy()).statistic
    torch.testing.assert_close(
        torch.tensor(rank_correlation(points)).double(), torch.tensor(expected), atol=1e-6, rtol=0
    )


def test_a_column_that_does_not_vary_has_no_correlation():
    assert rank_correlation(torch.tensor([[1.0, 2.0], [1.0, 3.0]])) == ((None, None), (None, 1.0))


def test_a_front_knows_its_members_and_its_volume_by_seed():
    def model(seed, *values):
        return FrontModel(label="0", seed=seed, folder="m", values=values, low=values, high=values)

    models = [model(0, 0.9, 0.1), model(0, 0.5, 0.5), model(1, 0.4, 0.4)]
    front = Front.of(models, name="n", over="rho", data="d", samples=5, axes={"natural": "a", "linf": "b"})
    assert [entry.member for entry in front.models] == [True, True, False]
    assert front.by_seed == {"0": pytest.approx(0.29), "1": pytest.approx(0.16)}
    assert front.hypervolume == pytest.approx(0.29)
    assert "2 of 3" in str(front)
