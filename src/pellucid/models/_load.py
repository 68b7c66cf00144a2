"""From what a user types to a model: a shipped name, a training, code of the user, or another library's network."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from pellucid.core import (
    DataError,
    ModelError,
    Stream,
    Tokenizer,
    first_line,
    nearest,
    path_kind,
    read_json,
    read_tensors,
    sniff,
    staged,
)
from pellucid.nn.models import build

from ._card import Card
from ._code import from_file, from_module
from ._libraries import PRETRAINED, from_timm, from_torchvision, from_transformers, torchvision_weights
from ._loaded import Loaded
from ._program import from_program
from ._texts import similarity
from ._weights import fill, read_weights

TOKENIZER = ".tokenizer.json"
"""How the tokenizer beside a model's weights ends; in a run folder its name is `tokenizer.json`."""

_WEIGHTS = Path(__file__).parent / "weights"

# A file is told from a module by its ending: drive letters and folders may come before it.
_FILE = re.compile(r"(?P<file>.+\.py):(?P<factory>[^@:]+)(@(?P<weights>.+))?", re.DOTALL)
_MODULE = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<factory>[^\W\d]\w*(\.[^\W\d]\w*)*)(@(?P<weights>.+))?")
_SIMILARITY = re.compile(r"similarity:(?P<where>[^@]+)@(?P<query>.+)", re.DOTALL)
_LIBRARY = re.compile(r"(?P<library>timm|torchvision):(?P<name>[^@]+)(@(?P<weights>.+))?", re.DOTALL)


def load(spec: str, *, device: torch.device | str = "cpu", trust: bool = False) -> Loaded:
    """Load the model that `spec` names. Nothing is downloaded unless `spec` says so, and nothing is ever unpickled.

    | `spec` | is |
    |---|---|
    | `fashion-standard` | a shipped model |
    | a folder, or `weights.safetensors` with its card | what `pellucid train` wrote or exported |
    | `path/to/file.py:factory` | a Python file, which is run |
    | `package.module:factory` | an importable module, which is imported |
    | `program.pt2` | a program of `torch.export.save` with a dynamic batch |
    | `timm:NAME`, `torchvision:NAME` | a network of that library |
    | `hf:FOLDER` | a classifier of images or texts in Hugging Face's layout, with safetensors |
    | `similarity:FOLDER@SENTENCE` | a sentence encoder: how similar is a text to the sentence? |

    A factory is a function or class that is called without arguments and returns a network, a fitted scikit-learn
    estimator, a function of a batch, or a `Loaded`; a ready object serves too. After a factory or a name, `@weights`
    loads safetensors or a state dict (`.pt`, `.pth`, `.bin`); `@pretrained` lets timm or torchvision take the weights
    they publish, from their cache or from the network.

    Args:
        spec: see the table. Name only Python files and modules that you trust: their code runs.
        device: where to put it.
        trust: open a `.pt2` program without looking for code in it first. A program may run code when torch opens it.

    Raises:
        ModelError: in one sentence, what is missing or does not fit.
        MissingExtra: the library is not installed; the text is the install line.

    Example:
        >>> from pellucid import models
        >>> for name in models.SHIPPED:
        ...     model = models.load(name).model
    """
    place = _device(device)
    try:
        if spec in SHIPPED:
            return _load_shipped(spec, place)
        if match := _FILE.fullmatch(spec):
            return _load_code(match, place)
        if match := _LIBRARY.fullmatch(spec):
            return _load_library(match, place)
        if match := _SIMILARITY.fullmatch(spec):
            return similarity(match["where"], match["query"], device=place)
        if spec.startswith("hf:"):
            return _placed(from_transformers(Path(spec.removeprefix("hf:")), place), place)
        if Path(spec).suffix == ".pt2":
            return from_program(Path(spec), place, trust=trust)
        trained = _trained(spec)
        if trained is not None:
            return _load_trained(trained, place)
        if match := _MODULE.fullmatch(spec):
            return _load_code(match, place)
        raise ModelError(_unknown(spec))
    except DataError as error:
        raise ModelError(str(error)) from error


def _load_code(match: re.Match[str], device: torch.device) -> Loaded:
    """Load from a file or a module of the user."""
    parts = match.groupdict()
    path = None if parts["weights"] is None else Path(parts["weights"])
    tensors, notes = ({}, ()) if path is None else read_weights(path)  # before any code of the user runs
    if "file" in parts:
        loaded = from_file(Path(parts["file"]), parts["factory"], device)
    else:
        loaded = from_module(parts["module"], parts["factory"], device)
    if any(tensor.is_meta for tensor in (*loaded.model.parameters(), *loaded.model.buffers())):
        raise ModelError(f"{loaded.name} is on the meta device, which holds no numbers; make it on the CPU")
    if path is None:
        return _placed(loaded, device)
    notes = (*loaded.notes, *notes, *fill(loaded.model, tensors, path))
    return _placed(replace(loaded, name=f"{loaded.name}@{path.name}", notes=notes), device)


