"""A picture of a network's features: the direction says which class, the length how sure (arXiv:2111.03505).

Features f are projected to g = M f / s, with s their root mean square norm, so that the posterior of a law whose
concentration grows with the length, q(c|g) = pi_c exp(kappa(l) o . mu_c) / sum, l = |g|, o = g / l, is as near as can
be to what the network answers, p = softmax(logits / T). No class label enters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pellucid.core import DataError, ModelError, OnStep, Stream, silent

from ._vmf import vmf_kappa

CROWDED = 20
"""More classes than this cannot be told apart by directions in three dimensions."""
_TINY = 1e-12
_INITIAL = 0.1  # scale of the first projection
_OFFICIAL = 500  # samples for which the official learning rate is meant


def vmf_posterior(
    g: Float[Tensor, "*n d"],
    directions: Float[Tensor, "c d"],
    prior: Float[Tensor, " c"] | None = None,
    *,
    sigma: float = 1.0,
) -> Float[Tensor, "*n c"]:
    """Which class does a projected vector point to? q(c|g) = pi_c exp(kappa(l) o . mu_c) / sum; the prior at g = 0.

    Args:
        g: vectors of any length.
        directions: a unit direction for each class.
        prior: pi, uniform if not given.
        sigma: noise scale of kappa.

    Example:
        >>> axes = torch.eye(3, dtype=torch.float64)
        >>> [round(p, 5) for p in vmf_posterior(axes[0], axes).tolist()]
        [0.73542, 0.13229, 0.13229]
    """
    length = g.norm(dim=-1)
    pull = vmf_kappa(length, dim=g.shape[-1], sigma=sigma) / length.clamp(min=_TINY)
    scores = pull[..., None] * (g @ directions.T)
    if prior is not None:
        scores = scores + prior.log()
    return torch.softmax(scores, -1)


def soft_labels(logits: Float[Tensor, "n c"], temperature: float = 4.0) -> Float[Tensor, "n c"]:
    """Return softmax(logits / T), after refusing what are no logits.

    Raises:
        DataError: fewer than two classes, probabilities in place of logits, NaN or infinity.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise DataError(f"logits must be (samples, classes) with at least two classes, got shape {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ModelError("the logits hold NaN or infinity; repair the weights or the input scaling")
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        raise DataError(
            "the rows of logits sum to 1: these are probabilities, and a temperature needs logits; pass their logarithm"
        )
    return (logits / temperature).softmax(1)


@final
@dataclass(eq=False)
class SampleEmbedding:
    """A linear projection of features in which direction is class and length is certainty.

    Fitted by full-batch gradient descent with momentum 0.9 and weight decay 5e-4 on the mean of KL(p_i || q(.|g_i));
    class directions are mu_c = normalized sum_i p_ic kappa_i o_i at each step.

    Args:
        dim: of the projection; three can be looked at, more are better for counting many classes.
        temperature: T of p = softmax(logits / T).
        sigma: noise scale: lengths are in its unit.
        steps: of the fit.
        lr: learning rate for a sum over 500 samples; it is scaled so that the number of samples does not matter.
        exact: differentiate kappa(l) and o(g) too. By default both keep their value and o = g / l its length, so that
            lengthening a vector counts as moving it along its class, as the authors do.

    Attributes:
        projection_: `(dim, D)`, what g = projection f.
        class_directions_: `(C, dim)` unit vectors.
        prior_: `(C,)`, the mean of p.
        embedding_: `(N, dim)` of the fitted samples.
        losses_: mean KL at each step; `gradient_norm_` at the end.
        note_: what the reader must be told; empty if nothing.

    Example:
        >>> f = torch.eye(4).repeat(5, 1)
        >>> fitted = SampleEmbedding(steps=300).fit(f, 8 * f, rng=Stream(0))
        >>> bool((fitted.posterior(fitted.transform(f)).argmax(1) == f.argmax(1)).all())
        True
    """

    dim: int = 3
    temperature: float = field(default=4.0, kw_only=True)
    sigma: float = field(default=1.0, kw_only=True)
    steps: int = field(default=2000, kw_only=True)
    lr: float = field(default=1e-3, kw_only=True)
    exact: bool = field(default=False, kw_only=True)

    projection_: Tensor = field(init=False, repr=False)
    class_directions_: Tensor = field(init=False, repr=False)
    prior_: Tensor = field(init=False, repr=False)
    embedding_: Tensor = field(init=False, repr=False)
    losses_: Tensor = field(init=False, repr=False)
    gradient_norm_: float = field(init=False, repr=False)
    note_: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.sigma > 0 and self.lr > 0):
            raise ValueError("temperature, sigma and lr must be above 0")
        if self.dim < 2 or self.steps < 1:
            raise ValueError(f"dim must be at least 2 and steps at least 1, got {self.dim} and {self.steps}")

    def fit(
        self,
        features: Float[Tensor, "n d"],
        logits: Float[Tensor, "n c"],
        *,
        rng: Stream,
        start: SampleEmbedding | None = None,
        on_step: OnStep = silent,
    ) -> SampleEmbedding:
        """Fit the projection to what the network says of its samples, and return self.

        Args:
            features: of one late layer, flattened.
            logits: the network's answers, not probabilities.
            rng: where the first projection comes from.
            start: a fitted embedding of the same features' layer to go on from, such as an earlier checkpoint's.
            on_step: progress in steps.

        Raises:
            DataError: lengths differ, probabilities in place of logits, a class that no sample has any part in.
            ModelError: NaN or infinite features, or all of them zero.
        """
        p = soft_labels(logits.detach().float(), self.temperature)
        f, scale = scaled(features, len(p))
        self.prior_ = p.mean(0)
        if bool((self.prior_ < _TINY).any()):
            lost = (self.prior_ < _TINY).nonzero()[:, 0].tolist()
            raise DataError(
                f"no sample has any part in class {lost[0]}, so it has no direction; leave it out of logits"
            )
        if start is None:
            m = _INITIAL * rng.child("projection").normal((self.dim, f.shape[1]), device=f.device)
        else:
            m = start.projection_.to(f) * scale
        m = m.requires_grad_()
        optimizer = torch.optim.SGD([m], lr=self.lr * _OFFICIAL, momentum=0.9, weight_decay=5e-4 / len(p))
        losses = torch.empty(self.steps)
        target = float((p * p.log()).sum() / len(p))  # KL = sum p log p - sum p log q
        for step in range(self.steps):
            with torch.enable_grad():
                loss = target - (p * self._log_q(f @ m.T, p)).sum() / len(p)
                (m.grad,) = torch.autograd.grad(loss, m)
            losses[step] = loss.detach()
            optimizer.step()
            if step % 100 == 0:
                on_step(step, self.steps)
        on_step(self.steps, self.steps)
        if not math.isfinite(float(losses[-1])):
            raise ModelError("the fit of the embedding diverged; lower lr")
        assert m.grad is not None  # there is at least one step
        self.losses_, self.gradient_norm_ = losses, float(m.grad.norm())
        self.projection_ = m.detach() / scale
        self.embedding_ = f @ m.detach().T
        self.class_directions_ = self._directions(self.embedding_, p)
        self.note_ = _note(p, self.dim)
        return self

    def transform(self, features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        """Return g `(..., dim)` of features `(..., D)`."""
        if features.shape[-1] != self.projection_.shape[1]:
            raise DataError(
                f"features have {features.shape[-1]} columns, the embedding was fitted to {self.projection_.shape[1]}"
            )
        return features.to(self.projection_) @ self.projection_.T

    def posterior(self, g: Float[Tensor, "*n e"], *, uniform: bool = False) -> Float[Tensor, "*n c"]:
        """Return q(c|g); `uniform` takes equal priors in place of those of the fit."""
        return vmf_posterior(g, self.class_directions_, None if uniform else self.prior_, sigma=self.sigma)

    def align_to(
        self,
        other: SampleEmbedding,
        features: Float[Tensor, "n d"],
        other_features: Float[Tensor, "n k"] | None = None,
        *,
        allow_reflection: bool = False,
    ) -> SampleEmbedding:
        """Turn this embedding so that its samples lie as near to the other's as a rotation can bring them; return self.

        First by all vectors, then once more by unit vectors without the tenth of the samples that match worst.

        Args:
            other: the embedding to look like, of the same dimension.
            features: this embedding's features of some samples.
            other_features: the other's features of the same samples; the same ones if not given.
            allow_reflection: also allow a mirror image.
        """
        new = self.transform(features)
        old = other.transform(features if other_features is None else other_features)
        if new.shape != old.shape:
            raise DataError(f"the embeddings give {tuple(new.shape)} and {tuple(old.shape)}; align equal ones")
        turn_to(self, new, old, allow_reflection=allow_reflection)
        return self

    def _directions(self, g: Tensor, p: Tensor) -> Tensor:
        length = g.norm(dim=1, keepdim=True).clamp(min=_TINY)
        k = vmf_kappa(length[:, 0], dim=self.dim, sigma=self.sigma)
        return F.normalize(p.T @ (g * (k[:, None] / length)), dim=1, eps=_TINY)

    def _log_q(self, g: Tensor, p: Tensor) -> Tensor:
        length = g.norm(dim=1).clamp(min=_TINY)
        if not self.exact:
            length = length.detach()
        pull = vmf_kappa(length, dim=self.dim, sigma=self.sigma) / length
        pulled = g * pull[:, None]  # kappa o
        mu = F.normalize(p.T @ pulled, dim=1, eps=_TINY)
        return torch.log_softmax(pulled @ mu.T + self.prior_.log(), 1)


def scaled(features: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return features divided by their root mean square norm, and that norm, after checking them."""
    if features.ndim != 2 or len(features) != n:
        raise DataError(f"features must be ({n}, D), one row per row of logits, got shape {tuple(features.shape)}")
    f = features.detach().float()
    if not bool(f.isfinite().all()):
        raise ModelError("the features hold NaN or infinity; repair the weights or the input scaling")
    scale = f.square().sum(1).mean().sqrt()
    if not float(scale) > 0:
        raise ModelError("all features are zero; choose another layer")
    return f / scale, scale


def turn_to(embedding: SampleEmbedding, new: Tensor, old: Tensor, *, allow_reflection: bool = False) -> None:
    """Turn an embedding in place so that its points `new` lie near the points `old`; see `SampleEmbedding.align_to`."""
    turn = rotation(new, old, allow_reflection=allow_reflection)
    a, b = F.normalize(new.double() @ turn, dim=1), F.normalize(old.to(new).double(), dim=1)
    kept = (a * b).sum(1).argsort(descending=True, stable=True)[: max(embedding.dim, math.ceil(0.9 * len(a)))]
    turn = turn @ rotation(a[kept], b[kept], allow_reflection=allow_reflection)
    embedding.projection_ = (turn.T @ embedding.projection_.double()).to(embedding.projection_)
    embedding.class_directions_ = (embedding.class_directions_.double() @ turn).to(embedding.class_directions_)
    embedding.embedding_ = (embedding.embedding_.double() @ turn).to(embedding.embedding_)


def rotation(new: Tensor, old: Tensor, *, allow_reflection: bool = False) -> Tensor:
    """Return the turn R, float64, for which new R is nearest to old (Kabsch): by default without a reflection."""
    u, _, vh = torch.linalg.svd(new.double().T @ old.double())
    signs = torch.ones(u.shape[0], dtype=u.dtype, device=u.device)
    if not allow_reflection:
        signs[-1] = torch.linalg.det(u @ vh).sign()
    return torch.matmul(u * signs, vh)


def certainty(g: Float[Tensor, "n d"], p: Float[Tensor, "n c"]) -> float:
    """Pearson correlation between the lengths of vectors and the entropy of the answers: -1 means long is certain."""
    length = g.norm(dim=1).double()
    entropy = -(p.double() * p.double().clamp(min=1e-300).log()).sum(1)
    both = torch.stack((length, entropy))
    spread = both.std(1)
    return float(torch.corrcoef(both)[0, 1]) if bool((spread > 1e-12).all()) else math.nan


def principal(features: Float[Tensor, "n d"], dim: int = 3) -> Float[Tensor, "n e"]:
    """Return the first principal components of features, the picture to compare with."""
    centered = features.double() - features.double().mean(0)
    _, _, vh = torch.linalg.svd(centered, full_matrices=False)
    return torch.matmul(centered, vh[:dim].T)


def _note(p: Tensor, dim: int) -> str:
    classes = p.shape[1]
    likely = torch.bincount(p.argmax(1), minlength=classes)
    notes = []
    if classes > CROWDED and dim <= 3:
        notes.append(f"{classes} classes do not fit into {dim} dimensions: take dim = 8 or more for counting.")
    few = int((likely < 2).sum())
    if few:
        notes.append(
            f"{few} of {classes} classes are the answer to fewer than two samples; their directions are unsure."
        )
    return " ".join(notes)
