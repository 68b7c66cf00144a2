"""The front door: a model and data from wherever they are, joined to a subject."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid import data as sources
from pellucid import models
from pellucid.core import (
    IGNORED,
    DataError,
    Dataset,
    Modality,
    Output,
    Stream,
    Subject,
    Text,
    nearest,
    preserved_randomness,
)
from pellucid.models import Loaded

_BACKGROUND = 1000  # training rows that say what is usual for the columns of a table


def subject(
    model: Any,
    data: Any,
    *,
    samples: int = 500,
    seed: int = 0,
    split: str = "test",
    output: Output | None = None,
    surrogates: Mapping[str, Any] | Sequence[str] = (),
    skip_corrupt: bool = False,
    label: str | None = None,
    text: str | None = None,
) -> Subject:
    """Join a model and data, wherever they come from, to a subject that can be audited.

    Images are resized to what the model declares, texts become ids by the model's own tokenizer, labels are matched by
    the names of the classes where both sides have names, and a table's background comes from its training split. What a
    reader must know stands in the notes.

    Args:
        model: what `models.load` takes, a `torch.nn.Module`, a `models.Loaded`, a fitted scikit-learn estimator, or a
            function of a batch of tensors or arrays.
        data: what `data.load` takes, a `Dataset`, a `DataLoader` or data set of torch that gives pairs of inputs and
            labels, or a pair `(inputs, labels)` of tensors, arrays, tables or texts; labels may be None, or masks
            `(N, H, W)`, a class for every pixel of images. Texts may also come alone, as a list.
        samples: how many samples to draw, evenly from the classes; all if there are fewer.
        seed: which samples are drawn.
        split: "test" or "train", for data that `data.load` finds.
        output: where the logits are in the answer of a model that returns more: a key or attribute, a position, or a
            function of the answer.
        surrogates: other models of the same task, to craft transfer attacks on: names for `models.load`, or models by
            name.
        skip_corrupt: leave out images that cannot be read instead of stopping.
        label: the label column of a table in a file; see `data.load`.
        text: the column of the texts of a table in a file; see `data.load`.

    Raises:
        ModelError: the model cannot be loaded or audited.
        DataError: the data cannot be read, or do not fit the model.

    Example:
        >>> from pellucid import subject
        >>> made = subject("fashion-standard", "fashion-mnist", samples=20)
        >>> len(made), made.n_classes
        (20, 10)
    """
    if samples < 1:
        raise DataError(f"samples must be at least 1, got {samples}")
    loaded = models.load(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else models.adopt(model)
    rng = Stream(seed).child("samples")
    reading = {"split": split, "skip_corrupt": skip_corrupt, "label": label, "text": text}
    found, labelled = _dataset(data, loaded, reading, samples, rng)
    drawn, texts, read = _tokenized(_drawn(found, samples, rng), loaded)
    if loaded.number and labelled:
        labelled, read = False, [*read, f"The labels are left out: the model measures {loaded.number}."]
    matched, said = _matched(drawn, loaded) if labelled else (drawn, [])
    network, scaled = _scaled(loaded, drawn)
    names = surrogates if isinstance(surrogates, Mapping) else {name: models.load(name) for name in surrogates}
    background = drawn.background
    if background is None and drawn.modality == "tabular" and isinstance(data, (str, os.PathLike)) and split != "train":
        background = _background(os.fspath(data), reading, rng.child("background"))
    matched, background, ordered = _ordered(matched, background, loaded)
    kind = _precision(loaded)
    return Subject(
        network,
        matched.inputs if texts else sources.unit(matched.inputs).to(kind),
        matched.labels if labelled else None,
        bounds=matched.bounds,
        modality=matched.modality,
        class_names=() if loaded.number else matched.class_names if labelled else loaded.class_names,
        ids=matched.ids,
        name=loaded.name,
        data_name=matched.name,
        surrogates={name: models.adopt(other).model for name, other in names.items()},
        notes=(*([matched.note] if matched.note else []), *loaded.notes, *read, *said, *scaled, *ordered),
        feature_names=matched.feature_names,
        background=None if background is None else sources.unit(background).to(kind),
        groups=matched.groups,
        output=output,
        texts=texts,
        records=loaded.records,
        number=loaded.number,
        objective={} if loaded.card is None else loaded.card.objective,
        class_counts=() if loaded.card is None else loaded.card.class_counts,
    )


def _precision(loaded: Loaded) -> torch.dtype:
    """Return the type of float the model wants its inputs in: double if it computes so."""
    kinds = {parameter.dtype for parameter in loaded.model.parameters() if parameter.is_floating_point()}
    return torch.float64 if kinds == {torch.float64} else torch.float32


def _tokenized(dataset: Dataset, loaded: Loaded) -> tuple[Dataset, tuple[Text, ...], list[str]]:
    """Return texts as ids of the model's own tokenizer, what their tokens are, and what to note about them."""
    if dataset.modality != "text":
        if loaded.tokenizer is not None:
            raise DataError(f"{loaded.name} reads texts, but {dataset.name} holds none; give texts (--text-column)")
        return dataset, (), []
    if loaded.tokenizer is None:
        raise DataError(
            f"{dataset.name} holds texts, but {loaded.name} comes without a tokenizer; a factory returns both as "
            "models.Loaded(model, name, tokenizer=...)"
        )
    encoded = loaded.tokenizer(dataset.texts)
    said = []
    if encoded.cut:
        many = "1 text is" if len(encoded.cut) == 1 else f"{len(encoded.cut)} texts are"
        said = [f"{many} longer than the {loaded.tokenizer.length} tokens the model reads; the end is left out."]
    return replace(dataset, inputs=encoded.ids), encoded.texts, said


