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

    Restored also after an exception: each module's own train/eval flag, each parameter's `requires_grad`, buffers that
    the model itself changes when called, the global random states and the switches of `precise`. Parameters, `.grad`
    and hooks are never touched.

    Args:
        model: any callable; one that is no `nn.Module` only has its random states guarded.
        precise: full float32 products and one choice of kernels inside the block, because interactions amplify
            rounding noise.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    flags = [module.training for module in modules]
    learned = [parameter.requires_grad for parameter in parameters]
    with ExitStack() as stack:
        stack.enter_context(preserved_randomness(device_of(model)))
        stack.enter_context(_kept_buffers(modules))
        if precise:
            stack.enter_context(_precise())
        try:
            for module in modules:
                _set_training(module, False)
            for parameter in parameters:
                _set_learned(parameter, False)
            yield
        finally:
            for module, flag in zip(modules, flags, strict=True):
                _set_training(module, flag)
            for parameter, flag in zip(parameters, learned, strict=True):
                _set_learned(parameter, flag)


# Both look before they write: writing an attribute of a module is slow, and blocks are often nested.


def _set_training(module: nn.Module, flag: bool) -> None:
    if module.training != flag:
        module.training = flag


def _set_learned(parameter: Tensor, flag: bool) -> None:
    if parameter.requires_grad != flag:
        parameter.requires_grad_(flag)


@contextmanager
def _kept_buffers(modules: list[nn.Module]) -> Iterator[None]:
    """Undo what a model does to its own buffers when called, such as counting its calls."""
    tables = [(module._buffers, dict(module._buffers)) for module in modules if module._buffers]
    held = [buffer for _, table in tables for buffer in table.values() if buffer is not None]
    copies = [(buffer, None if buffer.is_inference() else buffer._version, buffer.clone()) for buffer in held]
    try:
        yield
    finally:
        for now, before in tables:
            now.clear()
            now.update(before)
        for buffer, version, copy in copies:
            if version is None or buffer._version != version:
                with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                    buffer.copy_(copy)
            elif _unseen(buffer, copy):
                buffer.data.copy_(copy)  # uncounted too: for the graph of a pass before this block nothing changed


def _unseen(buffer: Tensor, copy: Tensor) -> bool:
    """Whether a buffer may have changed though its version did not, as running statistics do in `F.batch_norm`."""
    if buffer.ndim != 1 or not buffer.is_floating_point():
        return False
    return buffer.device.type != "cpu" or not torch.equal(buffer, copy)  # elsewhere a comparison would wait


@contextmanager
def _precise() -> Iterator[None]:
    """Full float32 products on every backend, and the same kernels for the same shapes."""
    backends: Any = torch.backends
    # The switches that torch has had since 2.9: reading the older `allow_tf32` raises once anyone has used these.
    parts = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )
    before, benchmark = [part.fp32_precision for part in parts], backends.cudnn.benchmark
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        backends.cudnn.benchmark = False
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision
        backends.cudnn.benchmark = benchmark
