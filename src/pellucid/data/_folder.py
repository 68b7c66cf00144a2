"""Images in folders, one folder per class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch

from pellucid.core import DataError, Dataset, read_image

from ._images import Fit, joined, stacked
from ._limits import MAX_PIXELS
from ._rows import spread

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
SPLITS = frozenset({"train", "test", "val", "valid", "validation"})


class ImageFolder(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="folder"
):
    """A folder of class folders with PNG or JPEG images.

    They must be of one size, unless `image_size` gives one. Gray images among color ones are read as color, and the
    note says so.

    The folder may hold the class folders itself, or `train` and `test` that do. Classes are numbered in the order of
    their names. Ids number the images in the order of class and file name.

    Args:
        path: the folder.
        skip_corrupt: leave out images that cannot be read, and say so in the note, instead of stopping.
        limit: read at most so many images, equally many per class, first names first.
        image_size: height and width that images are brought to: shorter side resized, middle cut out.
        channels: 1 makes images gray, 3 makes them color.
    """

    path: str
    skip_corrupt: bool = False
    limit: int | None = None
    image_size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None

    def load(self, split: str) -> Dataset:
        """Return the split with uint8 images `(N, C, H, W)`.

        Raises:
            DataError: no such split, no class folders, one class, a corrupt image, images of several sizes or modes.
        """
        root = Path(self.path)
        folder = split_folder(root, split)
        names = class_folders(root, folder, images_in, "no PNG or JPEG image; remove the folder or add images")
        listed = [(path, k) for k, name in enumerate(names) for path in images_in(folder / name)]
        labels = torch.tensor([label for _, label in listed])
        if len(torch.unique(labels)) < 2:
            raise DataError(f"{folder} has images of one class only; an audit compares at least two classes")
        rows = spread(labels, self.limit)
        kept: list[int] = []
        skipped: list[Path] = []
        images = self._read([listed[row][0] for row in rows.tolist()], kept, skipped)
        stack, done = stacked(images, fit=Fit(self.image_size, self.channels), count=len(rows))
        rows = rows[kept]
        return Dataset(
            stack,
            labels[rows],
            class_names=names,
            name=root.resolve().name,
            modality="image",
            ids=rows,
            note=joined([_note(skipped, folder), done]),
        )

    def _read(self, paths: Sequence[Path], kept: list[int], skipped: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
        """Read the images; `kept` gets which of `paths` they are, `skipped` the paths that could not be read."""
        for row, path in enumerate(paths):
            try:
                image = read_image(path, max_pixels=MAX_PIXELS)
            except DataError:
                if not self.skip_corrupt:
                    raise
                skipped.append(path)
                continue
            kept.append(row)
            yield str(path), image
        if not kept:
            raise DataError(f"none of the {len(paths)} images in {self.path} can be read")


def split_folder(root: Path, split: str) -> Path:
    """Return the folder that holds a split's class folders: one of its own, or the whole."""
    if not root.is_dir():
        raise DataError(f"{root} does not exist" if not root.exists() else f"{root} is no folder")
    splits = {path.name for path in folders(root)}
    if splits and splits <= SPLITS:
        if split not in splits:
            raise DataError(f"{root} has no folder {split!r}; it has {', '.join(sorted(splits))}; name one (--split)")
        return root / split
    if split == "train":
        raise DataError(f"{root} is not divided for training; put its class folders into {root}/train and {root}/test")
    return root


def class_folders(root: Path, folder: Path, held: Callable[[Path], Sequence[Path]], lacks: str) -> tuple[str, ...]:
    """Return the names of the classes: those of the folders in which `held` finds files.

    Raises:
        DataError: there are none, or one is empty; `lacks` says what is missing there.
    """
    # Both splits name the classes, so that a class without test files does not renumber the others.
    homes = folders(root) if folder != root else [root]
    names = sorted({path.name for home in homes for path in folders(home)})
    if not names:
        raise DataError(f"{folder} has no class folders; put the images of each class into a folder of its own")
    empty = [name for name in names if not any((home / name).is_dir() and held(home / name) for home in homes)]
    if empty:
        raise DataError(f"{folder / empty[0]} holds {lacks}")
    return tuple(names)


def folders(path: Path) -> list[Path]:
    """Return the folders in a folder, hidden ones left out."""
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def images_in(folder: Path) -> list[Path]:
    """Return the image files in a folder."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in files if not path.name.startswith("."))


def _note(skipped: Sequence[Path], folder: Path) -> str:
    """Name the skipped images inside their folder: where that lies on this machine does not belong into a report."""
    if not skipped:
        return ""
    what = "1 corrupt image" if len(skipped) == 1 else f"{len(skipped)} corrupt images"
    more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return f"{what} left out: {', '.join(path.relative_to(folder).as_posix() for path in skipped[:3])}{more}"
