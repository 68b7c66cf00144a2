"""Matrix decomposition in the place of self-attention, in a model that is there already."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.core import ModelError, Stream

from ._hamburger import pointwise
from ._matrix_decomposition import MatrixDecomposition

RANK = 16


class HamAttention(nn.Module):
    """A matrix decomposition in the place of self-attention: called like `nn.MultiheadAttention`, linear in the tokens.

    A linear map, the decomposition (features through a ReLU before "nmf"), and a linear map back: half the weights of
    attention. There are no weights of attention to return: the second answer is None always. A key padding mask is
    honored: padding counts for nothing, and its answer is the last map's bias.

    Where you put it into a `nn.TransformerEncoder` that is there already, set `use_nested_tensor = False` of the
    encoder, as `replace_attention` does: otherwise the encoder, given a padding mask in eval mode, reads weights that
    only torch's own attention has (`in_proj_weight`).

    Args:
        embed_dim: features of a token.
        ham: the decomposition, whose `channels` are the inner width; nmf with at most 16 atoms of `embed_dim`, if not
            given. The `relu` of an "nmf" is switched on.
        batch_first: the layout is (B, N, C), not (N, B, C).

    Example:
        >>> layer = HamAttention(32)
        >>> x = torch.randn(2, 50, 32)
        >>> answer, weights = layer(x, x, x)
        >>> tuple(answer.shape), weights
        ((2, 50, 32), None)
    """

    # What torch's transformer layers ask of their attention before they take a fused path in eval mode. No in_proj_bias
    # is a reason not to take it.
    _qkv_same_embed_dim = True
    in_proj_bias: Tensor | None = None
    num_heads = 1

    def __init__(self, embed_dim: int, ham: MatrixDecomposition | None = None, *, batch_first: bool = True) -> None:
        super().__init__()
        ham = ham or MatrixDecomposition(embed_dim, min(RANK, embed_dim))
        ham.relu = ham.relu or ham.kind == "nmf"
        self.embed_dim, self.batch_first = embed_dim, batch_first
        self.lower = nn.Linear(embed_dim, ham.channels)
        self.ham = ham
        self.upper = nn.Linear(ham.channels, embed_dim)
        # The maps that a Hamburger has, with its first weights.
        for linear in (self.lower, self.upper):
            conv = pointwise(linear.in_features, linear.out_features)
            linear.weight = nn.Parameter(conv.weight.detach()[..., 0].clone())
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Return the tokens with context, and None.

        Args:
            query: (B, N, C), or (N, B, C) if not `batch_first`, or (N, C) without a batch.
            key, value: the same tensor as `query`.
            key_padding_mask: (B, N), True or minus infinity at padding.
            need_weights, average_attn_weights: without effect.
            attn_mask: must be None.
            is_causal: must be False.

        Raises:
            ValueError: attention to other tokens, a mask that says who may see whom, or a nested tensor.
        """
        if query.is_nested:
            raise ValueError(
                "a matrix decomposition takes padded tokens, not nested tensors; in a nn.TransformerEncoder set "
                "use_nested_tensor = False"
            )
        if not (_same(query, key) and _same(query, value)):
            raise ValueError(
                "a matrix decomposition takes the place of self-attention alone: query, key and value must be one "
                "tensor; keep torch's attention where tokens look at other tokens"
            )
        if attn_mask is not None or is_causal:
            raise ValueError(
                "a matrix decomposition mixes all tokens at once: it cannot be causal or follow attn_mask; keep "
                "torch's attention there, or pass key_padding_mask for padding"
            )
        single = query.ndim == 2
        x = query[None] if single else query
        mask = _padding(key_padding_mask[None] if single and key_padding_mask is not None else key_padding_mask)
        x = x if self.batch_first or single else x.transpose(0, 1)
        x = self.upper(self.ham(self.lower(x), mask))
        if single:
            return x[0], None
        return x if self.batch_first else x.transpose(0, 1), None

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{self.embed_dim}, batch_first={self.batch_first}"


@dataclass(frozen=True)
class ReplacedModule:
    """A module that was replaced: its name, its type, and its parameters before and after."""

    name: str
    was: str
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class Replacement:
    """A copy of a model with attention replaced, and what was done.

    Args:
        model: the copy.
        replaced: the modules that were replaced.
        left: names of attention modules that were left as they are, with the reason.
        parameters_before, parameters_after: of the whole model.
    """

    model: nn.Module
    replaced: tuple[ReplacedModule, ...]
    left: Mapping[str, str]
    parameters_before: int
    parameters_after: int


