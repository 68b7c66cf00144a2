"""How near is the last layer to neural collapse? (Papyan, Han and Donoho 2020, arXiv:2008.08186)

Symbols: K classes, d features, n_k samples of class k, h a feature, mu_k a class mean, w_k the classifier's vector of
class k. No loop over classes, and no matrix of d x d unless it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.core import PENULTIMATE, DataError, FeatureReader, Interval, ModelError, OnStep, silent

from ._collapse_sums import First, Second, Weighting, chunks, double, upper
from ._frequency import frequency_groups

_GROUPS = 20  # for the jackknife
_MOST = 2**18  # numbers in the class means up to which standard errors are made


@dataclass(frozen=True)
class Geometry:
    """How far K vectors are from a simplex ETF: equal lengths and the same, widest possible angle between any two.

    Args:
        norms: lengths `(K,)`; NaN for a class without a vector.
        cosines: `(K, K)`, between any two.
        equinorm: standard deviation of the lengths over their mean; ideal 0.
        equiangle: standard deviation over pairs of their cosine; ideal 0.
        max_angle: mean over pairs of |cosine + 1 / (K - 1)|; ideal 0.
        closest: largest cosine of any two; ideal -1 / (K - 1).
        gram: Frobenius distance of the normalized Gram matrix from that of a simplex ETF; ideal 0.
    """

    norms: Float[Tensor, " k"]
    cosines: Float[Tensor, "k k"]
    equinorm: float
    equiangle: float
    max_angle: float
    closest: float
    gram: float


@dataclass(frozen=True)
class Collapse:
    """How near features and classifier are to neural collapse; every ideal value but that of `alignment` is 0.

    Args:
        counts: samples per class `(K,)`.
        class_means: `(K, d)`, NaN for a class without samples.
        nc1: trace(S_W pinv(S_B)) / K, the scatter within classes over that between them.
        cdnv: mean over pairs of classes of (v_i + v_j) / (2 |mu_i - mu_j|^2), v_k the variance within a class.
        means: geometry of the class means about their mean (NC2).
        weights: geometry of the classifier's vectors (NC2), None without a classifier.
        nc3: |W / |W| - M / |M||^2 in Frobenius norms, M the centered class means; in [0, 4].
        alignment: mean cosine of a class's vector and its centered mean; ideal 1.
        nc4: share of samples for which classifier and nearest class mean disagree, with Wilson's interval.
        minority: mean cosine of the classifier's vectors of the rarest third of the classes; 1 where they collapsed,
            -1 / (K - 1) at best. NaN with fewer than six classes or equal counts.
        minority_means: the same of the centered class means.
        stderr: standard errors over samples by name, such as `nc1` and `means.equinorm`; empty where none were made.
        layer: whose output the features are.
        evaluations: model evaluations spent.
        notes: what the reader must be told.
    """

    counts: Int[Tensor, " k"]
    class_means: Float[Tensor, "k d"]
    nc1: float
    cdnv: float
    means: Geometry
    weights: Geometry | None
    nc3: float
    alignment: float
    nc4: Interval[float]
    minority: float
    minority_means: float
    stderr: Mapping[str, float] = field(default_factory=dict)
    layer: str = ""
    evaluations: int = 0
    notes: tuple[str, ...] = ()

    def numbers(self) -> dict[str, float]:
        """Return the measures by the names that `stderr` uses."""
        found = {"nc1": self.nc1, "cdnv": self.cdnv, "nc3": self.nc3, "alignment": self.alignment}
        for name in ("equinorm", "equiangle", "max_angle", "closest", "gram"):
            found[f"means.{name}"] = getattr(self.means, name)
        return {**found, "minority_means": self.minority_means}


def simplex_geometry(vectors: Tensor) -> Geometry:
    """How far are K vectors from a simplex ETF, which neural collapse tends to?

    Args:
        vectors: `(K, d)`, K of at least two; rows of NaN are left out of every number.

    Raises:
        ValueError: fewer than two vectors.

    Example:
        >>> corners = torch.eye(3) - 1 / 3
        >>> round(simplex_geometry(corners).max_angle, 12)
        0.0
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors must have shape (K, d), got {tuple(vectors.shape)}")
    every = double(vectors.detach())
    there = every.isfinite().all(1)
    kept = every[there]
    k = len(kept)
    if k < 2:
        raise ValueError(f"a geometry needs at least two vectors, got {k}")
    norms = torch.linalg.vector_norm(kept, dim=1)
    unit = kept / norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    cosines = (unit @ unit.T).clamp(-1, 1)
    pairs = cosines[upper(k, kept.device)]
    gram = kept @ kept.T
    ideal = (torch.eye(k, dtype=gram.dtype, device=gram.device) - 1 / k) / math.sqrt(k - 1)
    size = torch.linalg.matrix_norm(gram)
    return Geometry(
        norms=_spread(norms, there),
        cosines=_spread(_spread(cosines, there).T, there).T,
        equinorm=float(norms.std(correction=0) / norms.mean()),
        equiangle=float(pairs.std(correction=0)),
        max_angle=float((pairs + 1 / (k - 1)).abs().mean()),
        closest=float(pairs.max()),
        gram=float(torch.linalg.matrix_norm(gram / size - ideal)),
    )