def _scaled(loaded: Loaded, dataset: Dataset) -> tuple[nn.Module, list[str]]:
    """Return the model as one of images in [0, 1] where it declares another range, and what to note about it."""
    if loaded.bounds in (None, (0.0, 1.0)) or dataset.modality != "image" or dataset.bounds != (0.0, 1.0):
        return loaded.model, []
    low, high = loaded.bounds
    model = models.Normalized(loaded.model, -low / (high - low), 1 / (high - low))
    return model, [f"Images are scaled from [0, 1] to the range [{low:g}, {high:g}] that the model declares."]


def _ordered(dataset: Dataset, background: Tensor | None, loaded: Loaded) -> tuple[Dataset, Tensor | None, list[str]]:
    """Return a table with the columns that an estimator was fitted on, in its order, and what to note about it."""
    names = dataset.feature_names
    wanted = loaded.model.columns if isinstance(loaded.model, models.Estimator) else ()
    if not wanted or not names or names == wanted:
        return dataset, background, []
    if not set(wanted) <= set(names):
        said = f"{loaded.name} was fitted on the columns {_listed(wanted)}; the data's are {_listed(names)}: check "
        return dataset, background, [f"{said}that they come in the same order, or every number is meaningless."]
    place = [names.index(name) for name in wanted]
    groups = {name: tuple(place.index(c) for c in columns if c in place) for name, columns in dataset.groups.items()}
    unused = tuple(name for name in names if name not in wanted)
    said = f"without {_listed(unused)}, which it was not fitted on" if unused else "in the order it was fitted on"
    chosen = replace(
        dataset,
        inputs=dataset.inputs[:, place],
        feature_names=wanted,
        background=None if dataset.background is None else dataset.background[:, place],
        groups={name: columns for name, columns in groups.items() if columns},
    )
    given = None if background is None else background[:, place]
    return chosen, given, [f"{loaded.name} gets the columns by their names, {said}."]


# -- data ---------------------------------------------------------------------------------------------------------


def _dataset(data: Any, loaded: Loaded, reading: dict[str, Any], samples: int, rng: Stream) -> tuple[Dataset, bool]:
    """Return the data and whether they have labels."""
    if isinstance(data, (str, os.PathLike)):
        named = _named(os.fspath(data), loaded, reading, lambda whole: _drawn(whole, samples, rng))
        return named, named.labelled
    if isinstance(data, Dataset):
        return data, data.labelled
    if isinstance(data, list) and data and all(isinstance(one, str) for one in data):
        return _texts(data, None, loaded), False
    if isinstance(data, tuple) and len(data) == 2:
        return _pair(data[0], data[1], loaded), data[1] is not None
    if isinstance(data, torch.utils.data.DataLoader):
        return _streamed(data, loaded, samples, rng), True
    if isinstance(data, torch.utils.data.Dataset):
        return _streamed(torch.utils.data.DataLoader(data, batch_size=64), loaded, samples, rng), True
    raise DataError(
        f"{type(data).__name__} is no data; give a name or path, a Dataset, a DataLoader or a pair (inputs, labels)"
    )