def replace_attention(
    model: nn.Module,
    ham: Callable[[int], MatrixDecomposition] | None = None,
    *,
    others: Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]] | None = None,
    rng: Stream | None = None,
) -> Replacement:
    """What would this model be with matrix decompositions for self-attention? A copy to train, and a list of changes.

    Each `nn.MultiheadAttention` becomes a `HamAttention` with fresh weights: the copy must be trained again. Attention
    to other tokens (a decoder's, or with `kdim` or `vdim`) and a decoder's causal attention are left as they are, with
    the reason.

    Args:
        model: it is not changed.
        ham: makes the decomposition for a number of features; nmf with at most 16 atoms, if not given.
        others: your own attention classes, and what makes the new module from the old one.
        rng: of the fresh weights; torch's global random state, if not given.

    Raises:
        ModelError: there is nothing to replace.

    Example:
        >>> encoder = nn.TransformerEncoderLayer(32, 4, batch_first=True)
        >>> done = replace_attention(encoder, lambda channels: MatrixDecomposition(channels, 8, kind="cd"))
        >>> [(part.name, part.parameters_before, part.parameters_after) for part in done.replaced]
        [('self_attn', 4224, 2112)]
    """
    new = copy.deepcopy(model)
    named = list(new.named_modules(remove_duplicate=False))
    left = _left(named)
    made: dict[int, nn.Module] = {}
    gone: list[str] = []  # names whose parts went with them
    replaced: list[ReplacedModule] = []
    for name, module in named:
        if _within(name, gone):
            left.pop(name, None)
            continue
        make = next((make for kind, make in (others or {}).items() if isinstance(module, kind)), None)
        if make is None and (not isinstance(module, nn.MultiheadAttention) or name in left):
            continue
        if id(module) not in made:
            with nullcontext() if rng is None else rng.child("weights", name).forked():
                own = _like(module, make(module) if make else _ham_attention(module, ham))
            made[id(module)] = own
            replaced.append(ReplacedModule(name, type(module).__name__, _size(module), _size(own)))
        gone.append(name)
        if not name:
            new = made[id(module)]
        else:
            parent, _, last = name.rpartition(".")
            setattr(new.get_submodule(parent), last, made[id(module)])
    if not replaced:
        reasons = "".join(f"; {name}: {reason}" for name, reason in left.items())
        raise ModelError(
            f"the model has no nn.MultiheadAttention to replace{reasons}; name your own attention class in others="
        )
    for module in new.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(p, HamAttention) for p in module.modules()):
            module.use_nested_tensor = False  # its fused path reads the weights of torch's own attention
    return Replacement(new, tuple(replaced), left, _size(model), _size(new))


def _left(named: list[tuple[str, nn.Module]]) -> dict[str, str]:
    """Return the names of attention modules that a decomposition cannot replace, with the reason."""
    decoders = [name for name, module in named if isinstance(module, nn.TransformerDecoderLayer)]
    left = {}
    for name, module in named:
        if isinstance(module, nn.MultiheadAttention):
            if _within(name, decoders):
                left[name] = "in a decoder, where tokens look at other tokens or at earlier ones alone"
            elif not module._qkv_same_embed_dim:
                left[name] = "its keys or values have other features than its queries"
    return left


def _within(name: str, parents: list[str]) -> bool:
    return any(name.startswith(f"{parent}." if parent else "") for parent in parents)


def _ham_attention(old: nn.Module, ham: Callable[[int], MatrixDecomposition] | None) -> nn.Module:
    assert isinstance(old, nn.MultiheadAttention)
    return HamAttention(old.embed_dim, ham(old.embed_dim) if ham else None, batch_first=old.batch_first)


def _like(old: nn.Module, new: nn.Module) -> nn.Module:
    weight = next(old.parameters(), None)
    return new.train(old.training) if weight is None else new.to(weight.device, weight.dtype).train(old.training)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _same(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors are one, or views of the same numbers."""
    if first is second:
        return True
    if first.shape != second.shape or first.stride() != second.stride() or torch.compiler.is_compiling():
        return False
    return first.data_ptr() == second.data_ptr()


def _padding(mask: Tensor | None) -> Tensor | None:
    """Return a key padding mask as bool: torch's own layers hand on one of 0 and minus infinity."""
    if mask is None or mask.dtype == torch.bool:
        return mask
    padding = torch.isneginf(mask)
    if not torch.compiler.is_compiling() and bool((mask[~padding] != 0).any()):
        raise ValueError("key_padding_mask must be bool, or hold 0 and minus infinity alone")
    return padding
