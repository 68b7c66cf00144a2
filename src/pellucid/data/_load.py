"""From the text a user types, or a recipe's kind, to a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pellucid.core import DataError, DataMissing, Dataset, nearest, path_kind, sniff

from ._arrays import Arrays
from ._arrow import HuggingFace, Parquet
from ._blue_marble import BlueMarble
from ._brain_slices import BrainSlices
from ._cifar import CIFAR10, CIFARFiles, binary_files
from ._csv import CSV
from ._fashion_mnist import FashionMNIST, load_sample
from ._folder import ImageFolder
from ._idx import IDX, idx_files
from ._images import Fit, check_bytes
from ._mnist import MNIST
from ._movie_snippets import MovieSnippets
from ._movie_snippets import load_sample as load_snippets
from ._movielens import MovieLens
from ._mutag import Mutag
from ._n_mnist import NMNIST, SimulatedNMNIST, holds_recordings
from ._rows import spread
from ._sample import take, unit
from ._scikit_learn import BreastCancer, Digits, Iris, Wine
from ._synthetic import SyntheticGraphs, SyntheticImages, SyntheticScenes, SyntheticTable
from ._texts import TEXT_SUFFIXES, Texts, holds_texts
from ._worm_connectome import WormConnectome

NamedSource = (
    FashionMNIST
    | MNIST
    | CIFAR10
    | BlueMarble
    | BrainSlices
    | MovieSnippets
    | Mutag
    | WormConnectome
    | Digits
    | Iris
    | Wine
    | BreastCancer
    | SimulatedNMNIST
    | SyntheticImages
    | SyntheticScenes
    | SyntheticTable
    | SyntheticGraphs
)
"""Sources that are data sets by themselves, known by their kind."""

FileSource = ImageFolder | Arrays | CSV | Parquet | HuggingFace | IDX | CIFARFiles | NMNIST | Texts
"""Sources that read the user's own files."""

AnySource = NamedSource | FileSource
"""Every kind of source: a recipe's `[data]` table is one of them."""

SOURCES: Mapping[str, type[AnySource]] = MappingProxyType(
    {str(source.__struct_config__.tag): source for source in get_args(AnySource)}
)
"""Sources by kind; a recipe's `[data]` table holds the kind and the source's own settings."""

NAMES: Mapping[str, NamedSource] = MappingProxyType(
    {str(source.__struct_config__.tag): source() for source in get_args(NamedSource)}
)


