"""Features as a product of few atoms and their codes: a layer that mixes all positions at linear cost."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import Stream

from ._backwards import OneStep, Phantom
from ._hams import CD, NMF, VQ, Features, Ham, start_codes
from ._state import full_precision

KINDS = ("nmf", "vq", "cd")
AXES = ("spatial", "channel")
INITS = ("fixed", "random", "learned", "ema")

Watch = Callable[[Features, Tensor, Tensor], None]

BETA = 1e-4  # the least ridge
RATE = 0.9  # of the moving atoms of init="ema", as in the authors' code


@dataclass(frozen=True)
class Unrolled:
    """The gradient through every step of a matrix decomposition, and through its start; memory grows with the steps."""


@dataclass(frozen=True)
class Factors:
    """What a layer decomposes features into: X ~ D C^T for each sample and head.

    Args:
        atoms: D; in "spatial" mode d are the channels of a head, in "channel" mode the positions.
        codes: C; in "spatial" mode n are the positions, in "channel" mode the channels of a head.
        residual: |X - D C^T| / |X| of what the layer would give after 0, 1, ... steps.
        shape: of the positions, such as (height, width).
        axis: which mode.
    """

    atoms: Float[Tensor, "b s d r"]
    codes: Float[Tensor, "b s n r"]
    residual: Float[Tensor, "b s steps"]
    shape: tuple[int, ...]
    axis: str = "spatial"

    @property
    def maps(self) -> Tensor:
        """How much each atom is used at each position: (b, s, r, *shape)."""
        maps = (self.codes if self.axis == "spatial" else self.atoms).mT
        return maps.reshape(*maps.shape[:3], *self.shape)

    @property
    def usage(self) -> Float[Tensor, "b s r"]:
        """Each atom's share of the answer: of the squared norms of the rank-one parts d_j c_j^T."""
        size = self.atoms.square().sum(-2) * self.codes.square().sum(-2)
        return size / size.sum(-1, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)

    @property
    def effective_rank(self) -> Float[Tensor, "b s"]:
        """How many directions the answer D C^T really has: exp of the entropy of its singular values' shares; 0 for 0.

        Source: Roy and Vetterli 2007.
        """
        # D = Q R and C = P S give D C^T = Q (R S^T) P^T: the singular values are those of a small matrix.
        small = torch.linalg.qr(self.atoms).R @ torch.linalg.qr(self.codes).R.mT
        values = torch.linalg.svdvals(small)
        shares = values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        rank: Tensor = torch.special.entr(shares).sum(-1).exp() * (values.amax(-1) > 0)
        return rank