def _named(spec: str, loaded: Loaded, reading: dict[str, Any], choose: Callable[[Dataset], Dataset]) -> Dataset:
    """Return the samples drawn of named data; only they are brought to the size that the model reads."""
    shape = loaded.input_shape
    if shape is None or len(shape) != 3:
        return sources.load(spec, **reading, choose=choose)
    return sources.load(spec, **reading, image_size=(shape[1], shape[2]), channels=shape[0], choose=choose)


def _drawn(whole: Dataset, samples: int, rng: Stream) -> Dataset:
    return sources.sample(whole, min(samples, len(whole)), rng=rng)


def _background(spec: str, reading: dict[str, Any], rng: Stream) -> Tensor | None:
    """Return training rows of a table, or None where there is no training split."""
    try:
        training = sources.load(spec, **{**reading, "split": "train"})
    except DataError:
        return None
    return sources.sample(training, min(_BACKGROUND, len(training)), rng=rng).inputs


def _pair(inputs: Any, labels: Any, loaded: Loaded) -> Dataset:
    """Return a data set of arrays or texts at hand."""
    if not isinstance(inputs, Tensor) and _are_texts(inputs):
        return _texts([str(one) for one in inputs], labels, loaded)
    x = _tensor(inputs, "inputs")
    if x.ndim < 2 or not len(x):
        raise DataError(f"inputs must be a batch of at least one sample, got shape {tuple(x.shape)}")
    none = torch.zeros(len(x), dtype=torch.int64)
    y, names = (none, ()) if labels is None else _masks(labels, x) or _numbered(labels, loaded)
    if len(y) != len(x):
        raise DataError(f"there are {len(x)} inputs but {len(y)} labels")
    modality: Modality = "tabular" if x.ndim == 2 else "image"
    if modality == "image" and x.ndim == 4 and x.shape[1] not in (1, 2, 3, 4) and x.shape[3] in (1, 3, 4):
        raise DataError(f"images must have shape (N, C, H, W), got {tuple(x.shape)}; give inputs.transpose(0, 3, 1, 2)")
    columns = getattr(inputs, "columns", None)
    return Dataset(
        x if x.is_floating_point() or x.dtype == torch.uint8 else x.float(),
        y,
        names,
        "data",
        modality,
        torch.arange(len(x)),
        bounds=None if modality == "tabular" else (0.0, 1.0),
        feature_names=() if columns is None or modality != "tabular" else tuple(map(str, columns)),
    )


def _are_texts(values: Any) -> bool:
    array = np.asarray(values)
    return array.ndim == 1 and len(array) > 0 and all(isinstance(one, str) for one in array)


def _texts(texts: Sequence[str], labels: Any, loaded: Loaded) -> Dataset:
    """Return a data set of texts at hand."""
    none = torch.zeros(len(texts), dtype=torch.int64)
    y, names = (none, ()) if labels is None else _numbered(labels, loaded)
    if len(y) != len(texts):
        raise DataError(f"there are {len(texts)} texts but {len(y)} labels")
    return Dataset(
        torch.zeros(len(texts), 0, dtype=torch.int64),
        y,
        names,
        "texts",
        "text",
        torch.arange(len(texts)),
        bounds=None,
        texts=tuple(texts),
        labelled=labels is not None,
    )


def _tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{what} must be numbers, got {array.dtype}; encode text columns as numbers, as for the model")
    return torch.from_numpy(np.array(array))  # a copy: arrays of tables are often read-only


def _numbered(labels: Any, loaded: Loaded) -> tuple[Tensor, tuple[str, ...]]:
    """Return labels as class numbers, and the classes' names where the labels are names."""
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 1:
        raise DataError(f"labels must be one class per sample, shape (N,), got {values.shape}")
    if values.dtype.kind == "f" and not (values == np.floor(values)).all():
        raise DataError("labels must be classes, got numbers with fractions; an audit asks about classes")
    if values.dtype.kind in "biuf" and not (isinstance(loaded.model, models.Estimator) and loaded.class_names):
        return torch.from_numpy(values.astype(np.int64)), ()
    names, numbers = np.unique(values.astype(str), return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64)), tuple(map(str, names))