def load(
    spec: str,
    *,
    split: str = "test",
    skip_corrupt: bool = False,
    limit: int | None = None,
    label: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    text: str | None = None,
    choose: Callable[[Dataset], Dataset] | None = None,
) -> Dataset:
    """Return a data set ready for a model: float inputs, images in [0, 1], texts that a tokenizer turns into ids.

    Args:
        spec: a name ("fashion-mnist" gives the shipped sample of the test split when the full set is absent; the note
            says so), or the path of a folder of class folders, of IDX, CIFAR binary, CSV or Parquet files, of a data
            set of Hugging Face saved to disk, or of a `.npz`, CSV, Parquet or IDX file. Texts are a CSV, JSON lines or
            Parquet file with a column of texts, a `.txt` file with one text per line, or class folders of `.txt` files.
        split: "train" or "test".
        skip_corrupt: leave out images that cannot be read instead of stopping.
        limit: at most so many samples, equally many per class, first ones first.
        label: the label column of a table; if not given the one named label, target or class, else the last.
        image_size: height and width that images are brought to: the shorter side is resized, with antialiasing, and the
            middle cut out.
        channels: 1 makes images gray, 3 makes them color.
        text: the column that holds texts; if not given the one named text, sentence or review, if there is one.
        choose: picks samples before images of a named set are resized: only those must fit in memory.

    Raises:
        DataMissing: a named set is not on this machine.
        MissingExtra: a package that reads this kind of file is not installed.
        DataError: no such name or path, or the data are not as they must be.

    Example:
        >>> load("synthetic-images", limit=8, image_size=(6, 6)).inputs.shape
        torch.Size([8, 1, 6, 6])
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}")
    fit = Fit(image_size, channels)
    settings = {
        "skip_corrupt": skip_corrupt,
        "limit": limit,
        "label": label,
        "image_size": fit.size,
        "channels": channels,
        "text": text,
    }
    source = NAMES.get(spec) or _source(spec, settings)
    if text is not None and not isinstance(source, Texts):
        raise DataError(f"{spec} is no table in a file, so it has no column of texts to choose")
    if label is not None and not hasattr(source, "label"):
        raise DataError(f"{spec} is no table in a file, so it has no label column to choose")
    dataset = _loaded(source, split)
    if limit is not None and len(dataset) > limit:
        dataset = take(dataset, spread(dataset.labels, limit))
    if choose is not None:
        dataset = choose(dataset)
    if not hasattr(source, "image_size"):  # the others have done it while reading
        dataset = fit.dataset(dataset)
    check_bytes(len(dataset), 4 * dataset.inputs[0].numel())
    return replace(dataset, inputs=unit(dataset.inputs))


def _loaded(source: AnySource, split: str) -> Dataset:
    try:
        return source.load(split)
    except DataMissing:
        if split == "test" and isinstance(source, FashionMNIST):
            return load_sample()
        if split == "test" and isinstance(source, MovieSnippets):
            return load_snippets()
        raise


def _source(spec: str, settings: Mapping[str, Any]) -> AnySource:
    """Return the source that reads a file or folder of the user's, with those settings that it has."""
    kind = _kind(Path(spec))
    if kind in _TABLES and (settings["text"] is not None or holds_texts(Path(spec))):
        kind = "texts"
    if kind:
        source: Any = SOURCES[kind]
        built: AnySource = source(path=spec, **{k: v for k, v in settings.items() if k in source.__struct_fields__})
        return built
    if spec == MovieLens.facts.name:
        raise DataError(f"{spec} holds ratings and no classes; read it with pellucid.data.MovieLens().load()")
    hint = nearest(spec, NAMES) or f"the names are {', '.join(NAMES)}"
    raise DataError(f"there is no data set, folder or file {spec!r}; {hint.strip()}")


def _kind(path: Path) -> str:
    """Return the kind of source that reads a path, from what a folder holds and how a file begins; "" if none does."""
    kind = path_kind(path)
    if kind == "folder":
        return _folder_kind(path)
    if path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[path.suffix.lower()]
    if path.suffix.lower() in TEXT_SUFFIXES:
        return "texts"
    if kind is None:
        return ""
    found = sniff(path)
    if found in ("npz", "npy", "zip", "pickle", "torch-zip", "safetensors"):
        return "npz"  # whose reader says what is wrong with the others
    with path.open("rb") as file:
        head = file.read(4)
    if found == "gzip" or "idx" in path.name.lower() or head[:3] == b"\0\0\x08":
        return "idx"
    if head == b"PAR1":
        return "parquet"
    if found == "text":
        return "csv"
    raise DataError(f"{path} is no data file that can be read; see the guide `Bring data` for the formats")


_SUFFIXES = {".npz": "npz", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


_TABLES = ("csv", "parquet")
"""Kinds whose files may hold texts instead of numbers."""


def _folder_kind(path: Path) -> str:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return "hugging-face"
    if any((path / f"{split}.csv").is_file() for split in ("train", "test")):
        return "csv"
    if any(next(path.glob(f"{split}*.parquet"), None) for split in ("train", "test")):
        return "parquet"
    if holds_recordings(path):
        return "n-mnist"
    if idx_files(path):
        return "idx"
    if any(binary_files(path).values()):
        return "cifar-binary"
    return "texts" if holds_texts(path) else "folder"
