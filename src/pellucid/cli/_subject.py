"""What `audit`, `check` and `explain` ask alike: which model, which data, and how to join them."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from pellucid.core import Subject
    from pellucid.models import Loaded

MODEL = """A shipped model (`pellucid models list`), FILE.py:FACTORY, PACKAGE.MODULE:FACTORY, PROGRAM.pt2, timm:NAME,
torchvision:NAME or hf:FOLDER; @WEIGHTS after a factory or a name loads weights. "similarity:FOLDER@SENTENCE" measures
how similar texts are to a sentence."""
DATA = """A data set (`pellucid data list`), a folder with one folder of images or texts per class, a file of arrays or
a table, or a file of texts."""

_MODEL = " ".join(MODEL.split())
_DATA = " ".join(DATA.split())

ModelArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=_MODEL)]
DataArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=_DATA)]


def _flag(text: str) -> Any:
    return tyro.conf.arg(help=text)


@dataclass(frozen=True)
class Reading:
    """How to read the model. What it declares itself needs no option."""

    device: Annotated[str, _flag("Where to compute: cpu, cuda, cuda:1, ...")] = "cpu"
    output: Annotated[
        str, _flag("Key, attribute or position of the logits, for a model that answers with several parts.")
    ] = ""
    classes: Annotated[
        Path | None, _flag("File with the classes' names: one per line, or JSON, a list or {number: name}.")
    ] = None
    input_size: Annotated[
        str, _flag("Image size that the model reads, such as 3x224x224; images are resized to it.")
    ] = ""
    mean: Annotated[str, _flag("Mean per channel that the model wants subtracted, such as 0.485,0.456,0.406.")] = ""
    std: Annotated[str, _flag("Standard deviation per channel to divide by, such as 0.229,0.224,0.225.")] = ""
    trust: Annotated[bool, _flag("Open a model file even if it may run code when opened.")] = False
    surrogate: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        _flag("Another model of the same task, to test whether attacks made on it transfer; may be repeated."),
    ] = ()


@dataclass(frozen=True)
class Drawing:
    """Which samples to draw."""

    samples: Annotated[int, _flag("How many samples to draw, evenly from the classes.")] = 500
    seed: Annotated[int, _flag("Root of all chance: the same seed gives the same result.")] = 0
    split: Annotated[str, _flag("Which part of the data: test or train.")] = "test"
    label: Annotated[str, _flag("Label column of a table in a file; found by its name if not given.")] = ""
    text_column: Annotated[str, _flag("Column of the texts of a table in a file; found by its name if not given.")] = ""
    skip_corrupt: Annotated[bool, _flag("Leave out images that cannot be read instead of stopping.")] = False


ReadingOptions = Annotated[Reading, tyro.conf.arg(name="model"), tyro.conf.OmitArgPrefixes]
DrawingOptions = Annotated[Drawing, tyro.conf.arg(name="data"), tyro.conf.OmitArgPrefixes]


def make_subject(model: str, data: str, reading: Reading, drawing: Drawing) -> Subject:
    """Return the subject that the arguments of a command describe.

    Raises:
        PellucidError: in one sentence, what cannot be read or does not fit.
    """
    from pellucid import subject
    from pellucid.core import DataError

    if drawing.samples < 1:
        raise DataError(f"--samples must be at least 1, got {drawing.samples}")
    output: str | int | None = int(reading.output) if reading.output.isdecimal() else reading.output or None
    made: Subject = subject(
        load_model(model, reading),
        data,
        samples=drawing.samples,
        seed=drawing.seed,
        split=drawing.split,
        output=output,
        surrogates={name: load_model(name, reading) for name in reading.surrogate},
        skip_corrupt=drawing.skip_corrupt,
        label=drawing.label or None,
        text=drawing.text_column or None,
    )
    return made


def load_model(spec: str, reading: Reading) -> Loaded:
    """Return the model with the facts that the options state."""
    from pellucid import models
    from pellucid.core import ModelError

    if spec.endswith(("@", ".py:")):
        if spec.startswith("similarity:"):
            raise ModelError(f"{spec} lacks the sentence to compare with; write {spec}A SENTENCE")
        lacks = "the weights after the @" if spec.endswith("@") else "the factory after the colon"
        way = f"write {spec}weights.safetensors, or leave the @ out" if spec.endswith("@") else f"write {spec}NAME"
        raise ModelError(f"{spec} lacks {lacks}; {way}")
    loaded = models.load(spec, device=reading.device, trust=reading.trust)
    if bool(reading.mean) != bool(reading.std):
        raise ModelError("--mean and --std go together; give both")
    if reading.mean:
        mean, std = (_numbers(text, flag) for text, flag in ((reading.mean, "--mean"), (reading.std, "--std")))
        loaded = replace(loaded, model=models.Normalized(loaded.model, mean, std))
    if reading.input_size:
        loaded = replace(loaded, input_shape=_shape(reading.input_size))
    if reading.classes is not None:
        names = models.read_class_names(reading.classes)
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        said = f"{reading.classes.name} gives the name {twice!r} to more than one class; here they look alike."
        loaded = replace(loaded, class_names=names, notes=(*loaded.notes, *([said] if twice is not None else [])))
    return loaded


def _numbers(text: str, flag: str) -> list[float]:
    from pellucid.core import ModelError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ModelError(f"{flag} must be numbers separated by commas, such as 0.5,0.5,0.5, got {text!r}") from None


def _shape(text: str) -> tuple[int, int, int]:
    from pellucid.core import ModelError

    parts = re.fullmatch(r"(\d+)[x,](\d+)[x,](\d+)", text)
    if parts is None or not all(int(part) for part in parts.groups()):
        raise ModelError(f"--input-size must be channels x height x width, such as 3x224x224, got {text!r}")
    channels, height, width = map(int, parts.groups())
    return channels, height, width


# -- the command, said again --------------------------------------------------------------------------------------


def options_text(reading: Reading, drawing: Drawing) -> list[str]:
    """Return the options that differ from what they are by default, as they are typed."""
    words = []
    for part in (drawing, reading):
        for name, default in vars(type(part)()).items():
            value, flag = getattr(part, name), "--" + name.replace("_", "-")
            if value == default or name == "device":  # the device changes no answer
                continue
            if value is True:
                words.append(flag)
            elif isinstance(value, tuple):
                words += [f"{flag} {shlex.quote(portable(entry))}" for entry in value]
            else:
                words.append(f"{flag} {shlex.quote(portable(str(value)))}")
    return words


def portable(spec: str) -> str:
    """Return a spec without the folders of this machine: an absolute path says nothing to another reader."""
    return "@".join(Path(part).name if Path(part).is_absolute() else part for part in spec.split("@"))


def portable_change(change: str) -> str:
    """Return a changed setting, `probe.field=value`, without the folders of this machine."""
    name, equals, value = change.partition("=")
    return f"{name}{equals}{portable(value)}"


def slug(spec: str) -> str:
    """Return a spec as part of a folder's name: `nets/my.py:make@w.safetensors` gives `my-make`."""
    named = spec.partition("@")[0]
    # The colon of a drive (`C:\\nets\\my.py:make`) is not the one before a factory.
    path, _, factory = named.rpartition(":") if re.search(r"[^:]:[^:\\/]+$", named) else (named, "", "")
    words = [Path(path).stem or "data", factory]
    text = unicodedata.normalize("NFC", "-".join(word for word in words if word))
    return re.sub(r"[^\w.]+", "-", text).strip("-.") or "data"