@final
class NeuralCollapse:
    """Measures neural collapse on features that come in batches, at linear cost.

    The first pass, `update`, is enough for NC2, NC3 and the variability by pairs (CDNV). NC1 and NC4 need the final
    class means, hence a second pass over the same features, `second`; NC1 without it where `counts` are given.

    Args:
        classes: number of classes K, at least two.
        dim: width d of the features.
        weighting: "class" gives each class the same weight, "sample" each sample.
        counts: samples per class `(K,)` of the whole data, where they are known in advance: then one matrix of d x d is
            kept, and the first pass is enough for NC1.
        means: class means `(K, d)` of the training data, with which NC4 compares the features of other data.

    Raises:
        ValueError: fewer than two classes, or means or counts of another shape.

    Example:
        >>> h, y = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]]), torch.tensor([0, 0, 1, 1])
        >>> found = NeuralCollapse(2, 2)
        >>> found.update(h, y)
        >>> found.second(h, y)
        >>> round(found.compute().cdnv, 6)
        0.0025
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        *,
        weighting: Weighting = "class",
        counts: Tensor | None = None,
        means: Tensor | None = None,
    ) -> None:
        if classes < 2 or dim < 1:
            raise ValueError(f"classes must be at least 2 and dim at least 1, got {classes} and {dim}")
        if counts is not None and counts.shape != (classes,):
            raise ValueError(f"counts must have shape ({classes},), got {tuple(counts.shape)}")
        if means is not None and means.shape != (classes, dim):
            raise ValueError(f"means must have shape ({classes}, {dim}), got {tuple(means.shape)}")
        self.classes, self.dim, self.weighting = classes, dim, weighting
        self._expected, self._train_means = counts, means
        self._first: First | None = None
        self._second: Second | None = None

    def update(self, h: Tensor, y: Tensor) -> None:
        """Take in features `(b, d)` and their classes `(b,)`.

        Raises:
            DataError: shapes that do not fit, or labels outside of the classes.
            ModelError: NaN or infinite features.
            ValueError: the second pass has begun.
        """
        if self._second is not None:
            raise ValueError("the second pass has begun; start a new measurement for more samples")
        h, y = self._checked(h, y)
        if len(h) == 0:
            return
        if not bool(h.sum().isfinite()) and (bad := int((~h.isfinite()).any(1).sum())):
            raise ModelError(f"the features of {bad} of {len(h)} samples hold NaN or infinity; repair the weights")
        if self._first is None:
            self._first = First.start(double(h[:1024]).mean(0), self.classes, self._rates())
        for rows in chunks(h):
            self._first.add(h[rows], y[rows])

    def second(self, h: Tensor, y: Tensor, logits: Tensor | None = None) -> None:
        """Take in the same features again; with the classifier's `logits` `(b, K)` also for NC4.

        Raises:
            DataError: as in `update`.
            ValueError: there was no first pass, or it saw fewer than two classes.
        """
        if self._first is None:
            raise ValueError("the second pass needs the first: call update on all features before")
        h, y = self._checked(h, y)
        if logits is not None and logits.shape != (len(h), self.classes):
            raise DataError(f"logits must have shape ({len(h)}, {self.classes}), got {tuple(logits.shape)}")
        if self._second is None:
            self._second = Second.start(self._first, self.weighting, self._train_means)
        for rows in chunks(h):
            self._second.add(h[rows], y[rows], None if logits is None else logits[rows])

    def merge(self, other: NeuralCollapse) -> None:
        """Take in what another measurement saw, such as one of another part of the data.

        Two second passes merge if they began from the same, merged, first pass.

        Raises:
            ValueError: they measure something else, or only one of them has begun its second pass.
        """
        if (self.classes, self.dim, self.weighting) != (other.classes, other.dim, other.weighting):
            raise ValueError("only measurements of the same classes, width and weighting can be merged")
        if (self._second is None) != (other._second is None):
            raise ValueError(
                "one measurement has begun its second pass and the other has not; merge first passes first"
            )
        if self._second is not None and other._second is not None:
            assert self._first is not None  # as the second pass checks
            assert other._first is not None
            if not torch.equal(self._first.sums, other._first.sums.to(self._first.sums.device)):
                raise ValueError("the two second passes began from different class means; merge the first passes first")
            self._second.merge(other._second)
        elif self._first is None:
            self._first = None if other._first is None else other._first.copy()
        elif other._first is not None:
            self._first.merge(other._first)

    @property
    def counts(self) -> Tensor:
        """Samples per class seen so far, `(K,)`."""
        if self._first is None:
            return torch.zeros(self.classes, dtype=torch.int64)
        return self._first.counts.round().long().cpu()

    @property
    def means(self) -> Tensor:
        """Class means `(K, d)` in float64; NaN for a class without samples."""
        if self._first is None:
            return torch.full((self.classes, self.dim), math.nan, dtype=torch.float64)
        return self._first.means() + self._first.center

    def compute(self, weight: Tensor | None = None, *, frequencies: Tensor | None = None) -> Collapse:
        """Return the measures of what was seen.

        Args:
            weight: the classifier's vectors `(K, d)`, for NC2 and NC3.
            frequencies: training samples per class `(K,)`, which say what the rarest third is; those seen if not given.

        Raises:
            DataError: fewer than two classes have samples.
            ValueError: a shape does not fit, the second pass saw other samples, or `counts` were wrong.
        """
        first, second = self._first, self._second
        there = self.counts > 0
        k = int(there.sum())
        if first is None or k < 2:
            raise DataError(f"neural collapse compares classes; {k} of {self.classes} have samples")
        if weight is not None and weight.shape != (self.classes, self.dim):
            raise ValueError(f"weight must have shape ({self.classes}, {self.dim}), got {tuple(weight.shape)}")
        if frequencies is not None and frequencies.shape != (self.classes,):
            raise ValueError(f"frequencies must have shape ({self.classes},), got {tuple(frequencies.shape)}")
        if second is not None and not torch.equal(second.counts, first.counts):
            raise ValueError(
                f"the second pass saw {int(second.counts.sum())} samples and the first {int(first.counts.sum())}; "
                "give both the same"
            )
        centered = first.centered(self.weighting)
        means = simplex_geometry(centered)
        weights, nc3, alignment = None, math.nan, math.nan
        if weight is not None:
            vectors = double(weight.detach()).to(centered.device)
            weights = simplex_geometry(vectors)
            nc3, alignment = _duality(vectors, centered)
        frequencies = self.counts if frequencies is None else frequencies.cpu()
        return Collapse(
            counts=self.counts,
            class_means=self.means.cpu(),
            nc1=self._nc1(first, second),
            cdnv=first.cdnv(),
            means=means,
            weights=weights,
            nc3=nc3,
            alignment=alignment,
            nc4=Interval(math.nan, math.nan, math.nan) if second is None else second.nc4(),
            minority=math.nan if weights is None else _minority(weights.cosines, frequencies),
            minority_means=_minority(means.cosines, frequencies),
            notes=tuple(self._notes(k, second)),
        )

    def _nc1(self, first: First, second: Second | None) -> float:
        if second is not None:
            return second.nc1(first, self.weighting)
        if self._expected is None:
            return math.nan
        if not torch.equal(self._expected.cpu().long(), self.counts):
            raise ValueError("the samples seen are not those that `counts` promised; NC1 would be wrong")
        return first.dense_nc1(self.weighting)

    def _notes(self, k: int, second: Second | None) -> list[str]:
        notes, counts = [], self.counts
        if k < self.classes:
            notes.append(f"{self.classes - k} of {self.classes} classes have no samples and are left out.")
        if int((counts == 1).sum()):
            notes.append(f"{int((counts == 1).sum())} classes have one sample, which shows no scatter within them.")
        if k > self.dim + 1:
            notes.append(f"{k} classes have no simplex ETF in {self.dim} dimensions, so NC2 cannot reach 0.")
        if second is None:
            missing = "NC4 needs" if self._expected is not None else "NC1 and NC4 need"
            notes.append(f"{missing} a second pass over the features.")
        return notes

    def _rates(self) -> Tensor | None:
        """Return each class's weight per sample, where the counts are known in advance."""
        if self._expected is None:
            return None
        counts = self._expected.double()
        there = counts > 0
        if self.weighting == "sample":
            return torch.where(there, 1 / counts.sum(), 0)
        return torch.where(there, 1 / (counts.clamp_min(1) * there.sum()), 0)

    def _checked(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = h.detach()
        if h.ndim != 2 or h.shape[1] != self.dim or not h.is_floating_point():
            raise DataError(f"features must be floating point of shape (b, {self.dim}), got {h.dtype} {tuple(h.shape)}")
        if y.shape != (len(h),):
            raise DataError(f"labels must have shape ({len(h)},), one per feature, got {tuple(y.shape)}")
        if len(y) and (int(y.min()) < 0 or int(y.max()) >= self.classes):
            raise DataError(f"labels must lie in 0 to {self.classes - 1}, got {int(y.min())} to {int(y.max())}")
        # Not every device has float64.
        h = h.cpu() if h.device.type == "mps" else h  # gpu only
        return h, y.to(h.device).long()


def _duality(vectors: Tensor, centered: Tensor) -> tuple[float, float]:
    """Return NC3 and the mean cosine of the vectors and the centered means."""
    there = centered.isfinite().all(1)
    means, kept = centered[there], vectors[there]
    if not bool(there.all()):
        kept = kept - kept.mean(0)  # as the means of some classes are centered on these classes
    norms = torch.linalg.matrix_norm(kept), torch.linalg.matrix_norm(means)
    nc3 = float(torch.linalg.matrix_norm(kept / norms[0] - means / norms[1]).square())
    return nc3, float(torch.cosine_similarity(kept, means, dim=1).mean())


def _minority(cosines: Tensor, frequencies: Tensor) -> float:
    """Return the mean cosine over pairs of the rarest third; NaN without such a third or without a pair in it."""
    if bool((frequencies == frequencies[0]).all()):
        return math.nan
    rare = list(frequency_groups(frequencies.long()).tail)
    rare = [k for k in rare if bool(cosines[k, k].isfinite())]
    if len(rare) < 2:
        return math.nan
    return float(cosines[rare][:, rare][upper(len(rare), cosines.device)].mean())


def _spread(values: Tensor, there: Tensor) -> Tensor:
    """Return the rows of present classes among all, NaN for the others; on the CPU."""
    full = torch.full((len(there), *values.shape[1:]), math.nan, dtype=torch.float64)
    full[there.cpu()] = values.cpu()
    return full


# -- whole data ---------------------------------------------------------------------------------------------------


def collapse(
    h: Tensor,
    y: Tensor,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    logits: Tensor | None = None,
    classes: int | None = None,
    weighting: Weighting = "class",
    frequencies: Tensor | None = None,
    means: Tensor | None = None,
) -> Collapse:
    """How near are these features to neural collapse? With standard errors by a jackknife over samples.

    Args:
        h: features `(N, d)`.
        y: classes `(N,)`.
        weight, bias: the classifier's vectors `(K, d)` for NC2 and NC3, and its offsets `(K,)`, 0 if not given.
        logits: the classifier's `(N, K)` for NC4; those of `weight` and `bias` if not given.
        classes: number of classes K; that of `weight` or `logits`, else the largest label and one, if not given.
        weighting, means: as in `NeuralCollapse`.
        frequencies: as in `NeuralCollapse.compute`.

    Raises:
        DataError: features, labels or logits that do not fit, or fewer than two classes with samples.
        ModelError: NaN or infinite features.
        ValueError: another argument that does not fit.

    Example:
        >>> h, y = torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5)
        >>> found = collapse(h, y, weight=3 * torch.eye(4) - 0.75)
        >>> round(found.nc1, 9), round(found.nc3, 9), found.nc4.value
        (0.0, 0.0, 0.0)
    """
    if h.ndim != 2 or y.shape != (len(h),) or len(h) == 0:
        raise DataError(f"features and labels must be (N, d) and (N,), got {tuple(h.shape)} and {tuple(y.shape)}")
    if classes is None:
        known = next((len(part) for part in (weight, None if logits is None else logits.T) if part is not None), 0)
        classes = known or int(y.max()) + 1

    if logits is None and weight is not None and weight.shape[1:] == h.shape[1:]:
        logits = h.detach() @ weight.detach().to(h).T + (0 if bias is None else bias.detach().to(h))

    def measured(rows: Tensor | None) -> Collapse:
        parts = [part if part is None or rows is None else part[rows] for part in (h, y, logits)]
        found = NeuralCollapse(classes, h.shape[1], weighting=weighting, means=means)
        found.update(parts[0], parts[1])  # type: ignore[arg-type]
        found.second(*parts)  # type: ignore[arg-type]
        return found.compute(weight, frequencies=frequencies)

    whole = measured(None)
    counts = whole.counts[whole.counts > 0]
    if int(counts.min()) < 2 or len(h) < 2 * _GROUPS:
        return replace(whole, notes=(*whole.notes, "There are too few samples for standard errors."))
    if whole.class_means.numel() > _MOST:
        return replace(whole, notes=(*whole.notes, "There are too many classes for standard errors."))
    group = torch.empty(len(h), dtype=torch.int64, device=y.device)
    group[y.argsort(stable=True)] = torch.arange(len(h), device=y.device) % _GROUPS  # class by class: evenly
    left = [measured((group != g).nonzero()[:, 0]).numbers() for g in range(_GROUPS)]
    return replace(whole, stderr={name: _jackknife([part[name] for part in left]) for name in left[0]})


def neural_collapse(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    layer: str = PENULTIMATE,
    weighting: Weighting = "class",
    frequencies: Tensor | None = None,
    means: Tensor | None = None,
    batch_size: int = 256,
    on_step: OnStep = silent,
) -> Collapse:
    """How near is a classifier to neural collapse on these data?

    One forward per sample; the features are kept, `(N, d)` on the CPU. For more than fits into memory use
    `core.FeatureReader` and `NeuralCollapse`.

    Args:
        model: a classifier; it is run in eval mode on its own device and given back as it was.
        x: inputs `(N, ...)`. NC is defined on training data; on other data give the training's class means.
        y: their classes `(N,)`.
        layer: "penultimate" for the input of the last linear classifier, or a layer's name; maps and tokens are
            averaged over their places, and there is then no classifier to compare with.
        weighting, means: as in `NeuralCollapse`.
        frequencies: as in `NeuralCollapse.compute`.
        batch_size: samples per forward.
        on_step: progress in samples.

    Raises:
        ValueError: the model has no such layer.
        ModelError: no linear classifier, NaN or infinite features, or an answer that is no tensor of logits.
        DataError: labels that do not fit, or fewer than two classes with samples.
    """
    if y.shape != (len(x),):
        raise DataError(f"labels must have shape ({len(x)},), one per sample, got {tuple(y.shape)}")
    read = FeatureReader(model, layer, reduce="mean", example=x[:8])
    parts, answers = [], []
    for _, seen in read.batches(x, batch_size=batch_size, on_step=on_step):
        if not isinstance(seen.output, Tensor) or seen.output.ndim != 2:
            raise ModelError("the model gives no tensor of logits (N, K); core.Subject reads other answers")
        parts.append(seen.features[layer].cpu())
        answers.append(seen.output.cpu())
    head = read.classifier
    found = collapse(
        torch.cat(parts),
        y.cpu(),
        logits=torch.cat(answers),
        weight=None if head is None else head.weight.cpu(),
        weighting=weighting,
        frequencies=frequencies,
        means=means,
    )
    return replace(found, layer=layer if head is None else f"input of {head.layer}", evaluations=len(x))


def _jackknife(values: list[float]) -> float:
    """Delete-one-group standard error."""
    mean = sum(values) / len(values)
    return math.sqrt((len(values) - 1) / len(values) * sum((v - mean) ** 2 for v in values))
