"""What is under audit: a model and the samples it is judged on, validated once and then trusted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ._contracts import Modality
from ._errors import DataError, ModelError
from ._modes import device_of, evaluating


class TwoLogits(nn.Module):
    """Reads a one-logit model as a two-class one: logits (0, z)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        return torch.cat([torch.zeros_like(z), z], dim=1)


@dataclass(frozen=True)
class Subject:
    """A model with the samples it is audited on.

    Args:
        model: maps a batch of inputs to logits `(B, K)`; one logit is read as two classes. Its own device is used.
        inputs: `(N, ...)` float inputs.
        labels: `(N,)` int64, or None.
        bounds: least and greatest legal input value, or None for unbounded features.
        modality: what one input is.
        class_names: one per class; numbers if not given.
        ids: `(N,)` stable sample ids; row numbers if not given.
        name, data_name: what to call the model and the data.
        surrogates: other models of the same task by name; transfer attacks are crafted on them.
        notes: what the report must say about the data or the model.
        feature_names: names of tabular columns.

    Raises:
        DataError: no samples, NaN inputs, inputs outside `bounds`, labels that do not fit.
        ModelError: the model raises, returns no finite `(B, K)` logits, or answers differently twice.
    """

    model: nn.Module
    inputs: Tensor
    labels: Tensor | None = None
    bounds: tuple[float, float] | None = field(default=(0.0, 1.0), kw_only=True)
    modality: Modality = field(default="image", kw_only=True)
    class_names: tuple[str, ...] = field(default=(), kw_only=True)
    ids: Tensor = field(default=None, kw_only=True)  # type: ignore[assignment]  # filled below
    name: str = field(default="model", kw_only=True)
    data_name: str = field(default="data", kw_only=True)
    surrogates: Mapping[str, nn.Module] = field(default_factory=dict, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    feature_names: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        _check_inputs(self.inputs, self.bounds)
        ids = torch.arange(len(self.inputs)) if self.ids is None else self.ids
        object.__setattr__(self, "ids", ids)
        logits = _check_answers(self.model, self.inputs, self.name)
        if logits.shape[1] == 1:
            object.__setattr__(self, "model", TwoLogits(self.model))
        classes = max(2, logits.shape[1])
        if self.labels is not None:
            _check_labels(self.labels, len(self.inputs), classes)
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(str(k) for k in range(classes)))
        elif len(self.class_names) != classes:
            raise DataError(
                f"{self.data_name} has {len(self.class_names)} classes but {self.name} returns {classes} logits; "
                "use the data the model was trained for"
            )
        for name, surrogate in self.surrogates.items():
            other = _check_answers(surrogate, self.inputs, name).shape[1]
            if max(2, other) != classes:
                raise ModelError(f"surrogate {name} returns {other} logits but {self.name} returns {classes}")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    def take(self, rows: Tensor) -> Subject:
        """Return the subject on some of its samples; `rows` are row numbers."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, inputs=self.inputs[rows], labels=labels, ids=self.ids[rows])

    def logits(self, *, batch_size: int = 256) -> Tensor:
        """Return the logits of all samples, `(N, K)` float32 on the CPU."""
        device = self.device
        with evaluating(self.model), torch.inference_mode():
            parts = [self.model(x.to(device)).float().cpu() for x in torch.split(self.inputs, batch_size)]
        return torch.cat(parts)

    def digest(self) -> dict[str, str]:
        """Return SHA-256 digests of the model's tensors and of the data, to tell audits of the same things."""
        model, data = hashlib.sha256(), hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            model.update(name.encode() + _bytes(tensor))
        data.update(_bytes(self.inputs) + _bytes(self.ids))
        if self.labels is not None:
            data.update(_bytes(self.labels))
        return {"model": model.hexdigest(), "data": data.hexdigest()}


def _bytes(tensor: Tensor) -> bytes:
    tensor = tensor.detach().cpu().contiguous()
    head = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return head + (tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")


def _check_inputs(inputs: Tensor, bounds: tuple[float, float] | None) -> None:
    if inputs.ndim < 2 or len(inputs) == 0:
        raise DataError(f"inputs must be a batch of at least one sample, got shape {tuple(inputs.shape)}")
    if not inputs.is_floating_point():
        raise DataError(f"inputs must be floating point, got {inputs.dtype}; divide 0-255 images by 255")
    bad = (~inputs.isfinite()).flatten(1).any(1).nonzero()
    if len(bad):
        raise DataError(f"input {int(bad[0])} holds NaN or infinity; remove or repair the sample")
    if bounds is None:
        return
    low, high = float(inputs.min()), float(inputs.max())
    slack = 1e-6 * (bounds[1] - bounds[0])
    if low < bounds[0] - slack or high > bounds[1] + slack:
        hint = "divide 0-255 images by 255" if high > 2 and low >= 0 else "undo the normalisation or give `bounds`"
        raise DataError(f"inputs lie in [{low:g}, {high:g}] but the bounds are [{bounds[0]:g}, {bounds[1]:g}]; {hint}")


def _check_labels(labels: Tensor, samples: int, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.shape != (samples,):
        raise DataError(
            f"labels must be int64 of shape ({samples},), got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    outside = ((labels < 0) | (labels >= classes)).nonzero()
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"sample {row} has label {int(labels[row])} but the model knows classes 0 to {classes - 1}; "
            "use the data the model was trained for"
        )


def _check_answers(model: nn.Module, inputs: Tensor, name: str) -> Tensor:
    """Return the logits of a few samples, or say in one sentence why this is no model to audit."""
    x = inputs[:8].to(device_of(model))
    with evaluating(model), torch.inference_mode():
        try:
            first, second = model(x), model(x)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(
                f"{name} cannot read inputs of shape {tuple(x.shape[1:])}: {reason}; "
                "give data of the size and channels it was trained on"
            ) from error
    if not isinstance(first, Tensor):
        raise ModelError(f"{name} returns {type(first).__name__}, not a tensor of logits (B, K)")
    if first.ndim != 2 or len(first) != len(x) or first.shape[1] == 0:
        raise ModelError(f"{name} must return logits of shape ({len(x)}, K), got {tuple(first.shape)}")
    if not first.isfinite().all():
        row = int((~first.isfinite()).any(1).nonzero()[0])
        raise ModelError(f"{name} returns NaN or infinity for sample {row}; repair the weights or the input scaling")
    if not torch.equal(first, second):
        raise ModelError(
            f"{name} answers differently when asked twice in eval mode; remove the randomness (functional dropout?)"
        )
    return first
