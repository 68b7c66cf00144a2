"""The AND-OR split of a game: fewer and smaller terms than AND interactions alone (arXiv:2304.13312, arXiv:2302.13080).

v = v_and + v_or is split so that sum |a(T)| + sum |o(T)| is least, a being the dividends (AND terms) of v_and and o
the OR terms of v_or. An OR term of one player or none is an AND term, so o runs over at least two players. An OR of T
is the sum over the nonempty U in T of (-1)^(|U|+1) AND terms of U; with d the dividends of v that gives

    a = d + K o,    (K o)(U) = (-1)^|U| sum over T containing U of o(T), and 0 for the empty U,

and the least sum is a linear program in o. Its dual, max d.y over |y| <= 1 and |K' y| <= 1, bounds it from below.

Letters: d dividends, o OR terms, q allowed change of the values, y dual variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import Game, OnStep, silent

from ._games import MAX_EXACT, table_of
from ._transforms import (
    inverse_or,
    mobius,
    or_transform,
    players_of,
    rows_of,
    sizes,
    superset_mobius,
    superset_zeta,
    zeta,
)

MOST_LINEAR = 10
"""Most players for which the linear program is solved exactly."""

_CHECK_EVERY = 50


@dataclass(frozen=True, eq=False)
class AndOr:
    """A game as a sum of AND terms and OR terms.

    Args:
        and_: float64 `(2**n,)`, the AND term of each coalition: what it adds when all of it is present.
        or_: float64 `(2**n,)`, the OR term of each coalition of two players or more: what it adds when any is present.
        split: float64 `(2**n,)`, p with v_and = v/2 + p and v_or = v/2 - p (v including `change`).
        change: float64 `(2**n,)`, what was added to the values within the tolerance; zero without one.
        l1: sum of the absolute values of all terms.
        l1_and_only, l1_or_only: the same with AND terms alone and with OR terms alone.
        gap: how much smaller `l1` could at most be; zero up to rounding where the linear program was solved.
        steps: steps of the first-order method, 0 for the linear program.
        evaluations: model evaluations spent.
    """

    and_: Float[Tensor, " rows"]
    or_: Float[Tensor, " rows"]
    split: Float[Tensor, " rows"]
    change: Float[Tensor, " rows"]
    l1: float
    l1_and_only: float
    l1_or_only: float
    gap: float
    steps: int
    evaluations: int

    @property
    def n_players(self) -> int:
        """Number of players."""
        return players_of(self.and_)

    def top(self, k: int) -> list[tuple[str, tuple[int, ...], float]]:
        """Return the k terms of greatest absolute value, as "and" or "or", players and value; without the constant."""
        n = self.n_players
        both = torch.cat([self.and_, self.or_])
        both[0] = 0.0
        best = both.abs().argsort(dim=0, descending=True, stable=True)[:k].tolist()
        kinds = [("and", row) if row < 1 << n else ("or", row - (1 << n)) for row in best if both[row] != 0]
        return [
            (kind, tuple(p for p in range(n) if row >> p & 1), float((self.and_ if kind == "and" else self.or_)[row]))
            for kind, row in kinds
        ]

    def predict(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, " c"]:
        """Return the worth of coalitions by the terms; equal to the game's up to `change`."""
        return (zeta(self.and_) + inverse_or(self.or_))[rows_of(keep).to(self.and_.device)]