def _masks(labels: Any, inputs: Tensor) -> tuple[Tensor, tuple[str, ...]] | None:
    """Return masks, a class for every pixel, without names; None where labels are no masks."""
    given = labels if isinstance(labels, Tensor) else np.asarray(labels)
    if inputs.ndim != 4 or given.ndim not in (3, 4):
        return None
    return sources.masks(given[:, 0] if given.ndim == 4 and given.shape[1] == 1 else given), ()


def _streamed(loader: Iterable[Any], loaded: Loaded, samples: int, rng: Stream) -> Dataset:
    """Read a loader to its end and keep what `data.sample` would draw from all of it, in little memory.

    The draw prefers samples by their turn within their class; more samples only move a turn back, so what is out of the
    first `samples` once never comes back.
    """
    kept: Dataset | None = None
    seen = 0
    # A loader draws from the global generator, and a shuffled one its order: both are the same every time here.
    with preserved_randomness(), rng.child("loader").forked():
        for batch in loader:
            x, y = _batch(batch)
            part = _pair(x, y, loaded)
            if part.class_names:
                raise DataError("a loader must give the classes as numbers, not as names")
            part = replace(part, ids=part.ids + seen, name=type(getattr(loader, "dataset", loader)).__name__)
            seen += len(part)
            kept = part if kept is None else _joined(kept, part)
            if len(kept) > 2 * samples:
                kept = sources.sample(kept, samples, rng=rng)
    if kept is None:
        raise DataError("the loader gives no batch")
    return kept


def _batch(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        for x in ("pixel_values", "image", "images", "inputs", "x"):
            for y in ("labels", "label", "y", "mask", "masks"):
                if x in batch and y in batch:
                    return batch[x], batch[y]
        raise DataError(
            f"batches hold {', '.join(map(str, batch))}; give pairs (inputs, labels), such as by a collate_fn"
        )
    raise DataError(f"batches are {type(batch).__name__}; a loader must give pairs (inputs, labels)")


def _joined(a: Dataset, b: Dataset) -> Dataset:
    if a.inputs.shape[1:] != b.inputs.shape[1:]:
        raise DataError(
            f"batches hold inputs of {tuple(a.inputs.shape[1:])} and {tuple(b.inputs.shape[1:])}; resize in the loader"
        )
    if a.labels.shape[1:] != b.labels.shape[1:]:
        raise DataError("batches hold both labels of images and masks; give one kind of them")
    return replace(
        a,
        inputs=torch.cat([a.inputs, b.inputs]),
        labels=torch.cat([a.labels, b.labels]),
        ids=torch.cat([a.ids, b.ids]),
    )


# -- classes ------------------------------------------------------------------------------------------------------


def _matched(dataset: Dataset, loaded: Loaded) -> tuple[Dataset, list[str]]:
    """Return the data with labels that count the model's classes, and what to note about it."""
    known = loaded.class_names
    names = () if dataset.class_names == _numbers(len(dataset.class_names)) else dataset.class_names
    if not names or names == known:
        return replace(dataset, class_names=known), []
    if not known:
        return dataset, []
    if set(names) <= set(known) and len(set(known)) == len(known):
        place = torch.tensor([known.index(name) for name in names])
        known_pixels = dataset.labels != IGNORED
        labels = place[dataset.labels.where(known_pixels, 0)].where(known_pixels, IGNORED)
        matched = replace(dataset, labels=labels, class_names=known)
        if len(names) < len(known):
            return matched, [f"The data have {len(names)} of the model's {len(known)} classes, matched by name."]
        return matched, ["The data count the classes in another order than the model; they were matched by name."]
    if set(names) <= set(known):
        twice = next(name for name, count in Counter(known).items() if count > 1)
        raise DataError(
            f"{loaded.name} has two classes named {twice!r}, so the labels of {dataset.name} cannot be matched by "
            "name; give each class a name of its own (--classes on the command line)"
        )
    if len(names) != len(known):
        stranger = next(name for name in names if name not in known)
        raise DataError(
            f"{dataset.name} has the class {stranger!r}, which is none of the {len(known)} classes of {loaded.name}; "
            f"{nearest(stranger, known)}use the model's names for the classes"
        )
    return dataset, [
        f"The model's classes are {_listed(known)}; the data's are {_listed(names)}: check that they come in the "
        "same order, or every accuracy is meaningless."
    ]


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])}, ... ({len(names)} in all)"
