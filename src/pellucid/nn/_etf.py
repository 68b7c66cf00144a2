"""A last layer whose geometry is set in advance: the vertices of a simplex, one per class (arXiv:2203.09081).

`d` width of the features, `K` classes, `m_k` the prototype of class k, `h` a sample's features, `s` their length.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Inexact
from torch import Tensor, nn

from pellucid.core import Stream, nearest

TEMPERATURE = 16.0
"""Factor of the cosines where none was fitted: with 10 classes the largest probability is then 0.9999998, not 0.25."""

_SHORTEST = 1e-8  # features shorter than this are not made longer: the gradient stays finite


def simplex_etf(
    n_classes: int,
    dim: int,
    *,
    rng: Stream,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, "d k"]:
    """Which directions keep all classes equally far apart? The vertices of a regular simplex, in a random pose.

    M = sqrt(K / (K - 1)) P V' with orthonormal columns in P (d x K-1, uniform among all) and V (K x K-1, orthogonal to
    the vector of ones). Columns have length 1, each two of them the cosine -1 / (K - 1), and they add up to 0. It is
    computed in float64 and cast at the end.

    Args:
        n_classes: K, at least 2.
        dim: d, at least K - 1.
        rng: draws the pose; the same stream gives the same matrix.
        dtype, device: of the result.

    Raises:
        ValueError: there are fewer than two classes, or K - 1 is more than d.

    Example:
        >>> m = simplex_etf(4, 3, rng=Stream(0), dtype=torch.float64)
        >>> bool(torch.allclose(m.T @ m, (4 * torch.eye(4, dtype=torch.float64) - 1) / 3))
        True
    """
    check_simplex(n_classes, dim)
    rows = rng.child("simplex").normal((dim, n_classes - 1), dtype=torch.float64)
    pose, upper = torch.linalg.qr(rows)
    # Householder's signs depend on the columns; with a positive diagonal the pose is uniform (Mezzadri 2007).
    signs = upper.diagonal().sign()
    vertices = math.sqrt(n_classes / (n_classes - 1)) * (pose * signs) @ _centered(n_classes).T
    placed: Tensor = vertices.to(device=device, dtype=dtype)
    return placed


def check_simplex(n_classes: int, dim: int) -> None:
    """Refuse sizes for which there is no simplex.

    Raises:
        ValueError: there are fewer than two classes, or K - 1 is more than d.
    """
    if n_classes < 2:
        raise ValueError(f"a simplex needs at least 2 classes, got {n_classes}")
    if dim < n_classes - 1:
        raise ValueError(
            f"{n_classes} classes cannot be equally far apart in {dim} dimensions, {n_classes - 1} are needed; "
            f"make the features wider, or put nn.Linear({dim}, {n_classes - 1}) before the head"
        )


def _centered(n_classes: int) -> Tensor:
    """Return an orthonormal basis `(K, K - 1)` of the vectors whose entries add up to 0 (Helmert's)."""
    basis = torch.zeros(n_classes, n_classes - 1, dtype=torch.float64)
    for k in range(1, n_classes):
        basis[:k, k - 1], basis[k, k - 1] = 1.0, -float(k)
        basis[:, k - 1] /= math.sqrt(k * (k + 1))
    return basis


class ETFHead(nn.Module):
    """A classifier with nothing to learn: fixed prototypes at the corners of a simplex.

    Features pass batch normalization, are brought to length s and compared with the prototypes: the logit of class k is
    `temperature * m_k . h`. Prototypes and temperature are buffers and lie in the checkpoint; neither gets a gradient.
    Lengths and products are computed in float32 at least, also under autocast.

    Args:
        in_features: width d of the features, at least K - 1.
        n_classes: K.
        feature_norm: length s of the features.
        batch_norm: whether to normalize over the batch first. Features after a ReLU lie in one orthant and cannot reach
            the prototypes without it.
        normalize: whether to bring features to length s at all.
        temperature: factor of the products; `training.fit_temperature` fits it. It changes probabilities, not answers.
        rng: draws the pose of the prototypes; torch's global random state does if not given, as in other layers.

    Raises:
        ValueError: K - 1 is more than d, or a number is not positive.

    Example:
        >>> head = ETFHead(64, 10, rng=Stream(0))
        >>> tuple(head(torch.rand(4, 64)).shape), sorted(name for name, _ in head.named_buffers(recurse=False))
        ((4, 10), ['prototypes', 'temperature'])
    """

    prototypes: Tensor
    temperature: Tensor

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        *,
        feature_norm: float = 1.0,
        batch_norm: bool = True,
        normalize: bool = True,
        temperature: float = TEMPERATURE,
        rng: Stream | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("feature_norm", feature_norm), ("temperature", temperature)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number, got {value}")
        if rng is None:
            rng = Stream(int(torch.randint(2**62, ())))
        self.in_features, self.n_classes = in_features, n_classes
        self.feature_norm, self.normalize = float(feature_norm), normalize
        self.register_buffer("prototypes", simplex_etf(n_classes, in_features, rng=rng))
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.norm: nn.Module = nn.BatchNorm1d(in_features) if batch_norm else nn.Identity()
        self._watch = not batch_norm  # whether features of one sign are still to be warned about
        self._exposed = False

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"in_features={self.in_features}, n_classes={self.n_classes}, feature_norm={self.feature_norm:g}"

    def features(self, x: Inexact[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return h, what is compared with the prototypes, in float32 at least.

        Raises:
            ValueError: `x` is not `(B, d)`.
        """
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise ValueError(
                f"the head takes features (B, {self.in_features}), got {tuple(x.shape)}; pool or flatten them first"
            )
        if self._watch:
            self._warn(x)
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            if isinstance(self.norm, nn.BatchNorm1d) and self.norm.weight.dtype != wide.dtype:
                wide = wide.to(self.norm.weight.dtype)
            h: Tensor = self.norm(wide)
            h = h if h.dtype == torch.float64 else h.float()
            if self.normalize:
                h = h * (self.feature_norm / h.norm(dim=1, keepdim=True).clamp_min(_SHORTEST))
            return h

    def forward(self, x: Inexact[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Return the logits; inside `exposed`, the features h `(B, d)` in their place."""
        h = self.features(x)
        if self._exposed:
            return h
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = h @ self.prototypes.to(h.dtype) * self.temperature.to(h.dtype)
        return logits

    @contextmanager
    def exposed(self) -> Iterator[None]:
        """Answer with the features h inside the block, for a loss that needs one product per sample and not all K."""
        before, self._exposed = self._exposed, True
        try:
            yield
        finally:
            self._exposed = before

    def _warn(self, x: Tensor) -> None:
        self._watch = False
        if bool((x >= 0).all()):
            warnings.warn(
                "the features are all >= 0, as after a ReLU, and half of the prototypes' directions cannot be reached; "
                "give the head batch_norm=True",
                UserWarning,
                stacklevel=4,
            )


def etf_head(model: nn.Module) -> ETFHead | None:
    """Return the simplex ETF head of a network, None where it has none.

    Example:
        >>> etf_head(nn.Linear(2, 2)) is None
        True
    """
    return next((module for module in model.modules() if isinstance(module, ETFHead)), None)


def with_etf_head(
    model: nn.Module,
    *,
    layer: str = "",
    feature_norm: float = 1.0,
    batch_norm: bool = True,
    temperature: float = TEMPERATURE,
    rng: Stream | None = None,
) -> nn.Module:
    """Return a copy of a network with its last linear layer replaced by a simplex ETF head; all else is kept.

    Args:
        model: any network whose classifier is an `nn.Linear`.
        layer: the classifier's name in `model.named_modules()`; if not given, the linear layer that was defined last.
        feature_norm, batch_norm, temperature, rng: as in `ETFHead`.

    Raises:
        ValueError: there is no such linear layer, or its input is too narrow.

    Example:
        >>> net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> with_etf_head(net, rng=Stream(0))[2].prototypes.shape
        torch.Size([8, 3])
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not linear:
        raise ValueError("the model has no nn.Linear to replace; put an ETFHead behind it by hand")
    if layer and layer not in linear:
        hint = nearest(layer, linear) or f"the linear layers are {', '.join(name or 'the model' for name in linear)}"
        raise ValueError(f"the model has no linear layer {layer!r}; {hint.removesuffix(' ')}")
    name = layer or list(linear)[-1]
    old = linear[name]
    head = ETFHead(
        old.in_features,
        old.out_features,
        feature_norm=feature_norm,
        batch_norm=batch_norm,
        temperature=temperature,
        rng=rng,
    )
    head = head.to(device=old.weight.device, dtype=old.weight.dtype).train(old.training)
    if not name:
        return head
    changed = copy.deepcopy(model)
    parent, _, last = name.rpartition(".")
    setattr(changed.get_submodule(parent), last, head)
    return changed
