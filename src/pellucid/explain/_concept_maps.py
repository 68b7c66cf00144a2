"""What did a matrix-decomposition layer extract? Where each of its atoms is, and how much of the answer it carries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import DataError, ModelError, OnStep, device_of, evaluating, nearest, silent
from pellucid.nn import Factors, MatrixDecomposition

Heard = Callable[[str, Tensor, Tensor | None], None]
"""Is given a layer's name, its input and its padding mask."""

DEAD = 0.05
"""Share of an even share below which an atom counts as unused."""

CARRIED = 0.99
"""Share of the answer that the atoms that are needed carry together."""


@dataclass(frozen=True)
class ConceptMaps:
    """What one matrix-decomposition layer made of some inputs: a few atoms, and a map of each.

    Atoms are numbered through all heads, a = heads * rank. They are found anew for each input from the same start, so
    that a number means the same on two inputs as far as `steadiness` says.

    Args:
        layer: its name in the model; a layer that is called more than once has one entry per call.
        kind: "nmf", "vq" or "cd".
        heads, rank: a = heads * rank atoms.
        steps: of the decomposition in eval mode.
        steady: whether every evaluation starts at the same atoms; with `init="random"` it does not, and the maps are
            those of one draw.
        maps: how strongly each atom is used at each place: its code times the atom's length, in the unit of the
            features. The places are (h, w) of an image, (1, n) of a sequence, (d, h, w) of a volume.
        directions: each atom as a unit vector, zero where an atom vanished.
        residual: |X - D C^T| / |X| of each head after 0, 1, ... steps.
        effective_rank: directions that the answer of each head really has: exp of the entropy of its singular values.
        usage: share of the answer that each atom carries, of the squared norms of the parts d_j c_j^T; rows sum to 1.
        left_out: tokens before the first place, such as a class token.
    """

    layer: str
    kind: str
    heads: int
    rank: int
    steps: int
    steady: bool
    maps: Float[Tensor, "n a *shape"]
    directions: Float[Tensor, "n a d"]
    residual: Float[Tensor, "n s t"]
    effective_rank: Float[Tensor, "n s"]
    usage: Float[Tensor, "n a"]
    left_out: int = 0

    @property
    def atoms(self) -> int:
        """Number of atoms, those of all heads."""
        return self.maps.shape[1]

    @property
    def unused(self) -> Bool[Tensor, " a"]:
        """Atoms that carry on no input more than a twentieth of an even share."""
        return self.usage.amax(0) < DEAD / self.atoms

    @property
    def needed(self) -> Int[Tensor, " n"]:
        """How many atoms carry 99 % of the answer on each input."""
        carried = self.usage.sort(dim=1, descending=True).values.cumsum(1)
        return (carried < CARRIED - 1e-6).sum(1).add(1).clamp_max(self.atoms)

    @property
    def steadiness(self) -> Float[Tensor, " a"]:
        """On which share of the inputs is an atom closest to the atom of the same number on the other inputs?

        Close is by cosine, to the mean direction of each atom of the same head on the other inputs; chance is 1 / rank.
        NaN with a single input.
        """
        n = len(self.maps)
        if n < 2:
            return torch.full((self.atoms,), torch.nan)
        each = self.directions.reshape(n, self.heads, self.rank, -1)
        total = each.sum(0)
        same = torch.zeros(self.heads, self.rank)
        for own in each:
            others = F.normalize(total - own, dim=-1)
            found = (own @ others.mT).argmax(-1)
            alive = own.square().sum(-1) > 0
            same += (found == torch.arange(self.rank)) & alive
        return (same / n).flatten()


def decomposition_layers(model: nn.Module) -> dict[str, MatrixDecomposition]:
    """Return the matrix-decomposition layers of a model by name.

    Example:
        >>> from pellucid.nn import Hamburger
        >>> list(decomposition_layers(nn.Sequential(Hamburger(8))))
        ['0.ham']
    """
    return {name: part for name, part in model.named_modules() if isinstance(part, MatrixDecomposition)}


def concept_maps(
    model: nn.Module,
    x: Tensor,
    *,
    layers: str | Sequence[str] | None = None,
    batch_size: int = 32,
    on_step: OnStep = silent,
) -> tuple[ConceptMaps, ...]:
    """Which few atoms explain the features inside this model, and where on each input is each of them?

    A matrix-decomposition layer (`nn.MatrixDecomposition`, alone or in `nn.Hamburger`) writes its features as X ~ D C^T
    with few atoms, the columns of D. The codes C say how much of each atom is at each place: a soft map per atom. They
    are read as the layer computes them, without any gradient or attribution.

    Known as decomposition maps too.

    Args:
        model: any network that holds such a layer; it is run in eval mode and given back as it was.
        x: inputs `(N, ...)`.
        layers: names of layers, as `decomposition_layers` gives them; all if not given.
        batch_size: inputs per forward.
        on_step: progress in inputs.

    Returns:
        One entry per layer and call, in the order of the forward pass; everything lies on the CPU.

    Raises:
        DataError: no inputs.
        ModelError: the model holds no such layer, or its forward pass calls none of them.
        ValueError: the model has no layer of such a name.

    Example:
        >>> from pellucid.nn import Hamburger, MatrixDecomposition
        >>> ham = MatrixDecomposition(8, rank=2, relu=True)
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Hamburger(8, ham))
        >>> (found,) = concept_maps(model, torch.rand(4, 3, 16, 16))
        >>> found.layer, tuple(found.maps.shape)
        ('1.ham', (4, 2, 16, 16))

    Source: Geng et al. 2021 (arXiv:2109.04553).
    """
    if len(x) == 0:
        raise DataError("concept maps need at least one input, got none")
    chosen = _chosen(model, layers)
    parts: dict[str, list[ConceptMaps]] = {}
    done = 0
    for batch in torch.split(x, batch_size):
        for label, part in _of_batch(model, chosen, batch).items():
            parts.setdefault(label, []).append(part)
        done += len(batch)
        on_step(done, len(x))
    if not parts:
        raise ModelError(f"the forward pass calls none of the layers {', '.join(chosen)}")
    return tuple(_joined(part) for part in parts.values())