def _load_library(match: re.Match[str], device: torch.device) -> Loaded:
    library, name, weights = match["library"], match["name"], match["weights"]
    spec = f"{library}:{name}"
    if weights is None:
        raise ModelError(
            f"{spec} has no trained weights by itself; give {spec}@weights.safetensors, or {spec}@pretrained to let "
            f"{library} take the weights it publishes, which may download them"
        )
    published = weights == PRETRAINED or (library == "torchvision" and weights in torchvision_weights(name))
    tensors, notes = ({}, ()) if published else read_weights(Path(weights))
    loaded, network = (from_timm if library == "timm" else from_torchvision)(name, weights, device)
    if not published:
        notes = (*notes, *fill(network, tensors, Path(weights)))
    label = weights if published else Path(weights).name
    return _placed(replace(loaded, name=f"{loaded.name}@{label}", notes=(*loaded.notes, *notes)), device)


def _placed(loaded: Loaded, device: torch.device) -> Loaded:
    return replace(loaded, model=loaded.model.to(device))


# -- shipped models -----------------------------------------------------------------------------------------------


def _read_cards(folder: Path) -> Mapping[str, Card]:
    """Return the cards of all models in a folder of weights, by name."""
    files = sorted(path for path in folder.glob("*.json") if not path.name.endswith(TOKENIZER))
    cards: list[Card] = [read_json(path, Card) for path in files]
    return MappingProxyType({card.name: card for card in cards})


SHIPPED: Mapping[str, Card] = _read_cards(_WEIGHTS)
"""Cards of the models that ship with Pellucid, by name."""


def _load_shipped(name: str, device: torch.device) -> Loaded:
    card = SHIPPED.get(name)
    if card is None:
        raise ModelError(_unknown(name))
    return _load_carded(card, _WEIGHTS / f"{name}.safetensors", "install Pellucid again", device)


def _trained(spec: str) -> Path | None:
    """Return the weights that `pellucid train` wrote: in a run folder, or exported with the card beside them."""
    path = Path(spec)
    weights = path / "model.safetensors" if path_kind(path) == "folder" else path
    carded = weights.suffix == ".safetensors" and all(map(_is_file, (weights, weights.with_suffix(".json"))))
    return weights if carded else None


def _is_file(path: Path) -> bool:
    return path_kind(path) == "file"


def _load_trained(weights: Path, device: torch.device) -> Loaded:
    place = weights.with_suffix(".json")
    card: Card = read_json(place, Card)
    if _digest(weights) != card.sha256:
        # An export that was stopped between its two files left the new card beside the old one.
        waiting: list[Card] = [read_json(path, Card) for path in staged(place)]
        card = next((other for other in waiting if other.sha256 == _digest(weights)), card)
    return _load_carded(card, weights, "export them again", device)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _load_carded(card: Card, path: Path, remedy: str, device: torch.device) -> Loaded:
    tensors = read_tensors(path)
    if _digest(path) != card.sha256:
        raise ModelError(f"{path} is not the file its card describes (SHA-256 differs); {remedy}")
    settings = {key: value for key, value in card.architecture.items() if key != "kind"}
    with Stream(0).child("models", card.name).forked():
        model = build(str(card.architecture.get("kind")), settings)
    fill(model, tensors, path)
    return Loaded(
        model.to(device),
        card.name,
        card,
        card.bounds,
        card.input_shape,
        card.class_names,
        notes=() if card.name in SHIPPED else card.notes,
        tokenizer=_tokenizer(card, path, settings, remedy),
        records={} if card.name in SHIPPED else _records(path.parent),
    )


def _tokenizer(card: Card, weights: Path, settings: Mapping[str, Any], remedy: str) -> Tokenizer | None:
    """Return the tokenizer beside the weights of a model of texts."""
    if not card.tokenizer_sha256:
        return None
    own = weights.with_suffix(TOKENIZER)
    path = own if _is_file(own) or weights.name != "model.safetensors" else weights.with_name(TOKENIZER[1:])
    tokenizer = Tokenizer.read(path, length=int(settings.get("length", 128)))
    if _digest(path) != card.tokenizer_sha256:
        raise ModelError(f"{path} is not the tokenizer the card describes (SHA-256 differs); {remedy}")
    return tokenizer


def _unknown(spec: str) -> str:
    """Say what is wrong with a spec that names nothing."""
    path = Path(spec)
    if path.suffix == ".py":
        return f"{spec} lacks the factory; write {spec}:NAME, a function without arguments that returns a model"
    if _is_file(path):
        if sniff(path) in ("pickle", "torch-zip"):
            return (
                f"{spec} is a pickle, which can run code when opened, and is refused as a model; give "
                f"file.py:factory@{path.name} if it is a state dict"
            )
        return f"{spec} holds no architecture; give file.py:factory@{path.name}"
    ways = f"give one of {', '.join(SHIPPED)}, or file.py:factory, or a training's folder"
    return f"there is no model {spec!r}; {nearest(spec, SHIPPED)}{ways}"


# -- shared -------------------------------------------------------------------------------------------------------


def _device(name: torch.device | str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a "meta" device can be made but holds no numbers
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        reason = first_line(error).partition(". ")[0]  # torch goes on with a list of all backends
        raise ModelError(f"device {str(name)!r} cannot be used: {reason}") from None
    return device


def _records(folder: Path) -> dict[str, Path]:
    """Return what a training left beside its weights and its log: its recipe, and files of lines of JSON, by kind."""
    recipe = folder / "recipe.json"
    if not recipe.is_file():
        return {}
    return {"recipe": recipe} | {file.stem: file for file in sorted(folder.glob("*.jsonl")) if file.stem != "log"}
