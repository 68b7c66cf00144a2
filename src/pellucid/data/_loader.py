"""Samples from a `DataLoader`, or from anything else that gives batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from pellucid.core import DataError, Dataset, Modality

from ._images import check_bytes, joined
from ._masks import masks
from ._sample import unit

INPUT_KEYS = ("inputs", "input", "x", "image", "images", "pixel_values", "img", "features", "data")
LABEL_KEYS = ("labels", "label", "y", "target", "targets", "class", "mask", "masks")


def from_loader(
    loader: Iterable[Any],
    *,
    limit: int | None = 500,
    class_names: Sequence[str] = (),
    name: str = "loader",
    bounds: tuple[float, float] | str | None = "auto",
    modality: Modality | None = None,
) -> Dataset:
    """Return the first samples of a loader as a data set.

    Batches are pairs `(inputs, labels)` or dictionaries. Inputs `(B, D)` are rows of a table, `(B, C, H, W)` are
    images, whose labels may be masks `(B, H, W)`; see `data.masks`. No more batches are asked for than `limit` needs.
    If the loader draws its order at random, the note says so: seed its generator for the same samples each time.

    Args:
        loader: a `torch.utils.data.DataLoader`, or any iterable of batches.
        limit: at most so many samples; None for all.
        class_names: one per class.
        name: what the data set is called.
        bounds: least and greatest legal input value; if not given, (0, 1) for images that lie in it, else None.
        modality: "image" or "tabular", where the shape does not say it.

    Raises:
        DataError: the loader is empty, or a batch is neither a pair nor a dictionary with inputs and labels.

    Example:
        >>> x, y = torch.rand(20, 3), torch.arange(20) % 2
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
        >>> from_loader(loader, limit=10).inputs.shape
        torch.Size([10, 3])
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}")
    inputs, labels = _gathered(loader, limit)
    scaled = "uint8 pixels scaled to [0, 1]" if inputs.dtype == torch.uint8 else ""
    inputs = unit(inputs).float()
    kind = modality or _modality(inputs)
    return Dataset(
        inputs,
        labels,
        class_names=tuple(class_names),
        name=name,
        modality=kind,
        ids=torch.arange(len(labels)),
        bounds=_bounds(inputs, kind) if bounds == "auto" else bounds,  # type: ignore[arg-type]
        note=joined([_first(len(labels), loader), _order(loader), scaled]),
    )


def _gathered(loader: Iterable[Any], limit: int | None) -> tuple[Tensor, Tensor]:
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    count = 0
    for batch in loader:
        x, y = _pair(batch)
        if xs and x.shape[1:] != xs[0].shape[1:]:
            shapes = f"{tuple(xs[0].shape[1:])} and {tuple(x.shape[1:])}"
            raise DataError(f"the loader gives inputs of the shapes {shapes}; bring them to one shape")
        if ys and y.shape[1:] != ys[0].shape[1:]:
            shapes = f"{tuple(ys[0].shape[1:])} and {tuple(y.shape[1:])}"
            raise DataError(f"the loader gives labels of the shapes {shapes}; bring them to one shape")
        xs.append(x if limit is None else x[: limit - count])
        ys.append(y if limit is None else y[: limit - count])
        count += len(ys[-1])
        check_bytes(count, x[:1].nbytes)
        if limit is not None and count >= limit:
            break
    if not count:
        raise DataError("the loader gives no samples")
    return torch.cat(xs), torch.cat(ys)


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of one batch, on the CPU."""
    if isinstance(batch, Mapping):
        x, y = _entry(batch, INPUT_KEYS, "inputs"), _entry(batch, LABEL_KEYS, "labels")
    elif isinstance(batch, list | tuple) and len(batch) >= 2:
        x, y = batch[0], batch[1]
    else:
        kind = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, list | tuple) else type(batch).__name__
        raise DataError(f"the loader gives batches of type {kind}; it must give (inputs, labels), or a dictionary")
    x, y = _tensor(x, "inputs"), _tensor(y, "labels")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if x.ndim == 4 and y.ndim == 4 and y.shape[1] == 1:
        y = y[:, 0]
    if x.ndim == 4 and y.ndim == 3 and len(x) == len(y):
        return x, masks(y, "the loader's masks")
    if y.ndim != 1 or len(x) != len(y) or x.ndim < 2:
        raise DataError(
            f"the loader gives inputs of shape {tuple(x.shape)} and labels of shape {tuple(y.shape)}; inputs are "
            "(B, ...) and labels (B,), one class number each"
        )
    if y.is_floating_point() and not bool((y == y.round()).all()):
        raise DataError("the loader gives labels that are no whole numbers; an audit takes one class number per sample")
    if len(y) and int(y.min()) < 0:
        raise DataError(f"the loader gives the label {int(y.min())}; classes count from 0")
    return x, y.long()


def _entry(batch: Mapping[Any, Any], keys: Sequence[str], what: str) -> Any:
    found = next((key for key in keys if key in batch), None)
    if found is None:
        held = ", ".join(str(key) for key in batch) or "nothing"
        raise DataError(f"the loader gives dictionaries with {held}; {what} are looked for as {', '.join(keys)}")
    return batch[found]


def _tensor(value: Any, what: str) -> Tensor:
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"the loader gives {what} of type {type(value).__name__}; they must be tensors") from None
    return tensor.detach().cpu()


def _modality(inputs: Tensor) -> Modality:
    if inputs.ndim == 2:
        return "tabular"
    if inputs.ndim == 4:
        return "image"
    shape = tuple(inputs.shape[1:])
    raise DataError(f"the loader gives inputs of shape {shape}; images are (C, H, W) and rows of a table (D,)")


def _bounds(inputs: Tensor, modality: Modality) -> tuple[float, float] | None:
    if modality != "image":
        return None
    return (0.0, 1.0) if float(inputs.min()) >= 0 and float(inputs.max()) <= 1 else None


def _first(count: int, loader: Iterable[Any]) -> str:
    whole = getattr(loader, "dataset", None)
    total = len(whole) if isinstance(whole, Sized) else None
    return f"the first {count} of {total:,} samples of a loader" if total and total > count else ""


def _order(loader: Iterable[Any]) -> str:
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return ""
    ordered = isinstance(loader.sampler, SequentialSampler) and type(loader.batch_sampler) in (BatchSampler, type(None))
    return "" if ordered else "the loader draws its order, so other runs may take other samples"