def _of_batch(model: nn.Module, layers: dict[str, MatrixDecomposition], x: Tensor) -> dict[str, ConceptMaps]:
    found: dict[str, ConceptMaps] = {}
    calls = dict.fromkeys(layers, 0)

    def hear(name: str, features: Tensor, padding: Tensor | None) -> None:
        if len(features) != len(x):
            raise ModelError(f"layer {name} sees {len(features)} samples of a batch of {len(x)}; leave it out")
        calls[name] += 1
        label = name if calls[name] == 1 else f"{name} (call {calls[name]})"
        found[label] = _read(label, layers[name], features, padding, x)

    with evaluating(model), torch.no_grad(), _listening(layers, hear):
        model(x.to(device_of(model)))
    return found


def _chosen(model: nn.Module, layers: str | Sequence[str] | None) -> dict[str, MatrixDecomposition]:
    known = decomposition_layers(model)
    if not known:
        raise ModelError("the model holds no matrix-decomposition layer (nn.MatrixDecomposition, nn.Hamburger)")
    names = list(known) if layers is None else [layers] if isinstance(layers, str) else list(layers)
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"there are {', '.join(known)}"
            raise ValueError(f"the model has no matrix-decomposition layer {name!r}; {hint.removesuffix(' ')}")
    return {name: known[name] for name in names}


@contextmanager
def _listening(layers: dict[str, MatrixDecomposition], hear: Heard) -> Iterator[None]:
    """Give `hear` the input of each call of some layers inside the block; no hook stays."""

    def listener(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
            features = given[0] if given else named["x"]
            hear(name, features.detach(), given[1] if len(given) > 1 else named.get("padding_mask"))

        return hook

    handles: list[Any] = []
    try:
        handles += [layer.register_forward_hook(listener(name), with_kwargs=True) for name, layer in layers.items()]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _read(label: str, layer: MatrixDecomposition, features: Tensor, padding: Tensor | None, x: Tensor) -> ConceptMaps:
    factors: Factors = layer.decompose(features, padding)
    across = factors.atoms if factors.axis == "spatial" else factors.codes  # what is not spread over places
    length = across.norm(dim=-2)
    maps = (factors.maps * length[(..., *(None,) * len(factors.shape))]).flatten(1, 2)
    left_out, shape = _grid(factors.shape, x)
    if len(factors.shape) == 1:
        maps = maps[..., left_out:].reshape(*maps.shape[:2], *shape)
    return ConceptMaps(
        layer=label,
        kind=layer.kind,
        heads=layer.heads,
        rank=layer.rank,
        steps=factors.residual.shape[2] - 1,
        steady=layer.init != "random",
        maps=maps.cpu(),
        directions=F.normalize(across, dim=-2).mT.flatten(1, 2).cpu(),
        residual=factors.residual.cpu(),
        effective_rank=factors.effective_rank.cpu(),
        usage=factors.usage.flatten(1).cpu() / layer.heads,
        left_out=left_out,
    )


def _grid(shape: tuple[int, ...], x: Tensor) -> tuple[int, tuple[int, ...]]:
    """Return how many tokens come before those of a grid, and the grid: tokens of images are patches, row by row."""
    if len(shape) > 1:
        return 0, shape
    if x.ndim == 4:
        for extra in (0, 1):
            height = math.isqrt((shape[0] - extra) * x.shape[2] // x.shape[3])
            if height and shape[0] > extra and height * x.shape[3] == (shape[0] - extra) // height * x.shape[2]:
                width = (shape[0] - extra) // height
                if height * width == shape[0] - extra:
                    return extra, (height, width)
    return 0, (1, shape[0])


def _joined(parts: Sequence[ConceptMaps]) -> ConceptMaps:
    first = parts[0]
    if any(part.maps.shape[1:] != first.maps.shape[1:] for part in parts):
        raise ModelError(f"layer {first.layer} has another number of places in each batch; bring inputs to one size")
    return replace(
        first,
        maps=torch.cat([part.maps for part in parts]),
        directions=torch.cat([part.directions for part in parts]),
        residual=torch.cat([part.residual for part in parts]),
        effective_rank=torch.cat([part.effective_rank for part in parts]),
        usage=torch.cat([part.usage for part in parts]),
    )
