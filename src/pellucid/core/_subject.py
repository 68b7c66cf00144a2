"""What is under audit: a model and the samples it is judged on, validated once and then trusted."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ._adapters import Output
from ._answers import answers, differentiable, hear
from ._contracts import IGNORED, Modality
from ._errors import DataError, ModelError
from ._modes import device_of, evaluating
from ._text import Text


@dataclass(frozen=True)
class Subject:
    """A model with the samples it is audited on.

    Args:
        model: maps a batch of inputs to logits `(B, K)`, or images to logits of every pixel `(B, K, H, W)`; one logit
            is read as two classes, probabilities as their logarithms, and a coarser grid of pixels is interpolated,
            each with a note. Its own device is used.
        inputs: `(N, ...)` float inputs; images are `(N, C, H, W)`, tables `(N, D)`; texts are int64 token ids `(N, L)`;
            graphs are `(N, n, n + f)`, adjacency and node features side by side.
        labels: `(N,)` int64, or None; for a model that answers for every pixel `(N, H, W)`, `core.IGNORED` where a
            pixel has no label.
        bounds: least and greatest legal input value, or None for unbounded features; texts have none.
        modality: what one input is.
        class_names: one per class; numbers if not given.
        ids: `(N,)` int64 stable sample ids, all different; row numbers if not given. Kept on the CPU.
        name, data_name: what to call the model and the data.
        surrogates: other models of the same task by name; transfer attacks are crafted on them. One logit is read as
            two classes here too.
        notes: what the report must say about the data or the model.
        feature_names: names of tabular columns.
        background: `(M, ...)` inputs of the training data, shaped like `inputs`: what an absent feature shows and how
            far features usually spread. The audited inputs serve if not given.
        objective: how the model was trained, as the objective's table of a recipe; empty where unknown.
        class_counts: training samples of each class, one number per class; empty where unknown.
        groups: columns of a table that play as one player, by the group's name; columns in no group play alone.
        output: where the logits are in the answer of a model that returns more: a key or attribute, a position, or a
            function of the answer. A part called `logits` and a single tensor are found without it.
        texts: what the tokens of each text are, one per row of `inputs`.
        records: files of the training that made the model, by kind: its `recipe`, and what it recorded, such as
            `feature-diversity`.
        number: what the model's one number is, such as "cosine similarity", for a model that measures and does not
            tell classes apart; it then has no labels, and `logits` gives the number.

    The field `differentiable` says whether the logits follow the inputs by autograd: attacks need that. The field
    `dense` says whether the model answers for every pixel.

    Raises:
        DataError: no samples, NaN inputs, inputs outside `bounds`, labels that do not fit.
        ModelError: the model raises, returns no finite logits, or answers differently twice.
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
    background: Tensor | None = field(default=None, kw_only=True)
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict, kw_only=True)
    output: Output | None = field(default=None, kw_only=True)
    texts: tuple[Text, ...] = field(default=(), kw_only=True)
    records: Mapping[str, Path] = field(default_factory=dict, kw_only=True)
    number: str = field(default="", kw_only=True)
    objective: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    class_counts: tuple[int, ...] = field(default=(), kw_only=True)
    differentiable: bool = field(default=True, init=False)
    dense: bool = field(default=False, init=False)
    _first: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_kinds(self)
        if self.modality == "text":
            _set(self, bounds=None)  # ids have no order
            _check_texts(self)
        else:
            _check_inputs(self.inputs, self.bounds, self.modality)
        samples = len(self.inputs)
        ids = torch.arange(samples) if self.ids is None else self.ids.cpu()
        _check_ids(ids, samples)
        # Samples rest on the CPU and travel to the model batch by batch, so that no probe mixes devices.
        labels = None if self.labels is None else self.labels.cpu()
        _set(self, inputs=self.inputs.detach().cpu(), labels=labels, ids=ids)
        heard = hear(self.model, self.inputs, ids, self.name, self.output, number=self.number)
        classes = heard.first.shape[1]
        if self.number:
            _check_number(self, classes)
        if self.class_names and len(self.class_names) != classes:
            raise DataError(
                f"{self.data_name} comes with {len(self.class_names)} class names but {self.name} tells {classes} "
                "classes apart; use the data the model was trained for, or the names of its own classes"
            )
        if self.labels is not None:
            _check_form(self, heard.dense)
            check = _check_masks if heard.dense else _check_labels
            check(self.labels, ids, classes)
        if self.class_counts and len(self.class_counts) != classes:
            raise DataError(
                f"class_counts has {len(self.class_counts)} numbers but {self.name} tells {classes} classes apart"
            )
        if self.feature_names and len(self.feature_names) != self.inputs[0].numel():
            raise DataError(
                f"{self.data_name} has {self.inputs[0].numel()} features but {len(self.feature_names)} feature names"
            )
        _check_background(self)
        _check_groups(self)
        surrogates = {}
        for name, surrogate in self.surrogates.items():
            other = hear(surrogate, self.inputs, ids, name)
            if other.dense != heard.dense:
                raise ModelError(f"surrogate {name} and {self.name} do not both answer for every pixel; leave it out")
            if other.first.shape[1] != classes:
                raise ModelError(
                    f"surrogate {name} tells {other.first.shape[1]} classes apart but {self.name} {classes}"
                )
            surrogates[name] = other.model
        _set(
            self,
            model=heard.model,
            output=None,  # done: the wrapped model answers with logits alone
            notes=(*self.notes, *heard.notes),
            surrogates=surrogates,
            class_names=tuple(self.class_names) or ((self.number,) if self.number else tuple(map(str, range(classes)))),
            background=None if self.background is None else self.background.detach().cpu(),
            groups={name: tuple(columns) for name, columns in self.groups.items()},
            dense=heard.dense,
            differentiable=self.inputs.is_floating_point() and differentiable(heard.model, self.inputs[:1]),
            _first=heard.first[:2].clone() if heard.dense else heard.first,
        )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def n_classes(self) -> int:
        """Number of classes the model tells apart."""
        return len(self.class_names)

    @property
    def usual(self) -> Tensor:
        """Inputs `(M, ...)` that say what is usual for a feature: the background, else the audited inputs."""
        return self.inputs if self.background is None else self.background

    @property
    def device(self) -> torch.device:
        """The model's device; inputs may lie elsewhere."""
        return device_of(self.model)

    def take(self, rows: Tensor) -> Subject:
        """Return the subject on some of its samples; `rows` are row numbers, at least one. Nothing is run again."""
        if len(rows) == 0:
            raise DataError("a subject needs at least one sample, got none")
        part = copy.copy(self)
        labels = None if self.labels is None else self.labels[rows.to(self.labels.device)]
        texts = tuple(self.texts[row] for row in rows.tolist()) if self.texts else ()
        inputs = self.inputs[rows.to(self.inputs.device)]
        return _set(part, inputs=inputs, labels=labels, ids=self.ids[rows.cpu()], texts=texts)

    def logits(self, *, batch_size: int = 256) -> Tensor:
        """Return the logits of all samples, `(N, K)` on the CPU: float64 if the model answers so, else float32.

        Of a model that answers for every pixel they are `(N, K, H, W)`, in smaller batches.

        Raises:
            ModelError: the model raises, or its logits are not finite; names the sample's id.
            DataError: the logits of all pixels would not fit in memory; `logit_batches` gives them part by part.
        """
        if self.dense and (size := len(self) * self._each) > _MOST_LOGITS:
            raise DataError(
                f"the logits of all pixels of {len(self)} samples take {size / 2**30:.1f} GiB; go through "
                "subject.logit_batches(), or take fewer samples"
            )
        return torch.cat([logits for _, logits in self.logit_batches(batch_size=batch_size)])

    def logit_batches(self, *, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the logits of all samples part by part: row numbers `(b,)` and their logits, on the CPU.

        Args:
            batch_size: samples at once, at most; of a model that answers for every pixel as few as keep a batch's
                logits below 64 MiB.

        Raises:
            ModelError: see `logits`.

        Example:
            >>> model = nn.Conv2d(1, 3, 1)
            >>> subject = Subject(model, torch.rand(5, 1, 4, 4))
            >>> [(rows.tolist(), tuple(z.shape)) for rows, z in subject.logit_batches(batch_size=3)]
            [([0, 1, 2], (3, 3, 4, 4)), ([3, 4], (2, 3, 4, 4))]
        """
        most = max(1, min(batch_size, _BATCH_LOGITS // self._each)) if self.dense else batch_size
        for rows in torch.split(torch.arange(len(self)), most):
            # Borrowed for one batch at a time: the caller's code runs between them.
            with evaluating(self.model), torch.no_grad():
                z = answers(self.model, self.inputs[rows], self.ids[rows], self.name)
            yield rows, (z if z.dtype == torch.float64 else z.float()).cpu()

    @property
    def _each(self) -> int:
        """Bytes of one sample's logits."""
        return self._first[0].numel() * self._first.element_size()

    def digest(self) -> dict[str, str]:
        """Return SHA-256 digests of the model's tensors and of the data, to tell audits of the same things.

        A model without tensors, such as a scikit-learn estimator, is known by its answers on the first samples.
        """
        model, data = hashlib.sha256(), hashlib.sha256()
        state = {name: value for name, value in self.model.state_dict().items() if isinstance(value, Tensor)}
        for name, tensor in (state or {"first answers": self._first}).items():
            model.update(name.encode())
            _feed(model, tensor)
        for part in (self.inputs, self.ids, self.labels, self.background):
            if part is not None:
                _feed(data, part)
        if self.groups:
            data.update(repr(sorted(self.groups.items())).encode())
        return {"model": model.hexdigest(), "data": data.hexdigest()}


_MOST_LOGITS = 4 * 2**30
"""Bytes of logits that are kept at once."""

_BATCH_LOGITS = 64 * 2**20
"""Bytes of one batch's logits where every pixel has some."""


def _set(subject: Subject, **values: object) -> Subject:
    """Set fields of a subject that is still being made."""
    for name, value in values.items():
        object.__setattr__(subject, name, value)
    return subject


def _feed(digest: hashlib._Hash, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    if tensor.numel():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


# -- data ---------------------------------------------------------------------------------------------------------


def _check_kinds(subject: Subject) -> None:
    for name in ("inputs", "labels", "ids"):
        value: object = getattr(subject, name)
        if not isinstance(value, Tensor) and (value is not None or name == "inputs"):
            raise DataError(f"{name} must be a torch.Tensor, got {type(value).__name__}; torch.as_tensor makes one")
    if subject.modality not in get_args(Modality):
        raise DataError(f"modality must be one of {', '.join(get_args(Modality))}, got {subject.modality!r}")


def _check_texts(subject: Subject) -> None:
    inputs, texts = subject.inputs, subject.texts
    if inputs.ndim != 2 or inputs.numel() == 0:
        raise DataError(f"texts must be token ids of shape (N, length), got {tuple(inputs.shape)}")
    if inputs.dtype != torch.int64 or int(inputs.min()) < 0:
        raise DataError(f"token ids must be int64 numbers from 0 on, got {inputs.dtype}; tokenize the texts first")
    if len(texts) != len(inputs):
        raise DataError(
            f"there are {len(inputs)} rows of token ids but {len(texts)} texts; pellucid.subject makes both"
        )
    for row, text in enumerate(texts):
        if len(text) != inputs.shape[1]:
            raise DataError(f"text {row} has {len(text)} tokens but the inputs {inputs.shape[1]}; fill up with padding")


def _check_number(subject: Subject, columns: int) -> None:
    if columns != 1:
        raise ModelError(f"{subject.name} answers with {columns} numbers, not with one {subject.number}")
    if subject.labels is not None:
        raise DataError(f"{subject.name} measures {subject.number} and tells no classes apart; leave the labels out")


def _check_inputs(inputs: Tensor, bounds: tuple[float, float] | None, modality: Modality) -> None:
    shape = tuple(inputs.shape)
    if inputs.ndim < 2 or inputs.numel() == 0:
        raise DataError(f"inputs must be a batch of at least one sample, got shape {shape}")
    if modality == "image" and inputs.ndim != 4:
        raise DataError(f"images must have shape (N, C, H, W), got {shape}")
    if modality == "tabular" and inputs.ndim != 2:
        raise DataError(f"tabular inputs must have shape (N, features), got {shape}")
    if modality == "graph" and (inputs.ndim != 3 or shape[2] <= shape[1]):
        raise DataError(
            "graphs must have shape (N, nodes, nodes + features), adjacency and node features side by side, "
            f"got {shape}"
        )
    if not inputs.is_floating_point():
        raise DataError(f"inputs must be floating point, got {inputs.dtype}; divide 0-255 images by 255")
    low, high = (float(end) for end in inputs.detach().aminmax())  # NaN if any input is NaN: one pass finds all
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = (~inputs.isfinite()).flatten(1).any(1).nonzero()
        raise DataError(f"input {int(bad[0])} holds NaN or infinity; remove or repair the sample")
    if bounds is None:
        return
    if not (math.isfinite(bounds[0]) and math.isfinite(bounds[1]) and bounds[0] < bounds[1]):
        raise DataError(f"bounds must be two finite numbers, the lower first, got {bounds}")
    slack = 1e-6 * (bounds[1] - bounds[0])
    if low < bounds[0] - slack or high > bounds[1] + slack:
        hint = "divide 0-255 images by 255" if high > 2 and low >= 0 else "undo the normalization or give `bounds`"
        raise DataError(f"inputs lie in [{low:g}, {high:g}] but the bounds are [{bounds[0]:g}, {bounds[1]:g}]; {hint}")


def _check_background(subject: Subject) -> None:
    background = subject.background
    if background is None:
        return
    if background.shape[1:] != subject.inputs.shape[1:] or not len(background):
        raise DataError(
            f"background must be at least one input of shape {tuple(subject.inputs.shape[1:])}, "
            f"got {tuple(background.shape)}"
        )
    if not background.is_floating_point() or not bool(background.isfinite().all()):
        raise DataError("background must be finite floating point inputs, as the model reads them")


def _check_groups(subject: Subject) -> None:
    if not subject.groups:
        return
    if subject.inputs.ndim != 2:
        raise DataError(f"groups name columns of a table, but the inputs have shape {tuple(subject.inputs.shape)}")
    owner: dict[int, str] = {}
    for name, columns in subject.groups.items():
        if not columns:
            raise DataError(f"group {name} is empty; name at least one column")
        for column in columns:
            if not 0 <= column < subject.inputs.shape[1]:
                raise DataError(f"group {name} names column {column}; columns are 0 to {subject.inputs.shape[1] - 1}")
            if column in owner:
                raise DataError(f"column {column} is in the groups {owner[column]} and {name}; give it to one")
            owner[column] = name


def _check_ids(ids: Tensor, samples: int) -> None:
    if ids.dtype != torch.int64 or ids.shape != (samples,):
        raise DataError(f"ids must be int64 of shape ({samples},), got {ids.dtype} of shape {tuple(ids.shape)}")
    if len(torch.unique(ids)) < samples:
        raise DataError("ids must all be different; two samples share one")


def _check_form(subject: Subject, dense: bool) -> None:
    """Refuse one label per image for a model that answers for every pixel, and the other way round."""
    labels, size = subject.labels, subject.inputs.shape[2:]
    if labels is None or (dense and labels.ndim == 3 and labels.shape[1:] == size):
        return
    if dense and labels.ndim == 3:
        raise DataError(
            f"{subject.data_name} has masks of {labels.shape[1]} x {labels.shape[2]} pixels for images of "
            f"{size[0]} x {size[1]}; bring them to one size (masks without interpolation)"
        )
    if dense:
        raise DataError(
            f"{subject.name} answers for every pixel but {subject.data_name} has labels of shape "
            f"{tuple(labels.shape)}; give masks, one class per pixel, int64 of shape (N, H, W)"
        )
    if labels.ndim == 3:
        raise DataError(
            f"{subject.data_name} has a label for every pixel but {subject.name} gives each image one answer; use a "
            "model that returns logits (B, K, H, W)"
        )


def _check_masks(masks: Tensor, ids: Tensor, classes: int) -> None:
    if masks.dtype != torch.int64 or len(masks) != len(ids):
        raise DataError(f"masks must be int64 of shape ({len(ids)}, H, W), got {masks.dtype} {tuple(masks.shape)}")
    known = masks != IGNORED
    if not bool(known.any()):
        raise DataError(f"no pixel has a label: all masks hold {IGNORED} only; give masks with classes")
    low, high = (int(end) for end in masks[known].aminmax())
    if low < 0 or high >= classes:
        row, top, left = (known & ((masks < 0) | (masks >= classes))).nonzero()[0].tolist()
        found = int(masks[row, top, left])
        hint = f"where 255 stands for no label, write {IGNORED}" if found == 255 else "use the data it was trained for"
        raise DataError(
            f"the mask of sample {int(ids[row])} has class {found} at row {top}, column {left}, but the model knows "
            f"classes 0 to {classes - 1}, and {IGNORED} for no label; {hint}"
        )
    if low == high:
        raise DataError(f"all labelled pixels have class {low}; an audit compares at least two classes")


def _check_labels(labels: Tensor, ids: Tensor, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.shape != ids.shape:
        raise DataError(
            f"labels must be int64 of shape ({len(ids)},), got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    outside = ((labels < 0) | (labels >= classes)).nonzero()
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"sample {int(ids[row])} has label {int(labels[row])} but the model knows classes 0 to {classes - 1}; "
            "use the data the model was trained for"
        )
    if len(labels) > 1 and bool((labels == labels[0]).all()):
        raise DataError(
            f"all {len(labels)} samples have label {int(labels[0])}; an audit compares at least two classes"
        )
