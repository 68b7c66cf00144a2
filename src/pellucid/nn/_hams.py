"""Three ways to write features as a product of few atoms and their codes: X (d, n) ~ D C^T.

X features, a column per position; D (d, r) atoms; C (n, r) codes. Leading axes are batches. Each has a `step`, which
improves atoms and codes, and an `answer`, the codes that go with the atoms at the end.

With atoms and earlier codes as constants every `answer` keeps only them for the backward pass: it is written so that
autograd's own gradient is the closed form of the one-step gradient.

Source: Geng et al. 2021 (arXiv:2109.04553) and its authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Features:
    """What is decomposed.

    Args:
        x: (b, d, n).
        keep: 0 where a position is padding, else 1; (b, n, 1).
        lengths: of each position's features, (b, n, 1), or 1 where they are not asked for. They are found once, since
            the sum runs across memory. Infinite for a position of zeros: it has no direction, so its cosines are 0 and
            have no gradient (divided by a small number instead, it would be huge).
    """

    x: Tensor
    keep: Tensor | None
    lengths: Tensor

    @classmethod
    def of(cls, x: Tensor, keep: Tensor | None = None, *, measured: bool = True) -> Features:
        """Return features with their lengths, if they are to be `measured`."""
        if not measured:
            return cls(x, keep, x.new_ones(()))
        lengths = torch.linalg.vector_norm(x, dim=-2)[..., None]
        return cls(x, keep, lengths.masked_fill(lengths == 0, torch.inf))


@dataclass(frozen=True)
class NMF:
    """Multiplicative updates of Lee and Seung for nonnegative features: the squared error never increases."""

    inv_temperature: float = 1.0
    eps: float = 1e-6
    nonnegative: ClassVar[bool] = True

    def step(self, of: Features, atoms: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Update the codes, then the atoms."""
        codes = self._updated(codes, of.x.mT @ atoms, codes @ (atoms.mT @ atoms))
        atoms = self._updated(atoms, of.x @ codes, atoms @ (codes.mT @ codes))
        return atoms, codes

    def answer(self, of: Features, atoms: Tensor, codes: Tensor) -> Tensor:
        """Update the codes once more. The weights of the products are formed first: they hold no features, so with
        constant atoms and codes the answer is linear in x."""
        weights = codes / (codes @ (atoms.mT @ atoms) + self.eps)
        return (of.x.mT @ atoms) * weights

    def _updated(self, factor: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return factor * numerator / (denominator + self.eps)
        return numerator.mul_(factor).div_(denominator.add_(self.eps))  # both are fresh: no more memory is needed


@dataclass(frozen=True)
class VQ:
    """Soft k-means by cosine: an atom is the weighted mean of the features that are closest to it."""

    inv_temperature: float = 100.0
    eps: float = 1e-6
    nonnegative: ClassVar[bool] = False

    def step(self, of: Features, atoms: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Assign each position to atoms; then each atom becomes the mean of what is assigned to it."""
        return _means(self, of, F.normalize(atoms, dim=-2, eps=self.eps)), codes

    def answer(self, of: Features, atoms: Tensor, codes: Tensor) -> Tensor:
        """Assign each position to atoms; the lengths of the features count as constants."""
        # The lengths divide the products, not x: what is kept for the backward pass has no row of d numbers then.
        cosines = (of.x.mT @ F.normalize(atoms, dim=-2, eps=self.eps)) / (of.lengths.detach() + self.eps)
        return _kept(F.softmax(self.inv_temperature * cosines, dim=-1), of.keep)


@dataclass(frozen=True)
class CD:
    """Concept decomposition: spherical k-means finds the atoms, ridge regression on them gives the codes."""

    inv_temperature: float = 100.0
    eps: float = 1e-6
    beta: float = 0.1
    nonnegative: ClassVar[bool] = False

    def step(self, of: Features, atoms: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Assign each position to atoms; then each atom becomes the direction of the mean of what is assigned to it."""
        return F.normalize(_means(self, of, atoms), dim=-2, eps=self.eps), codes

    def answer(self, of: Features, atoms: Tensor, codes: Tensor) -> Tensor:
        """Return X^T D (D^T D + beta)^-1: with constant atoms the layer is a fixed symmetric map of x."""
        gram = atoms.mT @ atoms
        gram = gram + self.beta * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        # Not `cholesky`: it waits for the device to say whether all went well, and beta > 0 sees to that.
        lower, _ = torch.linalg.cholesky_ex(gram)
        return of.x.mT @ torch.cholesky_solve(atoms.mT, lower).mT


Ham = NMF | VQ | CD
"""One way to decompose."""


def start_codes(ham: Ham, of: Features, atoms: Tensor) -> Tensor:
    """Return the codes before the first step: a softmax over atoms of the inner products."""
    if not isinstance(ham, NMF):
        return of.x.new_zeros(())  # their steps begin with codes of their own
    return _kept(F.softmax(ham.inv_temperature * (of.x.mT @ atoms), dim=-1), of.keep)


def _means(ham: VQ | CD, of: Features, atoms: Tensor) -> Tensor:
    """Return for each atom the mean of the positions, weighted by a softmax of their cosines to all atoms."""
    # Lengths and totals divide the small products: x itself is neither copied nor scaled.
    cosines = (of.x.mT @ atoms) / of.lengths.clamp_min(1e-12)
    shares = _kept(F.softmax(ham.inv_temperature * cosines, dim=-1), of.keep)
    return (of.x @ shares) / (shares.sum(-2)[..., None, :] + ham.eps)


def _kept(codes: Tensor, keep: Tensor | None) -> Tensor:
    return codes if keep is None else codes * keep
