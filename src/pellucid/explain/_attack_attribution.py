"""Which regions make an attack cheap? Shapley values of regions in the game of the attack's cost (arXiv:2108.06895)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import isfinite, lgamma, pi, sqrt
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import ALONE, DataError, Model, OnStep, Stream, Work, device_of

from ._attack_cost import (
    AttackUtility,
    MinimumCost,
    ReachedMargin,
    allowed_least,
    attack_regions,
    cap_of,
    free_elements,
    touched,
)
from ._samples import check_samples, predicted

Utility = Literal["l2", "linf", "margin"] | AttackUtility

MOST_CAPPED = 0.05
"""Share of searches without success from which the note warns."""

_ROWS_TOGETHER = {"cpu": 256, "cuda": 2048}
_ELEMENTS_TOGETHER = {"cpu": 1 << 20, "cuda": 1 << 26}


@dataclass(frozen=True, eq=False)
class AttackAttribution:
    """How much each region helps the attacker, for each attacked sample.

    Args:
        values: `(N, n)`, by how much the attack gets cheaper when it may also touch the region: Shapley values of minus
            the cost, at least 0; in the utility's unit. Each row sums to `cost_none - cost_full`.
        stderr: `(N, n)`, standard error over pairs of paths.
        floor: `(N, n)`, what a region without influence would show on average: the draw of paths, and what the searches
            along a path leave undone, shared evenly by all regions.
        cost_none: `(N,)`, cost of an attack that may touch the border alone.
        cost_full: `(N,)`, cost of an attack that may touch everything.
        slack: `(N,)`, by how much the ends of the paths stay above `cost_full` on average.
        delta: `(N, ...)`, the cheapest perturbation found with everything free.
        capped: `(N,)`, share of a sample's searches that found nothing that fools; the largest possible cost counts.
        rows: `(N,)`, which of the given samples were attacked.
        note: samples that were left out and why, and whether too many searches were capped; empty if nothing is to say.
        owner: region of each element of one input, -1 for what is always free.
        grid: rows and columns of the regions, None where they are no grid.
        unit: what costs are measured in.
        evaluations: model evaluations spent, a gradient counted as two.
    """

    values: Float[Tensor, "samples n"]
    stderr: Float[Tensor, "samples n"]
    floor: Float[Tensor, "samples n"]
    cost_none: Float[Tensor, " samples"]
    cost_full: Float[Tensor, " samples"]
    slack: Float[Tensor, " samples"]
    delta: Tensor
    capped: Float[Tensor, " samples"]
    rows: Int[Tensor, " samples"]
    note: str
    owner: Int[Tensor, "..."]
    grid: tuple[int, int] | None
    unit: str
    evaluations: int

    @property
    def n_regions(self) -> int:
        """Number of regions."""
        return self.values.shape[1]

    @property
    def capped_fraction(self) -> float:
        """Share of all searches that found nothing that fools."""
        return float(self.capped.mean())

    @property
    def map(self) -> Float[Tensor, "samples *owner"]:
        """Each region's value painted on its elements, 0 on the border: `(N, H, W)` for images."""
        return self.painted(self.values)

    def painted(self, values: Float[Tensor, "samples n"]) -> Float[Tensor, "samples *owner"]:
        """Return numbers per region painted on the regions' elements, 0 where there is no region."""
        wide = torch.cat([values, torch.zeros(len(values), 1, dtype=values.dtype)], dim=1)
        return wide[:, self.owner.flatten()].view(len(values), *self.owner.shape)

    def perturbation(self) -> Float[Tensor, "samples n"]:
        """Return the Euclidean length of the cheapest perturbation inside each region."""
        return region_norms(self.delta, self.owner)

    def share(self, count: int) -> Float[Tensor, " samples"]:
        """Return the share of the whole drop in cost that the `count` strongest regions of each sample make."""
        top = self.values.sort(1, descending=True).values[:, :count].sum(1)
        return top / self.values.sum(1)


