"""Recipes: everything that decides a training, as data that is checked before anything is computed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, inspect

from pellucid.core import DataError, RecipeError, path_kind, read_json, read_setting, read_toml
from pellucid.data import AnySource, Augment, LongTail
from pellucid.nn.models import (
    AlexNetSettings,
    ContextCNNSettings,
    FeedbackSpikingSettings,
    ImplicitConvSettings,
    ImplicitGraphSettings,
    ImplicitTextSettings,
    MDEQSettings,
    MLPSettings,
    ResNet32Settings,
    ResNetSettings,
    SegmenterSettings,
    SmallCNNSettings,
    TextCNNSettings,
)

from ._attack import AttackSettings
from ._optimizers import SGD, Adam, Constant, Cosine, Exponential, OneCycle, Steps
from ._recording import DiversityRecording
from ._weighting import AnyWeighting, FixedWeighting
from .objectives import Adversarial, Attacks, DotRegression, EquilibriumTraining, InteractionOrder, Standard

AnyObjective = Standard | Adversarial | Attacks | DotRegression | EquilibriumTraining | InteractionOrder

OBJECTIVES: Mapping[str, type[AnyObjective]] = MappingProxyType(
    {
        "adversarial": Adversarial,
        "attacks": Attacks,
        "dot-regression": DotRegression,
        "equilibrium": EquilibriumTraining,
        "interaction-order": InteractionOrder,
        "standard": Standard,
    }
)


class FinalTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured on the test split at the end, beside accuracy.

    Args:
        attack: accuracy under this attack is measured too.
        attacks: and under these, by name; one in the space "spatial" is also given what the flows and the turns with
            shifts among them found.
        limit: at most so many test samples, equally many per class; the same ones whatever the seed. All if not given.
        batch_size: samples at once.
    """

    attack: AttackSettings | None = None
    attacks: dict[str, AttackSettings] = {}
    limit: Annotated[int, Meta(ge=1)] | None = None
    batch_size: Annotated[int, Meta(ge=1)] = 500


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training, written down.

    Args:
        name: what the trained model is called.
        epochs: passes over the training split.
        batch_size: samples per step, over all processes together; a last, smaller batch of an epoch is left out.
        model, data, objective, weighting, optimizer, schedule: tables whose `kind` picks from `nn.models.MODELS`,
            `data.SOURCES`, `OBJECTIVES`, `WEIGHTINGS`, `OPTIMIZERS` and `SCHEDULES`; their other keys are its settings.
        limit: at most so many training samples, equally many per class; the same ones whatever the seed.
        long_tail: keep many samples of the first classes and few of the last, of those the limit leaves; the test split
            stays as it is.
        held_out: share of the training samples of each class that is not trained on, for what is fitted afterwards: the
            temperature of a network with `head = "etf"`.
        augment: how training images are mirrored and shifted at random, and samples mixed; not at all if not given.
        start: weights to begin with instead of random ones: a run folder, a `.safetensors` file, or the name of a
            shipped model of the same architecture.
        keep: epochs after which weights stay, as `checkpoints/epoch-00003/model.safetensors` in the run folder, to look
            at afterwards; those after the last epoch always do.
        record: what is recorded on the way, a table whose `kind` picks from `RECORDS`; nothing if not given.
        test: what is measured at the end.
        precision: "bf16" computes the objective under autocast.
        seed: root of all randomness.
        license: of the weights and the data, for the model card.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    epochs: Annotated[int, Meta(ge=1)]
    model: (
        SmallCNNSettings
        | AlexNetSettings
        | FeedbackSpikingSettings
        | ImplicitConvSettings
        | ImplicitGraphSettings
        | ImplicitTextSettings
        | ContextCNNSettings
        | MDEQSettings
        | MLPSettings
        | ResNetSettings
        | ResNet32Settings
        | SegmenterSettings
        | TextCNNSettings
    )
    data: AnySource
    batch_size: Annotated[int, Meta(ge=1)] = 128
    limit: Annotated[int, Meta(ge=1)] | None = None
    long_tail: LongTail | None = None
    held_out: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    augment: Augment = Augment()
    objective: AnyObjective = Standard()
    weighting: AnyWeighting = FixedWeighting()
    optimizer: Adam | SGD = Adam()
    schedule: Constant | Cosine | Exponential | OneCycle | Steps = Constant()
    start: str = ""
    keep: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    record: DiversityRecording | None = None
    test: FinalTest = FinalTest()
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    license: str = ""

    @classmethod
    def load(cls, path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe from a TOML file, from a training's folder, or by the name of one that ships with Pellucid.

        Args:
            path: a file, a folder that `train` wrote, whose recipe is then used again, or a bare name such as
                "fashion-standard".
            overrides: changes such as "objective.attack.eps=0.2"; values as TOML writes them, quotes may be left out.
                Another `kind`, or `mode` of a table without a kind, leaves the table with its own defaults.

        Raises:
            RecipeError: no such recipe, not TOML, an unknown key or kind, or a value out of range.
        """
        file = find_recipe(path)
        try:
            raw = read_json(file, dict[str, Any]) if file.suffix == ".json" else read_toml(file)
        except DataError as error:
            raise RecipeError(str(error)) from None
        return cls.parse(raw, overrides=overrides)

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, overrides: Sequence[str] = ()) -> Recipe:
        """Check a recipe given as nested dictionaries; see `load`."""
        raw = _copied(raw)
        for override in overrides:
            _override(raw, override)
        weighting = raw.get("weighting")
        if isinstance(weighting, dict):
            weighting.setdefault("kind", "fixed")  # recipes from when there was only one kind
        _check_keys(raw, inspect.type_info(cls), "")
        try:
            return msgspec.convert(raw, cls)
        except msgspec.ValidationError as error:
            raise RecipeError(_worded(str(error), raw)) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as nested dictionaries with all defaults written out."""
        built: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return built


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with Pellucid, file by name."""
    here = Path(__file__).resolve()
    # In a wheel the recipes lie inside the package; in a checkout they are the top-level folder.
    folders = (here.parents[1] / "recipes", here.parents[3] / "recipes")
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_recipe(path: str | Path) -> Path:
    """Return the file of a recipe: `path` itself, that of a training's folder, or the shipped recipe of that name.

    Raises:
        RecipeError: there is neither.
    """
    file = Path(path)
    if path_kind(file) == "file":
        return file
    if path_kind(file / "recipe.json") == "file":
        return file / "recipe.json"
    shipped = shipped_recipes()
    if str(path) in shipped:
        return shipped[str(path)]
    near = difflib.get_close_matches(str(path), shipped, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(shipped) or 'none'}"
    raise RecipeError(f"there is no recipe {str(path)!r}, neither as a file nor by name; {hint}")


def _copied(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in raw.items()}


def _override(raw: dict[str, Any], override: str) -> None:
    """Set one `a.b=c` in nested dictionaries."""
    try:
        keys, value = read_setting(override)
    except ValueError as error:
        raise RecipeError(f"{error}; write it like optimizer.lr=0.1") from None
    table = raw
    for depth, key in enumerate(keys[:-1]):
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override}: {'.'.join(keys[: depth + 1])} is a value, not a table")
    names = keys[-1] == "kind" or (keys[-1] == "mode" and "kind" not in table)
    if names and table.get(keys[-1], value) != value:
        table.clear()  # the settings of another kind mean nothing to this one
    table[keys[-1]] = value


def _check_keys(raw: Any, kind: inspect.Type, path: str) -> None:
    """Refuse unknown keys and kinds, naming the nearest valid one; values are left to msgspec."""
    if not isinstance(raw, dict):
        return
    if isinstance(kind, inspect.DictType):
        for key, value in raw.items():
            _check_keys(value, kind.value_type, f"{path}{key}.")
        return
    structs = _structs(kind)
    if not structs:
        return
    chosen = _chosen(raw, structs, path)
    fields = {field.encode_name: field.type for field in chosen.fields}
    for key, value in raw.items():
        if key in fields:
            _check_keys(value, fields[key], f"{path}{key}.")
        elif key != chosen.tag_field:
            inside = _inside(raw, fields, key)
            raise RecipeError(f"there is no key {path}{key}; {inside or _nearest(key, fields)}")


def _structs(kind: inspect.Type) -> list[inspect.StructType]:
    options = [kind] if isinstance(kind, inspect.StructType) else getattr(kind, "types", ())
    return [option for option in options if isinstance(option, inspect.StructType)]


def _inside(raw: dict[str, Any], fields: Mapping[str, inspect.Type], wanted: str) -> str:
    """Return a hint to the first of the given tables that knows the key, such as weighting.rho; empty if none does."""
    for name, value in raw.items():
        structs = _structs(fields[name]) if name in fields else []
        if structs and isinstance(value, dict):
            known = {field.encode_name for field in _chosen(value, structs, f"{name}.").fields}
            if wanted in known:
                return f"did you mean {name}.{wanted}?"
    return ""


def _chosen(raw: dict[str, Any], structs: list[inspect.StructType], path: str) -> inspect.StructType:
    tagged = {str(struct.tag): struct for struct in structs if struct.tag is not None}
    if not tagged:
        return structs[0]
    if "kind" not in raw and len(tagged) == 1:
        return structs[0]
    if "kind" not in raw:
        raise RecipeError(f"{path}kind is missing; the kinds are {', '.join(sorted(tagged))}")
    if raw["kind"] not in tagged:
        raise RecipeError(f"{path}kind is {raw['kind']!r}; {_nearest(str(raw['kind']), tagged)}")
    return tagged[raw["kind"]]


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"


def _worded(message: str, raw: dict[str, Any]) -> str:
    """Turn "Expected `float` > 0.0 - at `$.optimizer.lr`" into a sentence with the key and the value it had."""
    reason, _, place = message.partition(" - at `$")
    # Of a table of named tables msgspec tells no name, only "[...]".
    keys = [key for key in place.rstrip("`").replace("[...]", "").split(".") if key]
    value: Any = raw
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    path = ".".join(keys)
    reason = reason[0].lower() + reason[1:]
    value = None if "[...]" in place else value
    return f"{path} is {value!r}: {reason}" if path and value is not None else f"{path or 'the recipe'}: {reason}"
