"""Does an answer rest on an atom? The answers when one atom at a time is left out of a matrix decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.core import DataError, ModelError, OnStep, device_of, evaluating, silent
from pellucid.nn import Factors, MatrixDecomposition

from ._concept_maps import decomposition_layers

ALL = -1
"""In place of an atom's number: all of them."""


@dataclass(frozen=True)
class AtomEffects:
    """What changes when an atom is left out, everything else kept: the layer then answers D C^T - d_j c_j^T.

    Args:
        layer: which.
        atoms: the atoms that were left out, one at a time, numbered through all heads.
        changed: share of the answers, of pixels where a model answers for every pixel, that become another class.
        by_class: the same among the answers of each class; NaN for a class that is never answered.
        without_any: share of the answers that change when the layer answers zero: what rests on the layer at all.
        evaluations: model evaluations spent.
    """

    layer: str
    atoms: Int[Tensor, " m"]
    changed: Float[Tensor, " m"]
    by_class: Float[Tensor, "m k"]
    without_any: float
    evaluations: int


def cost_atom_effects(samples: int, atoms: int) -> int:
    """Return the evaluations of `atom_effects`: per sample one as it is, one per atom left out and one without any."""
    return samples * (atoms + 2)


def atom_effects(
    model: nn.Module,
    x: Tensor,
    *,
    layer: str,
    atoms: Sequence[int] | None = None,
    batch_size: int = 32,
    on_step: OnStep = silent,
) -> AtomEffects:
    """Which atoms does the answer rest on? Each is left out, and the share of answers that change is counted.

    A map shows where an atom is; this shows whether it matters there. Atoms can stand in for each other: of two alike
    neither changes much alone.

    Args:
        model: maps inputs to logits `(N, K)` or `(N, K, H, W)`; it is run in eval mode and given back as it was.
        x: inputs `(N, ...)`.
        layer: a matrix-decomposition layer, as `decomposition_layers` names it.
        atoms: numbers of atoms; all if not given.
        batch_size: inputs per forward.
        on_step: progress in forwards.

    Raises:
        DataError: no inputs.
        ModelError: the forward pass does not call the layer.
        ValueError: no such layer or atom.

    Example:
        >>> from pellucid.nn import MatrixDecomposition
        >>> model = nn.Sequential(MatrixDecomposition(3, rank=2), nn.Conv2d(3, 4, 1))
        >>> found = atom_effects(model, torch.rand(2, 3, 8, 8), layer="0")
        >>> tuple(found.by_class.shape), found.evaluations
        ((2, 4), 8)
    """
    known = decomposition_layers(model)
    if layer not in known:
        there = f"there are {', '.join(known)}" if known else "it holds none"
        raise ValueError(f"the model has no matrix-decomposition layer {layer!r}; {there}")
    if len(x) == 0:
        raise DataError("leaving atoms out needs at least one input, got none")
    part = known[layer]
    total = part.heads * part.rank
    chosen = list(range(total)) if atoms is None else list(atoms)
    if any(not 0 <= atom < total for atom in chosen):
        raise ValueError(f"atoms must be numbers from 0 to {total - 1}, got {chosen}")
    device = device_of(model)
    changed: Tensor | None = None
    answered: Tensor | None = None
    done, forwards = 0, len(torch.split(x, batch_size)) * (len(chosen) + 2)
    with evaluating(model), torch.no_grad():
        for batch in torch.split(x, batch_size):
            inputs = batch.to(device)
            with _LeavingOut(part) as leaving:
                logits = model(inputs)
                if not leaving.called:
                    raise ModelError(f"the forward pass does not call the layer {layer}")
                before = logits.argmax(1)
                classes = logits.shape[1]
                if changed is None or answered is None:
                    changed, answered = torch.zeros(len(chosen) + 1, classes), torch.zeros(classes)
                answered += torch.bincount(before.flatten(), minlength=classes).cpu()
                done += 1
                on_step(done, forwards)
                for place, atom in enumerate([*chosen, ALL]):
                    leaving.atom = atom
                    moved = model(inputs).argmax(1) != before
                    changed[place] += torch.bincount(before[moved], minlength=classes).cpu()
                    done += 1
                    on_step(done, forwards)
    assert changed is not None
    assert answered is not None
    return AtomEffects(
        layer=layer,
        atoms=torch.tensor(chosen, dtype=torch.int64),
        changed=changed[:-1].sum(1) / answered.sum(),
        by_class=changed[:-1] / answered,  # 0 / 0 is NaN: never answered
        without_any=float(changed[-1].sum() / answered.sum()),
        evaluations=cost_atom_effects(len(x), len(chosen)),
    )


class _LeavingOut:
    """Takes one atom out of what a layer answers inside the block; None leaves the answer as it is."""

    def __init__(self, layer: MatrixDecomposition) -> None:
        self.layer, self.called = layer, False
        self.atom: int | None = None

    def __enter__(self) -> _LeavingOut:
        self.handle = self.layer.register_forward_hook(self._hook, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def _hook(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor | None:
        self.called = True
        if self.atom is None:
            return None
        if self.atom == ALL:
            return torch.zeros_like(output)
        features = given[0] if given else named["x"]
        padding = given[1] if len(given) > 1 else named.get("padding_mask")
        return output - _part(self.layer, self.layer.decompose(features, padding), self.atom, output)


def _part(layer: MatrixDecomposition, factors: Factors, atom: int, output: Tensor) -> Tensor:
    """Return d_j c_j^T of one atom in the layout of the layer's answer."""
    head, column = divmod(atom, layer.rank)
    product = factors.atoms[:, head, :, column, None] * factors.codes[:, head, None, :, column]  # (b, d, n)
    own = product if factors.axis == "spatial" else product.mT  # (b, channels of the head, places)
    width = layer.channels // layer.heads
    whole = own.new_zeros(len(own), layer.channels, own.shape[2])
    whole[:, head * width : (head + 1) * width] = own
    return (whole.mT if output.ndim == 3 else whole.reshape(output.shape)).to(output.dtype)