def region_norms(delta: Tensor, owner: Int[Tensor, "..."]) -> Float[Tensor, "samples n"]:
    """Return the Euclidean length of each perturbation inside each region.

    Args:
        delta: perturbations, batch first.
        owner: region of each element of one input, from `attack_regions`.
    """
    count = int(owner.max()) + 1
    axes = tuple(range(1, delta.ndim - owner.ndim))
    square = delta.detach().double().cpu().square()
    flat = (square.sum(axes) if axes else square).flatten(1)
    whole = torch.zeros(len(flat), count + 1, dtype=torch.float64)
    return whole.index_add_(1, owner.flatten() % (count + 1), flat)[:, :count].sqrt()


def map_iou(a: Tensor, b: Tensor) -> float:
    """How alike are two maps of regions? Each is scaled to [0, 1] and divided by its length; sum of minima over maxima.

    1 for maps that differ by a positive factor and an offset only; NaN, with a warning, if one of them is constant.

    Args:
        a, b: numbers per region, of one shape.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> round(map_iou(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([5.0, 6.0, 7.0])), 6)
        1.0
    """
    if a.shape != b.shape or not a.numel():
        raise ValueError(f"two maps of one shape are compared, got {tuple(a.shape)} and {tuple(b.shape)}")
    scaled = []
    for values in (a.detach().double().cpu().flatten(), b.detach().double().cpu().flatten()):
        span = values.max() - values.min()
        if not span > 0:
            warnings.warn("a map is constant: its likeness to another is not defined", stacklevel=2)
            return float("nan")
        unit = (values - values.min()) / span
        scaled.append(unit / unit.norm())
    both = torch.stack(scaled)
    return float(both.amin(0).sum() / both.amax(0).sum())


def cost_attack_attribution(n_regions: int, utility: Utility = "l2", *, samples: int = 1, permutations: int = 8) -> int:
    """Return the most evaluations that `attack_attribution` spends; nothing is evaluated.

    Args:
        n_regions: number of regions.
        utility: what the attack wants.
        samples: samples asked for; those that are left out save theirs.
        permutations: antithetic pairs of paths.
    """
    chosen = _utility(utility)
    ends = 2 * chosen.evaluations(thorough=True)
    return samples * (1 + ends + 2 * permutations * n_regions * chosen.evaluations(thorough=False))


