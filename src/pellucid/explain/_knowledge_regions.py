"""Which regions and channels make an image like and unlike others, and where each region points (arXiv:2111.03505).

Regions r of a feature map are vectors f_i^(r) over its channels. A region of sample i meets sample j at the region s of
j that is most like it; how alike they are tells which samples belong together, as the network's own answers do, P(j|i)
proportional to exp(5 cos(p_i, p_j)). All samples are computed at once, and everything is kept in logarithms: a
product of powers exp(1000 x)^w has no place in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import DataError, ModelError, OnStep, Stream, silent

from ._knowledge_samples import SampleEmbedding, soft_labels
from ._vmf import vmf_kappa

_TINY = 1e-12
_CHUNK = 2**23
"""Numbers of a table of matches that are computed at once: 32 MB."""
_MOST_OTHERS = 500
"""Samples that region embeddings are compared with at most: the table of matches grows with them."""
_INITIAL = 0.1  # scale of the first projection


@final
@dataclass(eq=False)
class RegionImportance:
    """How much do the regions and channels of each sample say about which samples it belongs with?

    For each sample i on its own, weights w_i of regions and v_i of channels, both >= 0 with sum 1, lower KL(P(.|i) ||
    Q(.|i)), where Q(j|i) is proportional to prod_r q_r(j|i)^w_ir and q_r(j|i) to exp(kappa_m max_s sum_k v_ik u_i^(r)_k
    u_j^(s)_k) over unit regions u. Fresh samples j at each step. Weights are softmaxes of numbers that Adam moves: the
    authors' step, plain momentum with |w| / sum |w| after it, leaves the simplex and raises this KL divergence.

    Args:
        steps: of the descent.
        lr: how far a step moves the logarithm of a weight.
        neighbors: samples j at each step.
        kappa_p: concentration of P.
        kappa_m: concentration of q_r. Channel weights have a sum of 1, so kappa_m / K is what acts.
        per_channel: take kappa_m K / 512 instead, the same for layers of any number of channels K.

    Attributes:
        region_weights_: `(N, H, W)`.
        channel_weights_: `(N, K)`.
        losses_: mean KL at each step.

    Example:
        >>> maps = torch.zeros(6, 3, 1, 2)
        >>> maps[:3, 0, 0, 0], maps[3:, 1, 0, 0], maps[:, 2, 0, 1] = 1, 1, 1  # the right region is always the same
        >>> logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]]).repeat_interleave(3, 0)
        >>> fitted = RegionImportance(kappa_m=12.0).fit(maps, logits, rng=Stream(0))
        >>> bool((fitted.region_weights_[:, 0, 0] > fitted.region_weights_[:, 0, 1]).all())
        True
    """

    steps: int = field(default=20, kw_only=True)
    lr: float = field(default=0.2, kw_only=True)
    neighbors: int = field(default=100, kw_only=True)
    kappa_p: float = field(default=5.0, kw_only=True)
    kappa_m: float = field(default=1000.0, kw_only=True)
    per_channel: bool = field(default=False, kw_only=True)

    region_weights_: Tensor = field(init=False, repr=False)
    channel_weights_: Tensor = field(init=False, repr=False)
    losses_: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.neighbors < 1:
            raise ValueError(f"steps and neighbors must be at least 1, got {self.steps} and {self.neighbors}")
        if not (self.lr > 0 and self.kappa_p > 0 and self.kappa_m > 0):
            raise ValueError("lr, kappa_p and kappa_m must be above 0")

    def fit(
        self,
        feature_maps: Float[Tensor, "n k h w"],
        logits: Float[Tensor, "n c"],
        *,
        rng: Stream,
        temperature: float = 4.0,
        on_step: OnStep = silent,
    ) -> RegionImportance:
        """Fit the weights of each sample, and return self.

        Args:
            feature_maps: of one layer.
            logits: the network's answers, not probabilities.
            rng: where the samples j come from.
            temperature: of p = softmax(logits / T).
            on_step: progress in steps.
        """
        p = soft_labels(logits.detach().float(), temperature)
        u = F.normalize(regions_of(feature_maps, len(p)), dim=2, eps=_TINY)  # zero regions stay zero: like nothing
        n, r, k = u.shape
        kappa = self.kappa_m * (k / 512 if self.per_channel else 1)
        moves = (_Adam(u.new_zeros(n, r), self.lr), _Adam(u.new_zeros(n, k), self.lr))
        losses = torch.empty(self.steps)
        for step in range(self.steps):
            w, v = (move.at.softmax(1) for move in moves)
            others = _drawn(n, self.neighbors, rng.child("neighbors", step), u.device)
            log_p = log_target(p, others, self.kappa_p)
            slope_w, slope_v, kl = torch.empty_like(w), torch.empty_like(v), u.new_empty(n)
            for rows in _chunks(n, r * r * len(others)):
                slope_w[rows], slope_v[rows], kl[rows] = _slopes(
                    u[rows], u[others], w[rows], v[rows], log_p[rows], kappa
                )
            losses[step] = kl.mean()
            for move, weights, slope in zip(moves, (w, v), (slope_w, slope_v), strict=True):
                move.step(weights * (slope - (slope * weights).sum(1, keepdim=True)))
            on_step(step + 1, self.steps)
        w, v = (move.at.softmax(1) for move in moves)
        self.region_weights_ = w.reshape(n, *feature_maps.shape[2:])
        self.channel_weights_, self.losses_ = v, losses
        return self


@final
@dataclass(eq=False)
class RegionEmbedding:
    """A linear projection of regions to where samples lie: which class does each region point to, and how surely?

    h = Lambda f / s lowers KL(P || Q_h) - lam sum_r w_r cos(h^(r), g), with Q_h as in `RegionImportance` but
    q_r(j|i) proportional to exp(kappa(|h_i^(r)|) cos(h_i^(r), h_j^(r'))), and the matches r' and weights w found there.
    Matches are on unit regions, Lambda on raw ones: their length must carry strength.

    Args:
        epochs: passes over the samples, in batches of 20.
        lr: learning rate per sample.
        neighbors: samples j at each step.
        align: lam, how much regions shall point where their sample points.
        kappa_p: concentration of P.
        exact: differentiate lengths too; see `SampleEmbedding`.

    Attributes:
        projection_: `(dim, K)`.
        length_: mean length of h over the fitted regions; lengths are told in its unit.
        losses_: mean KL of each epoch.

    Example:
        >>> maps = torch.eye(3).repeat(4, 1)[..., None, None].expand(12, 3, 2, 2)
        >>> logits = 9 * torch.eye(3).repeat(4, 1)
        >>> g = SampleEmbedding(steps=200).fit(maps[..., 0, 0], logits, rng=Stream(0))
        >>> weights = RegionImportance(steps=5).fit(maps, logits, rng=Stream(1))
        >>> h = RegionEmbedding().fit(maps, logits, g, weights, rng=Stream(2))
        >>> h.transform(maps).shape
        torch.Size([12, 2, 2, 3])
    """

    epochs: int = field(default=20, kw_only=True)
    lr: float = field(default=0.01, kw_only=True)
    neighbors: int = field(default=100, kw_only=True)
    align: float = field(default=0.1, kw_only=True)
    kappa_p: float = field(default=5.0, kw_only=True)
    exact: bool = field(default=False, kw_only=True)

    projection_: Tensor = field(init=False, repr=False)
    length_: float = field(init=False, repr=False)
    losses_: Tensor = field(init=False, repr=False)
    samples_: SampleEmbedding = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.neighbors < 1:
            raise ValueError(f"epochs and neighbors must be at least 1, got {self.epochs} and {self.neighbors}")
        if not (self.lr > 0 and self.kappa_p > 0 and self.align >= 0):
            raise ValueError("lr and kappa_p must be above 0, and align at least 0")

    def fit(
        self,
        feature_maps: Float[Tensor, "n k h w"],
        logits: Float[Tensor, "n c"],
        samples: SampleEmbedding,
        importance: RegionImportance,
        *,
        rng: Stream,
        start: RegionEmbedding | None = None,
        on_step: OnStep = silent,
    ) -> RegionEmbedding:
        """Fit the projection of one layer's regions, and return self.

        Args:
            feature_maps: of one layer.
            logits: the network's answers, not probabilities.
            samples: fitted to the same samples.
            importance: fitted to the same feature maps.
            rng: where the first projection, the order of samples and the samples j come from.
            start: an embedding of the same layer to go on from.
            on_step: progress in epochs.
        """
        p = soft_labels(logits.detach().float(), samples.temperature)
        raw = regions_of(feature_maps, len(p))
        n, _, k = raw.shape
        if importance.region_weights_.shape != (n, *feature_maps.shape[2:]) or len(samples.embedding_) != n:
            raise DataError("samples and importance must be fitted to the same samples and the same feature maps")
        w = importance.region_weights_.flatten(1).to(raw)
        pool = _drawn(n, _MOST_OTHERS, rng.child("pool"), raw.device)
        where = matches(raw, pool, importance.channel_weights_.to(raw))
        scale = raw.square().sum(2).mean().sqrt()
        f, g = raw / scale, F.normalize(samples.embedding_.to(raw), dim=1)
        log_p = log_target(p, pool, self.kappa_p, normalized=False)
        if start is None:
            m = _INITIAL * rng.child("projection").normal((samples.dim, k), device=f.device)
        else:
            m = start.projection_.to(f) * scale
        m = m.requires_grad_()
        batch = min(20, n)
        optimizer = torch.optim.SGD([m], lr=self.lr * batch, momentum=0.9, weight_decay=5e-4 / batch)
        losses = torch.zeros(self.epochs)
        for epoch in range(self.epochs):
            order = rng.child("order", epoch).permutations(n, 1, device=f.device)[0]
            for step, rows in enumerate(torch.split(order, batch)):
                some = _drawn(len(pool), self.neighbors, rng.child("neighbors", epoch, step), f.device)
                target = log_p[rows][:, some].log_softmax(1)
                with torch.enable_grad():
                    h, met = f[rows] @ m.T, f[pool[some]] @ m.T
                    kl, near = self._terms(h, met, where[rows][:, :, some].long(), w[rows], target, g[rows], samples)
                    (m.grad,) = torch.autograd.grad(kl - self.align * near, m)
                losses[epoch] += float(kl.detach()) * len(rows) / n
                optimizer.step()
            on_step(epoch + 1, self.epochs)
        if not bool(losses.isfinite().all()):
            raise ModelError("the fit of the regions diverged; lower lr")
        self.projection_, self.losses_, self.samples_ = m.detach() / scale, losses, samples
        self.length_ = float((raw @ self.projection_.T).norm(dim=2).mean())
        return self

    def transform(self, feature_maps: Float[Tensor, "n k h w"]) -> Float[Tensor, "n h w e"]:
        """Return h `(N, H, W, dim)` of each region, in units of the mean length."""
        if feature_maps.ndim != 4 or feature_maps.shape[1] != self.projection_.shape[1]:
            raise DataError(
                f"feature maps must be (N, {self.projection_.shape[1]}, H, W), got shape {tuple(feature_maps.shape)}"
            )
        h = feature_maps.detach().to(self.projection_).permute(0, 2, 3, 1) @ self.projection_.T
        return h / max(self.length_, _TINY)

    def posterior(self, h: Float[Tensor, "*n e"]) -> Float[Tensor, "*n c"]:
        """Return p(c|h) with equal priors."""
        return self.samples_.posterior(h, uniform=True)

    def points(
        self, feature_maps: Float[Tensor, "n k h w"], labels: Int[Tensor, " n"], *, tau: float | None = None
    ) -> RegionPoints:
        """Which regions carry a discriminative pattern? See `region_points`."""
        return region_points(self, self.transform(feature_maps), labels, tau=tau)

    def _terms(
        self, h: Tensor, met: Tensor, where: Tensor, w: Tensor, target: Tensor, g: Tensor, samples: SampleEmbedding
    ) -> tuple[Tensor, Tensor]:
        """Return KL(P || Q_h) and sum_r w_r cos(h, g), means over the batch."""
        lengths = [part.norm(dim=2, keepdim=True).clamp(min=_TINY) for part in (h, met)]
        if not self.exact:
            lengths = [length.detach() for length in lengths]
        o, o_met = h / lengths[0], met / lengths[1]
        chosen = o_met[torch.arange(len(met), device=h.device), where]  # (b, R, J, dim)
        kappa = vmf_kappa(lengths[0][..., 0], dim=samples.dim, sigma=samples.sigma)
        known = target.isfinite()
        log_q = log_shares(kappa[..., None] * (chosen @ o[..., None])[..., 0], known)
        log_joint = (w[..., None] * log_q).sum(1).masked_fill(~known, -math.inf).log_softmax(1)
        kl = (target.exp() * (target - log_joint).masked_fill(~known, 0.0)).sum(1).mean()
        return kl, (w * (o * g[:, None]).sum(2)).sum(1).mean()


@dataclass(frozen=True)
class RegionPoints:
    """The knowledge points of one layer: regions that point to some class clearly.

    Args:
        vectors: h `(N, H, W, dim)` in units of the layer's mean length.
        strength: `(N, H, W)`, the largest p(c|h).
        label: `(N, H, W)`, the class it is reached by.
        mask: `(N, H, W)`, which regions are knowledge points: strength above tau.
        reliable: `(N, H, W)`, knowledge points whose class is the true one.
        tau: the threshold.
    """

    vectors: Float[Tensor, "n h w e"]
    strength: Float[Tensor, "n h w"]
    label: Int[Tensor, "n h w"]
    mask: Bool[Tensor, "n h w"]
    reliable: Bool[Tensor, "n h w"]
    tau: float

    @property
    def counts(self) -> Int[Tensor, " n"]:
        """Knowledge points of each sample."""
        return self.mask.flatten(1).sum(1)

    @property
    def reliable_counts(self) -> Int[Tensor, " n"]:
        """Reliable ones of each sample."""
        return self.reliable.flatten(1).sum(1)

    @property
    def count(self) -> float:
        """Mean number of knowledge points of a sample."""
        return float(self.counts.double().mean())

    @property
    def ratio(self) -> float:
        """Share of knowledge points that are reliable; NaN without any."""
        total = int(self.counts.sum())
        return float(self.reliable_counts.sum()) / total if total else math.nan


def knowledge_threshold(classes: int, *, odds: float = 6.0) -> float:
    """Return tau, above which p(c|h) makes a knowledge point: p / (1 - p) (C - 1) = odds, 0.4 for ten classes.

    Example:
        >>> knowledge_threshold(10), round(knowledge_threshold(2), 3)
        (0.4, 0.857)
    """
    if classes < 2 or not odds > 0:
        raise ValueError(f"there must be two classes and odds above 0, got {classes} and {odds}")
    return odds / (classes - 1 + odds)


def region_points(
    embedding: RegionEmbedding,
    vectors: Float[Tensor, "n h w e"],
    labels: Int[Tensor, " n"],
    *,
    tau: float | None = None,
) -> RegionPoints:
    """Which regions carry a discriminative pattern, and which of them for the true class?

    A knowledge point is a region with max_c p(c|h) > tau, equal priors; it is reliable where the class is the true one.
    A region whose features are all zero is none.

    Args:
        embedding: of the layer.
        vectors: what its `transform` gives.
        labels: true classes.
        tau: the threshold, 0 to 1; `knowledge_threshold` of the number of classes if not given.
    """
    if len(labels) != len(vectors):
        raise DataError(f"there are {len(vectors)} samples but {len(labels)} labels")
    q = embedding.posterior(vectors)
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= q.shape[-1]):
        raise DataError(f"labels must be from 0 to {q.shape[-1] - 1}, got {int(labels.min())} to {int(labels.max())}")
    tau = knowledge_threshold(q.shape[-1]) if tau is None else tau
    if not 0 <= tau <= 1:
        raise ValueError(f"tau must be from 0 to 1, got {tau}")
    strength, label = q.max(-1)
    mask = (strength > tau) & (vectors.norm(dim=-1) > _TINY)
    return RegionPoints(vectors, strength, label, mask, mask & (label == labels.to(label)[:, None, None]), tau)


def regions_of(maps: Tensor, n: int) -> Float[Tensor, "n r k"]:
    """Return feature maps `(N, K, H, W)` as regions `(N, H W, K)`, after checking them."""
    if maps.ndim != 4 or len(maps) != n:
        raise DataError(
            f"feature maps must be ({n}, K, H, W), one row per row of logits, got shape {tuple(maps.shape)}"
        )
    if n < 2:
        raise DataError("regions are compared between samples; give at least two")
    found = maps.detach().float().flatten(2).transpose(1, 2).contiguous()
    if not bool(found.isfinite().all()):
        raise ModelError("the feature maps hold NaN or infinity; repair the weights or the input scaling")
    if not bool(found.any()):
        raise ModelError("all feature maps are zero; choose another layer")
    return found


def log_target(p: Tensor, others: Tensor, kappa: float, *, normalized: bool = True) -> Tensor:
    """Return log P(j|i) `(N, J)` over the samples `others`; a sample is no neighbor of itself: minus infinity."""
    unit = F.normalize(p, dim=1)
    scores = kappa * (unit @ unit[others].T)
    itself = torch.arange(len(p), device=p.device)[:, None] == others[None, :]
    scores = scores.masked_fill(itself, -math.inf)
    return scores.log_softmax(1) if normalized else scores


def log_shares(scores: Tensor, known: Tensor) -> Tensor:
    """Return log q_r(j|i) `(b, R, J)` of scores, 0 where j is not known."""
    hidden = ~known[:, None]
    return scores.masked_fill(hidden, -math.inf).log_softmax(2).masked_fill(hidden, 0.0)


def match(u: Tensor, others: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return how alike each region `(b, R, K)` is to the region of each other `(J, R, K)` most like it, and which.

    Both `(b, R, J)`, the latter as a number from 0 to R - 1.
    """
    b, r, k = u.shape
    alike = (u * v[:, None]).reshape(b * r, k) @ others.reshape(-1, k).T
    best, where = alike.reshape(b, r, len(others), r).max(3)
    return best, where


def matches(raw: Tensor, pool: Tensor, v: Tensor) -> Tensor:
    """Return, as int16 `(N, R, J)`, the region of each sample of `pool` that is most like each region."""
    u = F.normalize(raw, dim=2, eps=_TINY)
    n, r, _ = u.shape
    found = torch.empty(n, r, len(pool), dtype=torch.int16, device=u.device)
    for rows in _chunks(n, r * r * len(pool)):
        found[rows] = match(u[rows], u[pool], v[rows])[1].to(torch.int16)
    return found


def _slopes(
    u: Tensor, others: Tensor, w: Tensor, v: Tensor, log_p: Tensor, kappa: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dKL/dw `(b, R)`, dKL/dv `(b, K)` and KL `(b,)`; where a region meets another is held fixed."""
    b, r, k = u.shape
    best, where = match(u, others, v)
    known = log_p.isfinite()
    log_q = log_shares(kappa * best, known)
    log_joint = (w[:, :, None] * log_q).sum(1).masked_fill(~known, -math.inf).log_softmax(1)
    p = log_p.exp()
    kl = (p * (log_p - log_joint).masked_fill(~known, 0.0)).sum(1)
    e = log_joint.exp() - p  # dKL / d sum_r w_r log q_r; its sum over j is 0, so that log_softmax passes it on as it is
    j = len(others)
    rows = (where + r * torch.arange(j, device=u.device)).reshape(b * r, j)
    shares = e[:, None].expand(b, r, j).reshape(b * r, j)
    met = F.embedding_bag(rows, others.reshape(-1, k), per_sample_weights=shares.contiguous(), mode="sum")
    slope_v = kappa * (w[:, :, None] * u * met.reshape(b, r, k)).sum(1)
    return (log_q * e[:, None]).sum(2), slope_v, kl


def _drawn(n: int, count: int, rng: Stream, device: torch.device) -> Tensor:
    """Return `count` of n samples, or all of them."""
    return rng.permutations(n, 1, device=device)[0][:count]


def _chunks(n: int, each: int) -> list[slice]:
    size = max(1, _CHUNK // each)
    return [slice(start, start + size) for start in range(0, n, size)]


class _Adam:
    """Adam for one tensor whose slope is worked out by hand."""

    def __init__(self, at: Tensor, lr: float) -> None:
        self.at, self.lr, self.steps = at, lr, 0
        self.mean, self.square = torch.zeros_like(at), torch.zeros_like(at)

    def step(self, slope: Tensor) -> None:
        self.steps += 1
        self.mean.mul_(0.9).add_(slope, alpha=0.1)
        self.square.mul_(0.99).addcmul_(slope, slope, value=0.01)
        mean, square = self.mean / (1 - 0.9**self.steps), self.square / (1 - 0.99**self.steps)
        self.at = self.at - self.lr * mean / (square.sqrt() + 1e-6)  # below it a slope is rounding
