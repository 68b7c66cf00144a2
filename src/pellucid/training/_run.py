"""A finished training: its folder, its model, and what is made of them."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid.core import (
    Dataset,
    RunError,
    RunFolder,
    Stream,
    Subject,
    Tokenizer,
    read_json,
    read_tensors,
    write_json,
    write_together,
)
from pellucid.data import sample, unit

from ._recipe import Recipe
from ._samples import training_samples
from ._text import TOKENIZER, tokenized

KIND = "train"
RECIPE, LOG, WEIGHTS, CARD, CHECKPOINTS = "recipe.json", "log.jsonl", "model.safetensors", "model.json", "checkpoints"


@dataclass(frozen=True)
class Run:
    """A complete training.

    Args:
        folder: where it lies: `recipe.json`, `log.jsonl`, `model.safetensors`, its card `model.json`, the last
            checkpoint and the manifest.
        recipe: what was trained.
        model: the trained network, in eval mode on the CPU.
        card: the model card, as nested dictionaries.
    """

    folder: RunFolder
    recipe: Recipe
    model: nn.Module
    card: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open the folder of a complete training.

        Raises:
            RunError: there is no training at `path`, or it is not complete.
        """
        folder = RunFolder.open(path, kind=KIND)
        if not (folder.path / CARD).is_file():
            raise RunError(f"the training in {path} is not complete; run `pellucid train` on it again to continue")
        recipe = Recipe.parse(read_json(folder.path / RECIPE))
        model = fresh_model(recipe)
        model.load_state_dict(read_tensors(folder.path / WEIGHTS))
        return cls(folder, recipe, model.eval(), read_json(folder.path / CARD))

    @property
    def figures(self) -> dict[str, float]:
        """The final figures by name, such as `accuracy`, measured on the whole test split."""
        return {figure["name"]: figure["value"] for figure in self.card["figures"]}

    @property
    def records(self) -> dict[str, Path]:
        """The recipe's file, and those of what was recorded on the way, by kind, such as `feature-diversity`."""
        return {"recipe": self.folder.path / RECIPE} | {
            path.stem: path for path in sorted(self.folder.path.glob("*.jsonl")) if path.name != LOG
        }

    @cached_property
    def test_set(self) -> Dataset:
        """The test split of the recipe's data."""
        return self._data("test")

    def _data(self, split: str) -> Dataset:
        # A long tail is what was trained on; a limit only saves time.
        tail = split == "train" and self.recipe.long_tail is not None
        return tokenized(training_samples(self.recipe) if tail else self.recipe.data.load(split), self.tokenizer)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """What makes ids of texts, None where the data are no texts."""
        path = self.folder.path / TOKENIZER
        length = getattr(self.recipe.model, "length", 0)
        return Tokenizer.read(path, length=length) if path.is_file() else None

    @property
    def rng(self) -> Stream:
        """A stream rooted in the recipe's seed, apart from those the training used."""
        return Stream(self.recipe.seed).child("after")

    def subject(self, split: str = "test", n: int | None = None) -> Subject:
        """Return the model with `n` samples of a split, balanced over the classes, ready for an audit.

        Args:
            split: of the recipe's data.
            n: number of samples; all if not given.
        """
        dataset = self.test_set if split == "test" else self._data(split)
        if n is not None:
            dataset = sample(dataset, n, rng=self.rng)
        encoded = None if self.tokenizer is None else self.tokenizer(dataset.texts)
        return Subject(
            self.model,
            unit(dataset.inputs) if encoded is None else encoded.ids,
            dataset.labels,
            bounds=dataset.bounds,
            modality=dataset.modality,
            class_names=dataset.class_names,
            ids=dataset.ids,
            name=self.recipe.name,
            data_name=dataset.name,
            notes=(*((dataset.note,) if dataset.note else ()), *self.card["notes"]),
            feature_names=dataset.feature_names,
            texts=() if encoded is None else encoded.texts,
            objective=self.recipe.to_dict()["objective"],
            records=self.records,
            class_counts=tuple(self.card.get("class_counts", ())),
        )

    def export(self, path: str | Path) -> Path:
        """Write the weights to `path` (`….safetensors`), the model card beside them (`….json`), and any tokenizer."""
        weights = Path(path)
        if weights.suffix != ".safetensors":
            raise RunError(f"weights are exported as a .safetensors file, got {weights}")
        weights.parent.mkdir(parents=True, exist_ok=True)
        inside, card = self.folder.path, weights.with_suffix(".json")
        files = {weights: (inside / WEIGHTS).read_bytes(), card: (inside / CARD).read_bytes()}
        if (inside / TOKENIZER).is_file():
            files[weights.with_suffix(".tokenizer.json")] = (inside / TOKENIZER).read_bytes()
        write_together(files)
        return weights


def fresh_model(recipe: Recipe) -> nn.Module:
    """Return the recipe's network with the weights its seed draws."""
    with Stream(recipe.seed).child("init").forked():
        return recipe.model.build()


def write_card(
    folder: RunFolder,
    recipe: Recipe,
    dataset: Dataset,
    figures: list[dict[str, Any]],
    *,
    device: str,
    seconds: float,
    parameters: int,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the model card of a training whose weights lie in `folder`, with `more` entries, and return it."""
    weights, tokenizer = folder.path / WEIGHTS, folder.path / TOKENIZER
    settings = recipe.to_dict()
    card = {
        "name": recipe.name,
        "architecture": settings["model"],
        "parameters": parameters,
        "task": f"{dataset.modality} {'segmentation' if dataset.dense else 'classification'}, "
        f"{len(dataset.class_names)} classes",
        "class_names": list(dataset.class_names),
        "bounds": None if dataset.bounds is None else list(dataset.bounds),
        "input_shape": list(dataset.inputs.shape[1:]),
        "data": f"{dataset.name}, {len(dataset):,} training samples",
        "license": recipe.license or "not stated",
        "recipe": recipe.name,
        "command": folder.manifest["command"],
        "hardware": hardware(device),
        "date": str(folder.manifest["created"])[:10],
        "seed": recipe.seed,
        "minutes": round(seconds / 60, 2),
        "figures": figures,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "tokenizer_sha256": hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.is_file() else "",
        "objective": settings["objective"],
        "start": folder.manifest.get("start", {}),
        **more,
    }
    write_json(folder.file(CARD), card)
    return card


def hardware(device: str) -> str:
    """Return what a training ran on, in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line for line in info.read_text().splitlines() if line.startswith("model name"))
        name = next(lines, f": {name}").partition(":")[2].strip()
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores"
