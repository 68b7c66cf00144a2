"""Which class does each map of a matrix decomposition follow? Chosen on one half of the images, scored on the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pellucid.core import IGNORED, DataError, Stream

SHUFFLES = 20
"""Times that images and labels are put together at random, to see what chance gives."""

_QUANTILES = (*(k / 20 for k in range(1, 20)), 0.975, 0.99)
_CELLS = 4096  # of maps that are compared at once


@dataclass(frozen=True)
class ConceptMatches:
    """How well each atom goes with each class.

    Classes and thresholds are chosen on one half of the images, scores are those of the other half. The same is done
    with labels of other images, `SHUFFLES` times: that is what chance gives, the share of a class and the usual layout
    of images included.

    Args:
        measure: "iou", intersection over union of {map above the atom's threshold} and the pixels of a class; or "auc",
            the chance that an image of the class uses the atom more than an image of another class.
        score: of each atom and class on the held-out half; NaN for a class that is missing in one of the halves.
        chance: mean of the same with labels of other images.
        best: the class whose score lies furthest above chance on the choosing half; -1 where there is none.
        best_atom: of each class, the atom whose score lies furthest above chance on the choosing half; -1 where the
            class is missing.
        clear: whether the score of that class lies further above chance on the held-out half than that of any atom in
            any shuffle: about a 5 % chance that one or more atoms are called clear by mistake.
        threshold: of each atom and class, in the unit of the maps; NaN for "auc".
        share: of each class in the held-out half, of pixels or of images.
        chosen_on, scored_on: rows of the two halves.
    """

    measure: Literal["iou", "auc"]
    score: Float[Tensor, "a k"]
    chance: Float[Tensor, "a k"]
    best: Int[Tensor, " a"]
    best_atom: Int[Tensor, " k"]
    clear: Bool[Tensor, " a"]
    threshold: Float[Tensor, "a k"]
    share: Float[Tensor, " k"]
    chosen_on: Int[Tensor, " m"]
    scored_on: Int[Tensor, " h"]

    @property
    def best_score(self) -> Float[Tensor, " a"]:
        """Each atom's held-out score for its best class; NaN where there is none."""
        return self._of_best(self.score)

    @property
    def best_chance(self) -> Float[Tensor, " a"]:
        """What chance gives for that class."""
        return self._of_best(self.chance)

    def _of_best(self, values: Tensor) -> Tensor:
        found = values.gather(1, self.best.clamp_min(0)[:, None])[:, 0]
        return torch.where(self.best < 0, torch.nan, found)


def match_concepts(
    maps: Tensor, labels: Tensor, n_classes: int, *, rng: Stream, ids: Int[Tensor, " n"] | None = None
) -> ConceptMatches:
    """Does an atom follow a class? Its map against masks, or how much it is used against one label per image.

    With masks the measure is that of network dissection (Bau et al. 2017): intersection over union of the places where
    the map lies above a threshold of that atom, and the pixels of a class, counted over all images together. A map is
    enlarged without interpolation. Thresholds are the best among quantiles of the atom's values.

    Both thresholds and classes are chosen on one half of the images and scored on the other: the best of many always
    looks good on the images it was chosen on.

    Args:
        maps: `ConceptMaps.maps` `(N, a, h, w)` with masks; with one label per image these or `ConceptMaps.usage`
            `(N, a)`, of which the mean over places counts.
        labels: `(N, H, W)` or `(N,)` int64; pixels with `core.IGNORED` do not count.
        n_classes: K.
        rng: draws the halves and the shuffles.
        ids: names of the images that the halves depend on; row numbers if not given.

    Raises:
        DataError: fewer than 4 images, or shapes that do not fit.

    Example:
        >>> masks = torch.randint(3, (8, 16, 16))
        >>> maps = F.one_hot(masks, 3).permute(0, 3, 1, 2).float()
        >>> found = match_concepts(maps, masks, 3, rng=Stream(0))
        >>> found.best.tolist(), found.best_score.tolist()
        ([0, 1, 2], [1.0, 1.0, 1.0])
    """
    maps, labels = maps.detach().cpu(), labels.cpu()
    _check(maps, labels, n_classes)
    n = len(maps)
    order = rng.child("halves").at(torch.arange(n) if ids is None else ids).bits((n,)).argsort(stable=True)
    halves = order[: n // 2].sort().values, order[n // 2 :].sort().values
    mixes = [_mixes(len(half), rng.child("shuffles", number)) for number, half in enumerate(halves)]
    if labels.ndim == 3:
        first, second, threshold, share = _by_masks(maps, labels, n_classes, halves, mixes)
    else:
        used = maps.flatten(2).mean(2) if maps.ndim > 2 else maps
        first, second = (
            _auc(used[half], labels[half], n_classes, mix) for half, mix in zip(halves, mixes, strict=True)
        )
        threshold = torch.full_like(first[0], torch.nan)
        share = F.one_hot(labels[halves[1]], n_classes).double().mean(0)
    known = first[0].isfinite() & second[0].isfinite()
    # Row 0 is the real pairing, the others are shuffled; each one chooses by itself.
    margin = (first - first[1:].mean(0)).where(known, -torch.inf)
    best = margin.argmax(2)
    chance = second[1:].mean(0)
    above = (second - chance).gather(2, best[..., None])[..., 0]
    return ConceptMatches(
        measure="iou" if labels.ndim == 3 else "auc",
        score=second[0].where(known, torch.nan),
        chance=chance.where(known, torch.nan),
        best=torch.where(known.any(1), best[0], -1),
        best_atom=torch.where(known.any(0), margin[0].argmax(0), -1),
        clear=known.any(1) & (above[0] > above[1:].nan_to_num(0).max()) & (above[0] > 0),
        threshold=threshold,
        share=share,
        chosen_on=halves[0],
        scored_on=halves[1],
    )


def _check(maps: Tensor, labels: Tensor, n_classes: int) -> None:
    if len(maps) < 4:
        raise DataError(f"matching takes 4 images, half of them to choose and half to score; got {len(maps)}")
    if len(labels) != len(maps):
        raise DataError(f"there are maps of {len(maps)} images but labels of {len(labels)}")
    if labels.ndim == 3 and maps.ndim != 4:
        raise DataError(f"masks are matched to maps (N, a, h, w), got {tuple(maps.shape)}")
    if labels.ndim not in (1, 3) or maps.ndim < 2:
        raise DataError(
            f"labels must be (N,) or (N, H, W) and maps (N, a, ...), got {tuple(labels.shape)} and {tuple(maps.shape)}"
        )
    known = labels[labels != IGNORED]
    if known.numel() and (int(known.min()) < 0 or int(known.max()) >= n_classes):
        raise DataError(
            f"labels must hold classes from 0 to {n_classes - 1}, got {int(known.min())} to {int(known.max())}"
        )


def _mixes(n: int, rng: Stream) -> Int[Tensor, "s n"]:
    """Return whose labels each image gets: its own in the first row, others' in the rest."""
    return torch.cat([torch.arange(n)[None], rng.permutations(n, SHUFFLES)])


# -- masks --------------------------------------------------------------------------------------------------------


def _by_masks(
    maps: Tensor, masks: Tensor, n_classes: int, halves: tuple[Tensor, Tensor], mixes: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scores of both halves (s, a, k), thresholds (a, k) and the classes' shares of the second half."""
    maps = maps.float()
    values = maps[halves[0]].transpose(0, 1).flatten(1)
    levels = torch.tensor(_QUANTILES, dtype=values.dtype)
    steps = values.sort(1).values[:, (levels * (values.shape[1] - 1)).long()]  # (a, t)
    tables = []
    for half, mix in zip(halves, mixes, strict=True):
        areas = _areas(masks[half], n_classes, (maps.shape[2], maps.shape[3]))
        tables.append(_ious(maps[half].flatten(2), areas, mix, steps))
    first, second = tables
    place = first.nan_to_num(-1).argmax(3, keepdim=True)  # the threshold that each pairing would choose
    threshold = steps[:, None].expand(-1, n_classes, -1).gather(2, place[0])[..., 0]
    known = masks[halves[1]]
    share = torch.stack([(known == k).sum() for k in range(n_classes)]).double() / (known != IGNORED).sum().clamp_min(1)
    return first.gather(3, place)[..., 0], second.gather(3, place)[..., 0], threshold, share


def _areas(masks: Tensor, n_classes: int, size: tuple[int, int]) -> Float[Tensor, "n cells k"]:
    """Return how much of each cell of the maps belongs to each class; the last column is all that has a class."""
    found = []
    for mask in torch.split(masks, max(1, 2**24 // (n_classes * masks[0].numel()))):
        own = torch.stack([mask == k for k in range(n_classes)], 1).float()
        found.append(F.adaptive_avg_pool2d(own, size).flatten(2).mT)
    areas = torch.cat(found)
    return torch.cat([areas, areas.sum(2, keepdim=True)], 2)


def _ious(maps: Tensor, areas: Tensor, mix: Tensor, steps: Tensor) -> Float[Tensor, "s a k t"]:
    """Return IoU by pairing, atom, class and threshold; NaN for a class without a pixel."""
    n, atoms, cells = maps.shape
    pairings, columns = len(mix), areas.shape[2]
    both = torch.zeros(atoms * steps.shape[1], pairings * columns, dtype=torch.float64)
    for rows in torch.split(torch.arange(n), max(1, _CELLS // cells)):
        on = (maps[rows][:, :, None] > steps[None, :, :, None]).float()  # (r, a, t, cells)
        on = on.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
        paired = areas[mix[:, rows]].permute(1, 2, 0, 3).flatten(0, 1).flatten(1)  # (r cells, s columns)
        both += (on @ paired).double()
    table = both.view(atoms, steps.shape[1], pairings, columns).permute(2, 0, 3, 1)  # (s, a, columns, t)
    inside, lit = table[:, :, :-1], table[:, :, -1:]
    size = areas.double().sum((0, 1))[:-1].view(1, 1, -1, 1)
    return torch.where(size > 0, inside / (lit + size - inside), torch.nan)


# -- one label per image ------------------------------------------------------------------------------------------


def _auc(used: Tensor, labels: Tensor, n_classes: int, mix: Tensor) -> Float[Tensor, "s a k"]:
    """Return the area under the ROC curve of each atom's usage for each class against the others; ties count half."""
    values = used.double().T.contiguous()
    order = values.sort(1).values
    ends = [torch.searchsorted(order, values, right=right).double() for right in (False, True)]
    below = ((ends[0] + ends[1] - 1) / 2).T  # how many images use it less, ties as a half
    own = F.one_hot(labels, n_classes).double()[mix]  # (s, n, k)
    size = own.sum(1)[:, None]  # (s, 1, k)
    ranks = torch.einsum("na,snk->sak", below, own)
    others = len(used) - size
    # Among its own class an image is above half of the others on average.
    return torch.where((size > 0) & (others > 0), (ranks - size * (size - 1) / 2) / (size * others), torch.nan)
