"""Borrow a user's model without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ._streams import preserved_randomness


def device_of(model: Callable[[Tensor], Tensor]) -> torch.device:
    """Return the device a model lives on: its first parameter's or buffer's, the CPU if it has none."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


@contextmanager
def evaluating(model: Callable[[Tensor], Tensor], *, precise: bool = True) -> Iterator[None]:
    """Put a model in eval mode with frozen parameters inside the block; restore everything after it.

    Restored also after an exception: each module's own train/eval flag, each parameter's `requires_grad`, the global
    random states and the TF32 switches. Parameters, buffers, `.grad` and hooks are never touched.

    Args:
        model: any callable; one that is no `nn.Module` only has its random states guarded.
        precise: full float32 products inside the block, because interactions amplify rounding noise.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    flags = [module.training for module in modules]
    grads = [parameter.requires_grad for parameter in parameters]
    with ExitStack() as stack:
        stack.enter_context(preserved_randomness(device_of(model)))
        if precise:
            stack.enter_context(_without_tf32())
        try:
            for module in modules:
                module.training = False
            for parameter in parameters:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, flag in zip(modules, flags, strict=True):
                module.training = flag
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.requires_grad_(grad)


@contextmanager
def _without_tf32() -> Iterator[None]:
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