def and_or(
    game: Game | Tensor,
    *,
    tolerance: float = 0.0,
    max_linear: int = MOST_LINEAR,
    steps: int = 2000,
    max_exact: int = MAX_EXACT,
    on_step: OnStep = silent,
) -> AndOr:
    """Which AND and OR concepts does the game consist of? The split with the least sum of absolute terms.

    Exact by linear programming (HiGHS) for up to `max_linear` players; above, by a preconditioned primal-dual method
    (Pock and Chambolle 2011) that starts from the best of AND only, OR only and half of each, and returns its best
    iterate with the gap to the best dual bound.

    Args:
        game: a game, or its table `(2**n,)` of single values.
        tolerance: the values may change by this share of |v(N) - v(empty)| each; 0.02 to 0.04 in the papers.
        max_linear: most players for which the linear program is solved.
        steps: most steps of the first-order method; it ends earlier when the gap is below a millionth.
        max_exact: most players for which the whole table is evaluated.
        on_step: progress in evaluations of the game.

    Raises:
        ValueError: the game has vector values, or the tolerance is negative.

    Example:
        >>> import torch
        >>> either = torch.tensor([0.0, 1.0, 1.0, 1.0])
        >>> and_or(either).top(3)
        [('or', (0, 1), 1.0)]
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    values, evaluations = table_of(game, max_exact=max_exact, on_step=on_step)
    if values.ndim != 1:
        raise ValueError(f"an AND-OR split needs one value per coalition, got a table of shape {tuple(values.shape)}")
    v = values.to(torch.float64).cpu()
    problem = _Problem(v, tolerance * float((v[-1] - v[0]).abs()))
    if problem.n <= max_linear:
        o, q, bound, spent = *problem.linear(), 0
    else:
        o, q, bound, spent = problem.first_order(steps)
    a = problem.rest(o, q)
    l1 = float(a.abs().sum() + o.abs().sum())
    return AndOr(
        and_=a,
        or_=o,
        split=zeta(a) - (v + q) / 2,
        change=q,
        l1=l1,
        l1_and_only=float(problem.d.abs().sum()),
        l1_or_only=float(or_transform(v).abs().sum()),
        gap=max(0.0, l1 - bound),
        steps=spent,
        evaluations=evaluations,
    )


class _Problem:
    """min over o and |q| <= most of |o|_1 + |d + K o + M q|_1, M being the Moebius transform."""

    def __init__(self, v: Tensor, most: float) -> None:
        self.v, self.most = v, most
        self.n = players_of(v)
        self.d = mobius(v)
        self.size = sizes(self.n)
        self.sign = torch.where(self.size % 2 == 0, 1.0, -1.0).to(torch.float64)
        self.sign[0] = 0.0
        self.free = self.size >= 2

    def rest(self, o: Tensor, q: Tensor) -> Tensor:
        """Return the AND terms that are left: d + K o + M q."""
        a = self.d + self.sign * superset_zeta(o)
        return a + mobius(q) if self.most else a

    def back(self, y: Tensor) -> Tensor:
        """Return K' y."""
        return torch.where(self.free, zeta(self.sign * y), 0.0)

    def objective(self, o: Tensor, q: Tensor) -> float:
        return float(o.abs().sum() + self.rest(o, q).abs().sum())

    def bound(self, y: Tensor) -> float:
        """Return the dual value of y after scaling it into what is allowed: no split can be cheaper."""
        y = y / max(1.0, float(self.back(y).abs().max()), float(y.abs().max()))
        slack = self.most * float(superset_mobius(y).abs().sum()) if self.most else 0.0
        return float(self.d @ y) - slack

    # -- few players --------------------------------------------------------------------------------------------------

    def linear(self) -> tuple[Tensor, Tensor, float]:
        """Return the optimum and its dual bound, from HiGHS."""
        import numpy as np
        from scipy import sparse
        from scipy.optimize import linprog

        rows = 1 << self.n
        scale = float(self.d.abs().max()) or 1.0  # HiGHS has absolute tolerances
        number = np.arange(rows)
        inside = (number[:, None] & ~number[None, :]) == 0  # U in T
        K = sparse.csc_matrix(inside * self.sign.numpy()[:, None])[:, self.free.numpy()]
        one = sparse.identity(rows, format="csc")
        # a = d + K o + M q, with a and o as differences of what is not negative.
        blocks = [one, -one, -K, K]
        bounds: list[tuple[float, float | None]] = [(0, None)] * (2 * rows + 2 * K.shape[1])
        costs = [np.ones(2 * rows + 2 * K.shape[1])]
        if self.most:
            parity = np.where((self.size[:, None] - self.size[None, :]).numpy() % 2 == 0, 1.0, -1.0)
            blocks.append(-sparse.csc_matrix(inside.T * parity))
            bounds += [(-self.most / scale, self.most / scale)] * rows
            costs.append(np.zeros(rows))
        found: Any = linprog(
            np.concatenate(costs),
            A_eq=sparse.hstack(blocks, format="csc"),
            b_eq=self.d.numpy() / scale,
            bounds=bounds,
            method="highs",
        )
        if found.status != 0:
            raise ValueError(f"the linear program of the AND-OR split was not solved: {found.message}")
        start, width = 2 * rows, K.shape[1]
        o = torch.zeros(rows, dtype=torch.float64)
        x = found.x * scale
        o[self.free] = torch.from_numpy(x[start : start + width] - x[start + width : start + 2 * width])
        q = torch.from_numpy(x[start + 2 * width :].copy()) if self.most else torch.zeros_like(o)
        return o, q, self.bound(torch.from_numpy(np.asarray(found.eqlin.marginals).copy()))

    # -- many players -------------------------------------------------------------------------------------------------

    def first_order(self, steps: int) -> tuple[Tensor, Tensor, float, int]:
        """Return the best iterate, the best dual bound and the number of steps."""
        whole = torch.where(self.free, or_transform(self.v), 0.0)
        q = torch.zeros_like(whole)
        o = min((torch.zeros_like(whole), whole, whole / 2), key=lambda start: self.objective(start, q))
        y = self.rest(o, q).sign()
        best, bound = (self.objective(o, q), o, q), self.bound(y)
        # Step sizes are the inverse sums of absolute entries of K's and M's columns and rows.
        # The dual lies within 1; the primal moves on the scale of the dividends (half of it did best on random games).
        scale, size = 0.5 * max(1e-300, float(self.d.abs().mean())), self.size.double()
        pace_o, pace_q = scale * 0.5**size, scale * 0.5 ** (self.n - size)
        pace_y = 1 / scale / (2.0 ** (self.n - size) + (2.0**size if self.most else 0.0))
        total_o, total_q, total_y = torch.zeros_like(o), torch.zeros_like(q), torch.zeros_like(y)
        for step in range(1, steps + 1):
            moved = o - pace_o * self.back(y)
            new_o = torch.where(self.free, moved.sign() * (moved.abs() - pace_o).clamp_min(0), 0.0)
            new_q = (q - pace_q * superset_mobius(y)).clamp(-self.most, self.most) if self.most else q
            y = (y + pace_y * self.rest(2 * new_o - o, 2 * new_q - q)).clamp(-1, 1)
            o, q = new_o, new_q
            total_o, total_q, total_y = total_o + o, total_q + q, total_y + y
            if step % _CHECK_EVERY == 0 or step == steps:
                for one, other in ((o, q), (total_o / step, total_q / step)):
                    best = min(best, (self.objective(one, other), one, other), key=lambda entry: entry[0])
                bound = max(bound, self.bound(y), self.bound(total_y / step))
                if best[0] - bound <= 1e-6 * best[0]:
                    break
        return best[1], best[2], bound, step