class MatrixDecomposition(nn.Module):
    """Which few atoms explain these features, and where is each? The layer answers with what they explain: D C^T.

    A few steps of a decomposition of each sample's features, X (d channels, n positions) ~ D C^T with `rank` atoms;
    there are no weights. Each position's answer depends on all positions, at a cost linear in their number. The kinds:

    - "nmf": nonnegative factors by multiplicative updates, for nonnegative features (`relu` makes them so);
    - "vq": soft k-means by cosine; a position's answer is a mean of atoms;
    - "cd": concept decomposition; spherical k-means, then ridge regression on its atoms.

    The layout follows the number of axes: (B, N, C) is a sequence, (B, C, H, W) an image, (B, C, D, H, W) a volume. The
    arithmetic is done in float32 at least, outside of autocast, and the answer has the input's dtype.

    The gradient is an object, as for `Equilibrium`. `OneStep()`, the default, takes atoms and earlier codes as
    constants and keeps no more memory for more steps: for "nmf" the layer is then linear, D[(X^T D) * W]^T with
    constant weights W, and for "cd" a symmetric map; both are their own adjoint. `Phantom(steps=k, damping=...)`
    differentiates the last k steps and damps them, `Unrolled()` all.

    In eval mode the answer is always the same, and does not depend on the rest of the batch, unless `init` is "random".

    Args:
        channels: of the input.
        rank: atoms r of each head.
        kind: "nmf", "vq" or "cd".
        steps: of the decomposition.
        eval_steps: in eval mode; as many as in training, if not given.
        heads: groups of channels, each decomposed alone.
        axis: "spatial" describes each position by atoms of channels; "channel" each channel by atoms of positions.
        init: the atoms before the first step. "fixed": new random ones for each sample in training, always the same
            ones in eval mode; "random": new ones always; "learned": a parameter, which gets a gradient from `Unrolled`
            alone; "ema": the mean atoms of earlier training batches.
        backward: `OneStep()`, `Phantom(...)` or `Unrolled()`.
        inv_temperature: sharpness of the softmax over atoms; 1 for "nmf" and 100 for the others, if not given.
        beta: ridge of "cd", at least 1e-4: with less, float32 cannot solve for the codes of atoms that coincide.
        eps: added to divisors.
        relu: set negative features to zero first; without it they are an error for "nmf", and looking for them makes a
            GPU wait once per call.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> layer = MatrixDecomposition(32, rank=4, kind="cd").eval()
        >>> x = torch.randn(2, 32, 14, 14)
        >>> tuple(layer(x).shape)
        (2, 32, 14, 14)
        >>> factors = layer.decompose(x)
        >>> tuple(factors.maps.shape)  # sample, head, atom, height, width
        (2, 1, 4, 14, 14)

    Source: Geng et al. 2021 (arXiv:2109.04553); the authors' code where the paper says less.
    """

    start: Tensor | None
    """The atoms before the first step, (heads, channels of a head, rank), where they are kept."""

    def __init__(
        self,
        channels: int,
        rank: int = 64,
        *,
        kind: str = "nmf",
        steps: int = 6,
        eval_steps: int | None = None,
        heads: int = 1,
        axis: str = "spatial",
        init: str = "fixed",
        backward: OneStep | Phantom | Unrolled | None = None,
        inv_temperature: float | None = None,
        beta: float = 0.1,
        eps: float = 1e-6,
        relu: bool = False,
    ) -> None:
        super().__init__()
        backward = backward or OneStep()
        _check(channels, rank, heads, steps, eval_steps)
        _check_names(kind, axis, init, backward)
        self.channels, self.rank, self.heads = channels, rank, heads
        self.kind, self.axis, self.init, self.relu = kind, axis, init, relu
        self.steps, self.eval_steps = steps, eval_steps
        self.backward = backward
        sharp = (1.0 if kind == "nmf" else 100.0) if inv_temperature is None else inv_temperature
        _check_numbers(sharp, beta, eps)
        hams: dict[str, Ham] = {"nmf": NMF(sharp, eps), "vq": VQ(sharp, eps), "cd": CD(sharp, eps, beta)}
        self._ham = hams[kind]
        start = self._seeded(channels // heads) if axis == "spatial" and init != "random" else None
        if init == "learned" and start is not None:
            self.start = nn.Parameter(start)
        else:
            self.register_buffer("start", start)

    def forward(
        self, x: Float[Tensor, "b _ *rest"], padding_mask: Bool[Tensor, "b *positions"] | None = None
    ) -> Float[Tensor, "b _ *rest"]:
        """Return D C^T, in the layout and dtype of `x`.

        Args:
            x: (B, N, C), (B, C, H, W) or (B, C, D, H, W).
            padding_mask: True where a position is padding, (B, N) or (B, H, W) and so on, as `key_padding_mask` of
                torch's attention: such positions count for nothing, and the answer is 0 there.

        Raises:
            ValueError: a shape that does not fit, or negative features for "nmf".
        """
        flat, keep = self._flat(x, padding_mask)
        with full_precision(x.device):
            matrix, keep = self._matrix(flat, keep)
            atoms, codes = self._factors(matrix, self._start(matrix, len(x)), keep)
            if self.training and self.init == "ema":
                self._move(atoms.detach())
            answer = atoms @ codes.mT
        answer = answer.mT if self.axis == "channel" else answer
        return unflatten(answer.reshape(flat.shape).to(x.dtype), x)

    @torch.no_grad()
    def decompose(self, x: Float[Tensor, "b _ *rest"], padding_mask: Tensor | None = None) -> Factors:
        """Return the factors behind the answer that eval mode gives, with the residual step by step.

        Args:
            x: the layer's input.
            padding_mask: as in `forward`.

        Raises:
            ValueError: as `forward`.
        """
        flat, keep = self._flat(x, padding_mask)
        residual: list[Tensor] = []
        with full_precision(x.device):
            matrix, keep = self._matrix(flat, keep)
            size = matrix.flatten(1).norm(dim=1).clamp_min(torch.finfo(matrix.dtype).tiny)

            def watch(of: Features, atoms: Tensor, codes: Tensor) -> None:
                codes = self._ham.answer(of, atoms, codes)
                residual.append((matrix - atoms @ codes.mT).flatten(1).norm(dim=1) / size)

            start = self._start(matrix, len(x), training=False)
            atoms, codes = self._factors(matrix, start, keep, training=False, watch=watch)
        b, s = len(x), self.heads
        shape = tuple(x.shape[2:] if x.ndim > 3 else x.shape[1:2])
        atoms, codes = (factor.reshape(b, s, *factor.shape[1:]) for factor in (atoms, codes))
        return Factors(atoms, codes, torch.stack(residual, 1).reshape(b, s, -1), shape, self.axis)

    def extra_repr(self) -> str:
        """Return the settings."""
        settings = f"{self.channels}, rank={self.rank}, kind={self.kind!r}, steps={self.steps}, init={self.init!r}"
        if self.heads > 1:
            settings += f", heads={self.heads}"
        if self.axis != "spatial":
            settings += f", axis={self.axis!r}"
        return f"{settings}, backward={self.backward}"

    def _flat(self, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        flat = flatten(x, self.channels)
        if padding_mask is not None and self.axis == "channel":
            raise ValueError('a padding mask needs axis="spatial": atoms of positions cannot leave positions out')
        return flat, kept(padding_mask, x)

    def _matrix(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the features as (b * heads, d, n) in full precision, and `keep` as (b * heads, n, 1)."""
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        if self.relu:
            x = F.relu(x)
        if keep is not None:
            keep = keep.to(x.dtype)
            x = x.masked_fill(keep[:, None] == 0, 0)  # whatever is there, NaN included
            keep = keep.repeat_interleave(self.heads, 0)[..., None]
        if self._ham.nonnegative and not self.relu and not torch.compiler.is_compiling() and bool((x < 0).any()):
            raise ValueError(
                f"nmf needs features that are nowhere negative, got {float(x.min()):.3g}; put a ReLU before it, or "
                "use relu=True"
            )
        matrix = x.reshape(len(x) * self.heads, self.channels // self.heads, x.shape[2])
        if self.axis == "channel":
            matrix = matrix.mT
        if min(matrix.shape[1:]) < self.rank and not torch.compiler.is_compiling():
            least = min(matrix.shape[1:])
            warnings.warn(f"rank {self.rank} atoms for features of rank {least} at most: {least} do", stacklevel=3)
        return matrix, keep

    def _factors(
        self,
        x: Tensor,
        atoms: Tensor,
        keep: Tensor | None,
        *,
        training: bool | None = None,
        watch: Watch | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return atoms and codes after all steps; `watch` sees them before the first step and after each."""
        training = self.training if training is None else training
        steps = self.steps if training or self.eval_steps is None else self.eval_steps
        damped = min(self.backward.steps, steps) if isinstance(self.backward, Phantom) else 0
        damping = self.backward.damping if isinstance(self.backward, Phantom) else 1.0
        taped = steps if isinstance(self.backward, Unrolled) else damped
        whole = isinstance(self.backward, Unrolled) or (isinstance(self.backward, Phantom) and taped == steps)
        grad = torch.is_grad_enabled()
        with torch.set_grad_enabled(grad and taped > 0):
            of = Features.of(x, keep, measured=self.kind != "nmf")
        # Constants for forward-mode derivatives too, which no_grad leaves on.
        still = Features(x.detach(), keep, of.lengths.detach())
        with torch.set_grad_enabled(grad and whole):
            atoms = atoms if whole else atoms.detach()
            codes = start_codes(self._ham, of if whole else still, atoms)
        for done in range(steps):
            if watch is not None:
                watch(of, atoms, codes)
            constant = done < steps - taped
            with torch.set_grad_enabled(grad and not constant):
                found = self._ham.step(still if constant else of, atoms, codes)
                if damping < 1 and done >= steps - damped:
                    found = torch.lerp(atoms, found[0], damping), torch.lerp(codes, found[1], damping)
                atoms, codes = found
        if watch is not None:
            watch(of, atoms, codes)
        return atoms, self._ham.answer(of, atoms, codes)

    def _start(self, x: Tensor, b: int, *, training: bool | None = None) -> Tensor:
        """Return the atoms before the first step: (b * heads, d, rank)."""
        training = self.training if training is None else training
        if self.init == "random" or (self.init == "fixed" and training):
            draw = torch.rand if self._ham.nonnegative else torch.randn
            return F.normalize(draw(len(x), x.shape[1], self.rank, dtype=x.dtype, device=x.device), dim=1)
        start = (self._seeded(x.shape[1]) if self.start is None else self.start).to(x)
        if self.init == "ema" and training:
            start = start.clone()  # autograd may keep it, and it moves before the backward pass
        if self.init == "learned":
            start = F.normalize(start.abs() if self._ham.nonnegative else start, dim=1)
        return start.expand(b, *start.shape).flatten(0, 1)

    def _seeded(self, d: int) -> Tensor:
        """Return start atoms that are the same on every machine and in every process."""
        rng = Stream(0).child("matrix decomposition", self.kind)
        draw = rng.uniform if self._ham.nonnegative else rng.normal
        return F.normalize(draw((self.heads, d, self.rank)), dim=1)

    @torch.no_grad()
    def _move(self, atoms: Tensor) -> None:
        assert self.start is not None
        if len(atoms) == 0:
            return
        mean = atoms.reshape(-1, *self.start.shape).mean(0)
        self.start.copy_(F.normalize(torch.lerp(self.start.to(mean), mean, RATE), dim=1))


def flatten(x: Tensor, channels: int) -> Tensor:
    """Return features of any layout as (b, channels, positions).

    Raises:
        ValueError: the channels are not where the layout has them.
    """
    if x.ndim < 3:
        raise ValueError(f"x must be (B, N, C), (B, C, H, W) or (B, C, D, H, W), got {tuple(x.shape)}")
    found = x.shape[2] if x.ndim == 3 else x.shape[1]
    if found != channels:
        where = "last, as in a sequence (B, N, C)" if x.ndim == 3 else "second, as in (B, C, H, W)"
        raise ValueError(f"x must have {channels} channels, {where}; got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must hold floating-point numbers, got {x.dtype}")
    return x.mT if x.ndim == 3 else x.flatten(2)


def unflatten(flat: Tensor, x: Tensor) -> Tensor:
    """Return (b, channels, positions) in the layout of `x`."""
    return flat.mT if x.ndim == 3 else flat.reshape(*flat.shape[:2], *x.shape[2:])


def kept(padding_mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Return 0 where a position is padding, else 1, as (b, positions).

    Raises:
        ValueError: a mask of another shape or dtype.
    """
    if padding_mask is None:
        return None
    wanted = x.shape[:2] if x.ndim == 3 else (len(x), *x.shape[2:])
    if padding_mask.dtype != torch.bool or padding_mask.shape != torch.Size(wanted):
        raise ValueError(
            f"padding_mask must be bool of shape {tuple(wanted)}, True at padding; got {padding_mask.dtype} of shape "
            f"{tuple(padding_mask.shape)}"
        )
    return (~padding_mask).flatten(1).to(x.dtype)


def _check(channels: int, rank: int, heads: int, steps: int, eval_steps: int | None) -> None:
    for name, value in {"channels": channels, "rank": rank, "heads": heads}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if channels % heads:
        raise ValueError(f"heads must divide the {channels} channels, got {heads}")
    for name, count in {"steps": steps, "eval_steps": eval_steps}.items():
        if count is not None and count < 0:
            raise ValueError(f"{name} must be at least 0, got {count}")


def _check_numbers(inv_temperature: float, beta: float, eps: float) -> None:
    for name, value in {"inv_temperature": inv_temperature, "eps": eps}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not BETA <= beta < math.inf:
        raise ValueError(f"beta must be at least {BETA} and finite, got {beta}")


def _check_names(kind: object, axis: object, init: object, backward: object) -> None:
    for name, value, known in (
        ("kind", kind, KINDS),
        ("axis", axis, AXES),
        ("init", init, INITS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if axis == "channel" and init in ("learned", "ema"):
        raise ValueError(
            f'init={init!r} needs axis="spatial": atoms of positions would fit one size of input alone; use "fixed"'
        )
    if not isinstance(backward, OneStep | Phantom | Unrolled):
        raise ValueError(f"backward must be OneStep(), Phantom(...) or Unrolled(), got {backward!r}")
