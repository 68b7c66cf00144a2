"""Models that answer in another form than logits `(B, K)`, read as if they did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._errors import described

Output = str | int | Callable[[Any], Tensor]
"""Which part of a model's answer holds the logits: a key or attribute, a position, or a function of the answer."""

_SHOWN = 12  # parts of an answer that an error names


class TwoLogits(nn.Module):
    """Reads a one-logit model as a two-class one: logits (0, z)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        return torch.cat([torch.zeros_like(z), z], dim=1)


class Picked(nn.Module):
    """Reads one part of a model's answer."""

    def __init__(self, model: nn.Module, output: Output) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, x: Tensor) -> Tensor:
        return pick(self.model(x), self.output)


class LogProbabilities(nn.Module):
    """Reads the probabilities of a model as their logarithms, which are logits of the same probabilities."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        p = _widened(self.model(x))
        return p.clamp_min(torch.finfo(p.dtype).tiny).log()


class TwoProbabilities(nn.Module):
    """Reads one probability per sample as that of the second of two classes: logits (log(1 - p), log p)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        p = _widened(self.model(x))
        limits = torch.finfo(p.dtype)
        return torch.cat([torch.log1p(-p.clamp_max(1 - limits.eps)), p.clamp_min(limits.tiny).log()], dim=1)


class Enlarged(nn.Module):
    """Reads coarse answers for every pixel at the size of the images, bilinearly."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(self.model(x), x.shape[2:], mode="bilinear", align_corners=False)


def _widened(p: Tensor) -> Tensor:
    """Half precision has too few small numbers for a logarithm."""
    return p if p.dtype == torch.float64 else p.float()


def pick(answer: Any, output: Output) -> Tensor:
    """Return the part of a model's answer that `output` names.

    Raises:
        LookupError: the answer has no such part, or the function fails on it; the text names the parts it has.
    """
    if callable(output):
        try:
            picked: Tensor = output(answer)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            called = getattr(output, "__name__", type(output).__name__)
            raise LookupError(
                f"the function {called} given as output raises {described(error)}; it is given the model's answer, "
                f"{parts_of(answer)}"
            ) from error
        return picked
    try:
        if isinstance(output, str) and not isinstance(answer, Mapping):
            part: Tensor = getattr(answer, output)
        elif isinstance(output, int) and isinstance(answer, Mapping) and output not in answer:
            part = list(answer.values())[output]
        else:
            part = answer[output]
    except (AttributeError, LookupError, TypeError):
        raise LookupError(f"its answer has no {output!r}; it is {parts_of(answer)}") from None
    return part


def logits_of(answer: Any) -> Output | None:
    """Return where the logits are in an answer that is no tensor, or None when that is not plain.

    Plain are a part called `logits`, as in Hugging Face's outputs, and a collection with one tensor in all.
    """
    if isinstance(answer, Mapping):
        if isinstance(answer.get("logits"), Tensor):
            return "logits"
        keys = [key for key, value in answer.items() if isinstance(value, Tensor)]
        return keys[0] if len(keys) == 1 else None
    if isinstance(getattr(answer, "logits", None), Tensor):
        return "logits"
    if isinstance(answer, (tuple, list)):
        places = [place for place, value in enumerate(answer) if isinstance(value, Tensor)]
        return places[0] if len(places) == 1 else None
    return None


def parts_of(answer: Any) -> str:
    """Say what an answer consists of: `dict (out: 8 x 10; aux: 8 x 10)`."""
    if isinstance(answer, Tensor):
        return f"a tensor of shape {tuple(answer.shape)}"
    if isinstance(answer, Mapping):
        parts = {str(key): value for key, value in answer.items()}
    elif isinstance(answer, (tuple, list)):
        parts = {str(place): value for place, value in enumerate(answer)}
    else:
        fields = vars(answer) if hasattr(answer, "__dict__") else {}
        parts = {key: value for key, value in fields.items() if isinstance(value, Tensor)}
    kind = type(answer).__name__
    if not parts:
        return f"{kind} without tensors"
    shown = [f"{key}: {_shape(value)}" for key, value in list(parts.items())[:_SHOWN]]
    return f"{kind} ({'; '.join(shown)}{'; ...' if len(parts) > _SHOWN else ''})"


def _shape(value: object) -> str:
    return " x ".join(map(str, value.shape)) if isinstance(value, Tensor) else type(value).__name__


def are_probabilities(answers: Tensor) -> bool:
    """Whether the rows `(B, K, ...)` of answers are probabilities: nothing negative, sums of 1 up to rounding."""
    if answers.shape[1] < 2 or bool((answers < 0).any()):
        return False
    rounding = {torch.float64: 1e-6, torch.float32: 1e-4}.get(answers.dtype, 2e-2)
    return bool(((answers.double().sum(1) - 1).abs() <= rounding).all())
