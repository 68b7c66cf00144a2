"""Programs of `torch.export`: opened after a look inside, with any batch size."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core import ModelError, first_line, path_kind

from ._loaded import Loaded
from ._program_scan import screened

_DYNAMIC = "torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))"


class Program(nn.Module):
    """An exported program as a model; it stays in the mode it was exported in."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        """Return what the program answers."""
        return self.module(x)

    def train(self, mode: bool = True) -> Program:
        """Note the mode; an exported program has only one, and refuses to be asked."""
        self.training = mode
        return self


def from_program(path: Path, device: torch.device, *, trust: bool) -> Loaded:
    """Open a program of `torch.export.save`.

    Raises:
        ModelError: missing, damaged, able to run code when opened, or for batches of one size only.
    """
    if (kind := path_kind(path)) != "file":
        found = "does not exist" if kind is None else f"is a {kind}" if kind == "folder" else "is not a regular file"
        raise ModelError(f"{path} {found}; give the .pt2 file that torch.export.save writes")
    source: Any = path if trust else io.BytesIO(screened(path))
    with _quiet():
        try:
            program = torch.export.load(source)
            shape = _input_shape(program, path)
            if device.type != "cpu":  # gpu only
                from torch.export.passes import move_to_device_pass  # gpu only

                program = move_to_device_pass(program, device)  # gpu only
            module = program.module()
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # damaged programs reach every corner of the reader
            raise ModelError(f"{path} is no program that this torch can open: {first_line(error)}") from error
    return Loaded(Program(module), path.name, input_shape=shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the remarks of torch's reader, which are meant for its developers, from the user's terminal."""
    logger = logging.getLogger("torch.export")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _input_shape(program: Any, path: Path) -> tuple[int, ...] | None:
    """Return the shape of one input, or say why the program cannot be audited."""
    names = program.graph_signature.user_inputs
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
        raise ModelError(f"{path} takes {len(inputs)} inputs; export a model that takes one batch")
    size: Any = inputs[0].shape  # whole numbers and symbols
    if not size or isinstance(size[0], int):
        held = f"batches of exactly {size[0]}" if size else "no batches"
        raise ModelError(f"{path} was exported for {held}; export it for any batch: {_DYNAMIC}")
    for node in program.graph.nodes:
        if _trains(node):
            raise ModelError(f"{path} was exported in training mode; call model.eval() before torch.export.export")
    inner = size[1:]
    return tuple(inner) if all(isinstance(length, int) for length in inner) else None


def _trains(node: Any) -> bool:
    """Whether an operation of the program behaves as in training: dropout drops, batch norm takes the batch's mean."""
    if node.op != "call_function" or ("dropout" not in node.name and "batch_norm" not in node.name):
        return False
    schema = getattr(node.target, "_schema", None)
    names = [] if schema is None else [argument.name for argument in schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return given.get("training", given.get("train")) is True
