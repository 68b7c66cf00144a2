"""What a model answers: tried on a few samples before it is trusted, and read as logits.

These are `(B, K)`, or `(B, K, H, W)` where a model gives every pixel of an image a class.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ._adapters import (
    Enlarged,
    LogProbabilities,
    Output,
    Picked,
    TwoLogits,
    TwoProbabilities,
    are_probabilities,
    logits_of,
    parts_of,
)
from ._errors import ModelError, described
from ._modes import device_of, evaluating

ASKED = 8  # samples on which a model is tried before it is trusted
_ASKED_LARGE, _LARGE = 2, 2**18  # of images with so many pixels, whose every pixel may get an answer
_ASKED_ONE = 64  # and where only one number per sample tells probabilities from logits

_SOFTMAX = (
    "{name} answers with probabilities; their logarithms are read as logits. Where a probability is rounded to 0 or 1, "
    "gradients vanish: a model without its last {layer} is attacked more exactly."
)
_ONE_SIDED = (
    "{name} answers with one number per sample, read as a logit: above 0 is the second class. The numbers seen lie in "
    "[0, 1] and on one side of 0.5; if they are probabilities, let the model return two columns, 1 - p and p."
)
_COARSE = (
    "{name} answers for {coarse} places of images of {fine} pixels; the logits between them are interpolated "
    "bilinearly, so edges are softer than the model's own grid."
)
# What autograd calls the steps after a sigmoid that only change the shape or the type of its answer.
_RESHAPING = ("View", "Reshape", "Squeeze", "Unsqueeze", "Select", "Slice", "ToCopy", "Alias", "Permute", "T")


class Heard(NamedTuple):
    """A model that maps inputs to logits `(B, K)`, or of every pixel `(B, K, H, W)`, with K of at least two.

    Args:
        model: the model, wrapped where it answers in another form.
        first: its logits on the first samples, on the CPU.
        notes: how its answers are read, where that is not plain.
    """

    model: nn.Module
    first: Tensor
    notes: tuple[str, ...]

    @property
    def dense(self) -> bool:
        """Whether it answers for every pixel."""
        return self.first.ndim == 4


def hear(
    model: nn.Module, inputs: Tensor, ids: Tensor, name: str, output: Output | None = None, *, number: str = ""
) -> Heard:
    """Try a model and return it as one that answers with logits, or say in one sentence why it cannot be audited.

    A model that answers with a `number`, which is no logit, is left as it is.

    Raises:
        ModelError: the model raises, answers with no `(B, K)` scores, with NaN, or differently when asked twice.
    """
    _check_module(model, name, number)
    asked = _ASKED_LARGE if inputs.ndim == 4 and inputs[0, 0].numel() >= _LARGE else ASKED
    x, few = inputs[:asked].clone(), ids[:asked]
    notes: list[str] = []
    with evaluating(model), torch.no_grad():
        model = _picked(model, x, name, output)
        first = answers(model, x, few, name)
        if not torch.equal(x, inputs[:asked]):
            raise ModelError(f"{name} changes its inputs in place; let it work on a copy, x = x.clone()")
        if not torch.equal(first, answers(model, x, few, name)):
            raise ModelError(
                f"{name} answers differently when asked twice in eval mode; remove the randomness (functional dropout?)"
            )
        if first.ndim == 4:
            _check_dense(first, x, name, number)
        if number:
            pass
        elif are_probabilities(first):
            notes.append(_SOFTMAX.format(name=name, layer="softmax"))
            model = LogProbabilities(model)
        elif first.shape[1] == 1:
            # Of a dense model the few images hold many answers already.
            z = first if first.ndim == 4 else answers(model, inputs[:_ASKED_ONE], ids[:_ASKED_ONE], name)
            within = bool(((z >= 0) & (z <= 1)).all())
            # As logits these would all be votes for one class; as probabilities they speak for both.
            both = bool((z < 0.5).any()) and bool((z > 0.5).any())
            if within and (both or _ends_in_sigmoid(model, x[:1])):
                notes.append(_SOFTMAX.format(name=name, layer="sigmoid"))
                model = TwoProbabilities(model)
            else:
                notes += [_ONE_SIDED.format(name=name)] if within else []
                model = TwoLogits(model)
        if first.ndim == 4 and first.shape[2:] != x.shape[2:]:
            notes.append(_COARSE.format(name=name, coarse=_by(first), fine=_by(x)))
            model = Enlarged(model)
        first = answers(model, x, few, name)
    return Heard(model, first.cpu(), tuple(notes))


def answers(model: nn.Module, inputs: Tensor, ids: Tensor, name: str) -> Tensor:
    """Return the logits of one batch; a model that cannot give them becomes one clear sentence."""
    logits = _called(model, inputs, name)
    count = len(inputs)
    if not isinstance(logits, Tensor):
        raise ModelError(f"{name} returns {type(logits).__name__}, not a tensor of logits (B, K)")
    dense = logits.ndim == 4 and inputs.ndim == 4  # a class for every pixel, which only images have
    if not (dense or logits.ndim == 2) or len(logits) != count or 0 in logits.shape:
        pixels = f", or ({count}, K, H, W) for a class of every pixel" if inputs.ndim == 4 and logits.ndim > 2 else ""
        raise ModelError(f"{name} must return logits of shape ({count}, K){pixels}, got {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise ModelError(f"{name} must return floating point logits, got {logits.dtype}; return scores, not classes")
    bad = ~logits.isfinite().flatten(1).all(1)
    if bad.any():
        sample = int(ids[bad.cpu()][0])
        raise ModelError(f"{name} returns NaN or infinity for sample {sample}; repair the weights or the input scaling")
    return logits


def differentiable(model: nn.Module, x: Tensor) -> bool:
    """Return whether the logits of a model follow its input by autograd."""
    with evaluating(model), torch.enable_grad():
        inputs = x.to(device_of(model)).detach().requires_grad_()
        try:
            logits = model(inputs)
            if not logits.requires_grad:
                return False
            (gradient,) = torch.autograd.grad(logits.sum(), inputs, allow_unused=True)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # such as numpy inside, which takes no tensor that wants a gradient
            return False
    return gradient is not None


def _check_dense(logits: Tensor, x: Tensor, name: str, number: str) -> None:
    """Refuse answers for every pixel that cannot be those of these images."""
    if number:
        raise ModelError(f"{name} answers for every pixel, shape {tuple(logits.shape)}, not with one {number}")
    if logits.shape[1:3] == x.shape[2:] != logits.shape[2:]:
        raise ModelError(
            f"{name} must return the classes as the second axis, (B, K, H, W), got {tuple(logits.shape)}; "
            "let it return answer.permute(0, 3, 1, 2)"
        )
    if logits.shape[2] > x.shape[2] or logits.shape[3] > x.shape[3]:
        raise ModelError(
            f"{name} answers for {_by(logits)} pixels of images of {_by(x)}; let it answer at their size or coarser"
        )


def _by(x: Tensor) -> str:
    return f"{x.shape[2]} x {x.shape[3]}"


def _ends_in_sigmoid(model: nn.Module, x: Tensor) -> bool:
    """Whether autograd saw a sigmoid as the last step that changes numbers; False where it sees nothing."""
    with torch.enable_grad():
        try:
            step = model(x.to(device_of(model)).detach().requires_grad_()).grad_fn
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # such as numpy inside, which takes no tensor that wants a gradient
            return False
    while step is not None and step.name().rstrip("0123456789").removesuffix("Backward") in _RESHAPING:
        step = step.next_functions[0][0]
    return step is not None and step.name().startswith("SigmoidBackward")


def _check_module(model: object, name: str, number: str) -> None:
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{name} must be a torch.nn.Module, got {type(model).__name__}; pellucid.subject takes any callable"
        )
    if getattr(model, "regression", False) and not number:
        raise ModelError(
            f"{name} predicts a number, and an audit asks about classes; games take its `.model` as it is: "
            "games.ModelGame with games.output()"
        )
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{name} is on the meta device, which holds no numbers; make it on the CPU")
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{name} has lazy layers without weights yet; call it once on a batch where it is made")


def _picked(model: nn.Module, x: Tensor, name: str, output: Output | None) -> nn.Module:
    """Return the model with only the part of its answer that holds the logits."""
    if output is not None:
        return Picked(model, output)
    answer = _called(model, x, name)
    if isinstance(answer, Tensor):
        return model
    found = logits_of(answer)
    if found is None:
        raise ModelError(
            f"{name} returns {parts_of(answer)}, not a tensor of logits (B, K); name the part that holds them with "
            "output= (--output on the command line)"
        )
    return Picked(model, found)


def _called(model: nn.Module, inputs: Tensor, name: str) -> Any:
    x = inputs.to(device_of(model))
    try:
        return model(x)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(model, Picked) and type(error) is LookupError:
            raise ModelError(f"{name}: {error}") from None
        raise ModelError(_cannot_read(model, x, name, error)) from error


def _resized(model: nn.Module, x: Tensor) -> str:
    """Say how images are brought to what a model reads, with its channels where its first convolution tells them."""
    if x.ndim != 4:
        return ""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    channels = x.shape[1] if first is None or first.in_channels not in (1, 3) else first.in_channels
    made = {(1, 3): "gray, ", (3, 1): "color, "}.get((channels, x.shape[1]), "")
    return f"; on the command line --input-size {channels}xHxW makes the images {made}H high and W wide"


def _cannot_read(model: nn.Module, x: Tensor, name: str, error: BaseException) -> str:
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if not x.is_floating_point():
        hint = "give the ids of its own tokenizer, no more of them than it has positions for"
    elif kinds and x.dtype not in kinds:
        own = ", ".join(sorted(map(str, kinds)))
        hint = f"its parameters are {own} but the inputs {x.dtype}: convert one of them, such as by model.float()"
    else:
        hint = "give data of the size and channels it was trained on" + _resized(model, x)
    return f"{name} cannot read inputs of shape {tuple(x.shape[1:])} ({described(error)}); {hint}"