def attack_attribution(
    model: Model,
    x: Float[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    *,
    target: Int[Tensor, " samples"] | int | None = None,
    regions: int | tuple[int, int] | Tensor = 8,
    border: int | None = None,
    utility: Utility = "l2",
    permutations: int = 8,
    rng: Stream,
    work: Work = ALONE,
) -> AttackAttribution:
    """Which regions of an input make attacking it cheap?

    U(S) is the size of the smallest perturbation that fools the model and changes nothing but the regions of S and a
    border that is always free. A region's attribution is minus its Shapley value in U, the mean over random orders of
    what the attack saves when the region is set free too. More freedom never costs more, so no attribution is negative.

    Paths run from the border alone to everything, all paths of some samples in lock-step, in pairs of an order and its
    reverse; each search starts at the best perturbation of the set before. A perturbation found on any path counts
    for every set that allows it. The two ends are searched more thoroughly and are common to all paths, so that each
    sample's attributions sum to `cost_none - cost_full`.

    Args:
        model: maps a batch to logits; gradients are needed.
        x: inputs, in the unit in which the attack is measured.
        y: their labels. Samples that the model classifies wrongly are left out, and the note says so.
        target: the class an attack must reach; any other class than the label if not given.
        regions: cells per side of a grid inside the border, (rows, columns), or the region of each element of one
            input as integers from 0, with -1 for what is always free.
        border: width of the free border in pixels; see `attack_regions`. Without a border the cost of an attack that
            may touch nothing is infinite, which only `utility="margin"` does without.
        utility: "l2" and "linf" are `MinimumCost` in that norm, "margin" is `ReachedMargin()`; or one with your own
            settings.
        permutations: pairs of paths per sample, at least two.
        rng: bound to the samples' ids, else row numbers are the ids.
        work: how the computation is watched, kept and shared out.

    Returns:
        One row per attacked sample; `cost_attack_attribution` gives the most it can cost.

    Raises:
        ValueError: a target equal to what the model answers, no free border, or settings that do not fit.
        DataError: no sample can be attacked: all are classified wrongly, or nothing found fools the model.
        ModelError: the model gives no gradients.

    Example:
        >>> weights = torch.tensor([[0.0, 3.0], [0.0, 0.0], [0.0, 1.0]])  # border, first region, second region
        >>> model = lambda x: torch.stack([0 * x[:, 0], (x @ weights).sum(1) - 6], dim=1)
        >>> owner, how = torch.tensor([-1, 0, 1]), MinimumCost("linf", bounds=None)
        >>> x, y = torch.zeros(1, 3), torch.tensor([0])
        >>> found = attack_attribution(model, x, y, regions=owner, utility=how, permutations=2, rng=Stream(0))
        >>> [round(v, 2) for v in (*found.values[0].tolist(), float(found.cost_none), float(found.cost_full))]
        [0.0, 0.5, 2.0, 1.5]
    """
    ids = check_samples(x, y, rng)
    chosen = _utility(utility)
    if permutations < 2:
        raise ValueError(f"permutations must be at least 2 pairs, for a standard error, got {permutations}")
    owner, grid = _owner(x, regions, border)
    if chosen.needs_border and not bool((owner < 0).any()):
        raise ValueError(
            "something must always be free, or an attack that may touch nothing costs infinitely much; give a border "
            'of at least 1 pixel (-1 in regions), or use utility="margin"'
        )
    answers = predicted(model, x)
    right = (answers == y.cpu()).nonzero()[:, 0]
    goals = _goals(target, y.cpu(), right)
    if not len(right):
        raise DataError(f"the model classifies none of the {len(x)} samples correctly; there is nothing to attack")
    searching = _Searching(model, x, y, goals, chosen, owner, permutations, rng, ids)
    towards = None if goals is None else goals.tolist()
    device = device_of(model).type
    together = min(_ROWS_TOGETHER.get(device, 256), _ELEMENTS_TOGETHER.get(device, 1 << 20) // max(1, x[0].numel()))
    done = work.map(
        "attack-attribution",
        ids[right],
        lambda rows, on_step: searching(right[rows], on_step),
        chunk=max(1, together // (2 * permutations)),
        key=f"{chosen}|{owner.flatten().tolist()}|{towards}|{permutations}|{rng.seed}",
    )
    fooled = done["full"].isfinite() & done["none"].isfinite()
    if not bool(fooled.any()):
        raise DataError("no perturbation was found that fools the model on any sample; there is no cost to share out")
    kept = {name: tensor[fooled] for name, tensor in done.items()}
    return AttackAttribution(
        values=kept["values"],
        stderr=kept["stderr"],
        floor=kept["floor"],
        cost_none=kept["none"],
        cost_full=kept["full"],
        slack=kept["slack"],
        delta=kept["delta"],
        capped=kept["capped"],
        rows=right[fooled],
        note=_note(len(x), len(right), int(fooled.sum()), float(kept["capped"].mean())),
        owner=owner,
        grid=grid,
        unit=chosen.unit,
        evaluations=len(x) + int(done["evaluations"].sum()),
    )


def _utility(utility: Utility) -> AttackUtility:
    if utility == "margin":
        return ReachedMargin()
    if isinstance(utility, str):
        return MinimumCost(utility)
    return utility


def _owner(
    x: Tensor, regions: int | tuple[int, int] | Tensor, border: int | None
) -> tuple[Tensor, tuple[int, int] | None]:
    if not isinstance(regions, Tensor):
        if x.ndim != 4:
            raise ValueError(
                f"a grid cuts images (N, C, H, W); give the region of each element of {tuple(x.shape[1:])}"
            )
        grid = (regions, regions) if isinstance(regions, int) else regions
        return attack_regions(x.shape[2], x.shape[3], grid, border=border), grid
    owner = regions.cpu()
    if border is not None:
        raise ValueError("regions given element by element hold their own border: -1 is always free")
    if owner.dtype != torch.int64 or not owner.ndim or owner.shape != x.shape[x.ndim - owner.ndim :]:
        raise ValueError(
            f"regions must be int64 and fit one input of shape {tuple(x.shape[1:])}, got {owner.dtype} "
            f"{tuple(owner.shape)}"
        )
    count = int(owner.max()) + 1
    if int(owner.min()) < -1 or count < 1 or bool((torch.bincount(owner[owner >= 0], minlength=count) == 0).any()):
        raise ValueError("regions must be numbered from 0 without gaps, with -1 for what is always free")
    return owner, None


def _goals(target: Tensor | int | None, y: Tensor, right: Tensor) -> Tensor | None:
    if target is None:
        return None
    goals = torch.full_like(y, target) if isinstance(target, int) else target.cpu()
    if goals.shape != y.shape or goals.dtype != torch.int64:
        raise ValueError(f"target must be one class or int64 of shape {tuple(y.shape)}, got {tuple(goals.shape)}")
    same = right[goals[right] == y[right]]
    if len(same):
        raise ValueError(
            f"the target of sample {int(same[0])} is {int(goals[same[0]])}, which the model answers already; "
            "choose another class"
        )
    return goals


def _note(given: int, right: int, attacked: int, capped: float) -> str:
    parts = []
    if right < given:
        parts.append(f"{given - right} of {given} samples are classified wrongly without an attack and were left out.")
    if attacked < right:
        parts.append(f"No attack was found on {right - attacked} of {right} samples; they were left out.")
    if capped > MOST_CAPPED:
        parts.append(
            f"{100 * capped:.0f}% of the searches found nothing that fools and count with the largest possible cost: "
            "take a wider border or another norm."
        )
    return " ".join(parts)


@dataclass(frozen=True, eq=False)
class _Searching:
    """Walks the paths of some samples in lock-step."""

    model: Model
    x: Tensor
    y: Tensor
    goals: Tensor | None
    utility: AttackUtility
    owner: Tensor
    permutations: int
    rng: Stream
    ids: Tensor

    def __call__(self, rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        device = device_of(self.model)
        n, paths = int(self.owner.max()) + 1, 2 * self.permutations
        rng = self.rng.at(self.ids[rows]).child("attack-attribution")
        order = rng.bits((len(rows), self.permutations, n)).argsort(dim=2, stable=True)
        order = torch.stack([order, order.flip(2)], dim=2).flatten(1, 2)  # (samples, paths, n)
        ranks = order.argsort(2)
        total, spent = cost_attack_attribution(n, self.utility, samples=len(rows), permutations=self.permutations), 0
        none = self._search(rows, 1, torch.zeros(len(rows), n, dtype=torch.bool), None, rng.child("none"))
        full = self._search(rows, 1, torch.ones(len(rows), n, dtype=torch.bool), none[1], rng.child("full"))
        spent += none[2] + full[2]
        delta, cost = (part.repeat_interleave(paths, 0) for part in none[:2][::-1])
        worst = self.utility.worst(
            self.x[rows].to(device), free_elements(torch.zeros(1, n, dtype=torch.bool), self.owner, self.x.to(device))
        ).cpu()
        costs, used, keeps, deltas = [], [], [], [none[1], full[1]]
        for k in range(1, n + 1):
            on_step(spent, total)
            keep = (ranks < k).flatten(0, 1)
            reached, found, evaluations = self._search(rows, paths, keep, delta, rng.child("step", k))
            spent += evaluations
            better = reached < cost
            cost = torch.where(better, reached, cost)
            # Where nothing fools yet, the search goes on from where it came nearest.
            follow = better | ~cost.isfinite()
            delta = torch.where(follow.view(-1, *[1] * (delta.ndim - 1)).to(delta.device), found, delta)
            costs.append(cost.view(len(rows), paths))
            used.append(touched(delta, self.owner, n).cpu().view(len(rows), paths, n))
            keeps.append(keep.view(len(rows), paths, n))
        deltas.append(delta)
        on_step(spent, total)
        raw, use, sets = torch.stack(costs, 1), torch.stack(used, 1), torch.stack(keeps, 1)  # (samples, n, paths, ...)
        made = [
            self._shared(s, raw[s], use[s], sets[s], order[s], none, full, float(worst[s])) for s in range(len(rows))
        ]
        best = self._cheapest(deltas, none[0], full[0], cost.view(len(rows), paths))
        evaluations_of = torch.zeros(len(rows), dtype=torch.int64)
        evaluations_of[0] = spent  # only their sum means anything
        return {key: torch.stack([one[key] for one in made]) for key in made[0]} | {
            "delta": best,
            "evaluations": evaluations_of,
        }

    def _search(
        self, rows: Tensor, paths: int, keep: Bool[Tensor, "r n"], start: Tensor | None, rng: Stream
    ) -> tuple[Tensor, Tensor, int]:
        """Search every path of every sample; a lone path is one of the two ends, and is searched thoroughly."""
        device = device_of(self.model)
        wide = rows.repeat_interleave(paths)
        x, y = self.x[wide].to(device), self.y[wide].to(device)
        goals = None if self.goals is None else self.goals[wide].to(device)
        found = self.utility.search(
            self.model,
            x,
            y,
            goals,
            mask=free_elements(keep.to(device), self.owner, x),
            start=start,
            rng=rng.at(self.ids[wide]),
            thorough=paths == 1,
        )
        return found.cost.cpu(), found.delta, found.evaluations

    def _shared(
        self,
        s: int,
        raw: Tensor,
        used: Tensor,
        sets: Tensor,
        order: Tensor,
        none: tuple[Tensor, Tensor, int],
        full: tuple[Tensor, Tensor, int],
        worst: float,
    ) -> dict[str, Tensor]:
        """Return one sample's attributions from the costs `(n, paths)` of the sets on its paths."""
        n, paths = raw.shape
        ends = torch.tensor([float(none[0][s]), float(full[0][s])], dtype=torch.float64)
        end_used = torch.stack([touched(d[s : s + 1], self.owner, n)[0].cpu() for d in (none[1], full[1])])
        end_sets = torch.tensor([[False], [True]]).expand(2, n)
        cost = torch.cat([ends, raw.flatten()])
        failed = ~cost.isfinite()
        least = allowed_least(
            torch.cat([end_sets, sets.flatten(0, 1)]), torch.cat([end_used, used.flatten(0, 1)]), cost
        )
        cap = cap_of(worst, cost)
        least = torch.where(least.isfinite(), least, cap)
        start, end = least[0], least[1]
        path = torch.cat([start.expand(1, paths), least[2:].view(n, paths)])
        # The last set of each path is everything: its cost is the common end.
        gains = -path.diff(dim=0).T  # (paths, n), in the order of the path
        values = torch.zeros(paths, n, dtype=torch.float64).scatter(1, order, gains)
        pairs = values.view(-1, 2, n).mean(1)
        stderr = pairs.std(0) / sqrt(len(pairs))
        slack = (torch.where(raw[-1].isfinite(), raw[-1], cap) - end).mean().clamp_min(0)
        reached = bool(full[0][s].isfinite()) or bool(raw[-1].isfinite().any())
        nothing = torch.tensor(torch.nan, dtype=torch.float64)
        return {
            "values": pairs.mean(0),
            "stderr": stderr,
            "floor": _mean_size(stderr, len(pairs) - 1) + slack / n,
            "none": start if reached and isfinite(float(start)) else nothing,
            "full": end if reached else nothing,
            "slack": slack,
            "capped": failed.double().mean(),
        }

    def _cheapest(self, deltas: list[Tensor], none: Tensor, full: Tensor, last: Tensor) -> Tensor:
        """Return each sample's cheapest perturbation among the two ends and the ends of its paths."""
        paths = last.shape[1]
        ends = deltas[2].view(len(last), paths, *deltas[2].shape[1:])
        every = torch.cat([deltas[0][:, None], deltas[1][:, None], ends], dim=1)
        least = torch.cat([none[:, None], full[:, None], last], dim=1).argmin(1).to(every.device)
        return every[torch.arange(len(last), device=every.device), least].cpu()


def _mean_size(stderr: Tensor, freedom: int) -> Tensor:
    """Return what |mean| of normal draws around zero is on average, from its estimated standard error."""
    c4 = sqrt(2 / freedom) * torch.tensor(lgamma((freedom + 1) / 2) - lgamma(freedom / 2)).exp()
    return sqrt(2 / pi) * stderr / c4
