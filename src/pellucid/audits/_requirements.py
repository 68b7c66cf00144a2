"""What a check demands: one measure, one comparison, one number; on the command line, in Python and in a TOML file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from pellucid.core import RequirementError, nearest, path_kind, read_toml

Comparison = Literal[">=", ">", "<=", "<"]

NORMS = ("l2", "linf")
ATTACKS = ("linf", "l2", "flow", "rt", "spatial", "ensemble")
"""What the probe of robustness attacks by; those after the norms have one budget and no radius."""

_WHOLE = (*ATTACKS[2:], "worst")

GRAMMAR = "write MEASURE >= NUMBER, with >=, >, <= or <, such as `robust_accuracy[linf,0.1] >= 0.6`"

# The last comparison counts, so that names of classes may hold such signs too.
_RULE = re.compile(r"(?P<measure>.+)(?<![<>=!])(?P<comparison>>=|<=|>|<)(?P<number>[^<>=]*)", re.DOTALL)
_NUMBER = re.compile(r"(?P<digits>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(?P<percent>%?)", re.ASCII)
_NAME = re.compile(r"(?P<base>[^\[\]\s]+)(?:\[(?P<detail>.*)\])?", re.DOTALL)
_RADIUS = re.compile(r"(?P<norm>[^,]*),(?P<top>[^,/]+)(?:/(?P<bottom>[^,/]+))?")


class Known(NamedTuple):
    """Where a measure comes from: its probe, what its brackets hold, and whether it is a share."""

    probe: str
    detail: str
    share: bool


MEASURES: Mapping[str, Known] = MappingProxyType(
    {
        "accuracy": Known("accuracy", "class, optional", True),
        "accuracy_head": Known("collapse", "", True),
        "accuracy_medium": Known("collapse", "", True),
        "accuracy_tail": Known("collapse", "", True),
        "ascent_certified": Known("implicit", "layer", True),
        "atom_effect": Known("concept-maps", "layer", True),
        "atom_steadiness": Known("concept-maps", "layer", True),
        "atoms_matched": Known("concept-maps", "layer", False),
        "atoms_needed": Known("concept-maps", "layer", False),
        "atoms_unused": Known("concept-maps", "layer", True),
        "attack_concentration": Known("attack-attribution", "norm", True),
        "attack_cost": Known("attack-attribution", "norm", False),
        "attack_foreground": Known("attack-attribution", "", True),
        "attack_lowers_true": Known("attack-attribution", "", True),
        "attack_saving": Known("attack-attribution", "norm", True),
        "attacked_sample_accuracy": Known("robustness", "norm", True),
        "attribution_likeness": Known("attack-attribution", "", False),
        "backward_evaluations": Known("implicit", "layer,way", False),
        "backward_memory": Known("implicit", "layer,way", False),
        "border_errors": Known("segmentation", "", True),
        "bottleneck_depth": Known("bottleneck", "", False),
        "brier": Known("calibration", "", False),
        "cdnv": Known("collapse", "", False),
        "cell_norm": Known("implicit", "layer", False),
        "certainty": Known("knowledge-points", "", False),
        "certainty_pca": Known("knowledge-points", "", False),
        "closest_classes": Known("collapse", "means or classifier", False),
        "concept_auc": Known("concept-maps", "layer", False),
        "concept_iou": Known("concept-maps", "layer", True),
        "corrected": Known("attack-orders", "what was done to the pixels", True),
        "corruption_accuracy": Known("corruptions", "corruption, optional", True),
        "corruption_change": Known("corruptions", "", True),
        "corruption_clean_accuracy": Known("corruptions", "", True),
        "corruption_kept": Known("corruptions", "", True),
        "dead_fraction": Known("feature-diversity", "", True),
        "decomposition_effect": Known("concept-maps", "layer", True),
        "decomposition_progress": Known("concept-maps", "layer", True),
        "decomposition_rank": Known("concept-maps", "layer", False),
        "decomposition_residual": Known("concept-maps", "layer", True),
        "detector_auroc": Known("attack-orders", "", False),
        "disentanglement": Known("attack-orders", "normal or attacked", False),
        "ece": Known("calibration", "", True),
        "effective_players": Known("bottleneck", "", False),
        "explained_variance": Known("concepts", "", True),
        "flat_steps": Known("feature-diversity", "", False),
        "gradient_cosine": Known("implicit", "layer,way", False),
        "gradient_ratio": Known("implicit", "layer,way", False),
        "high_order_change": Known("attack-orders", "", True),
        "high_order_drop": Known("attack-orders", "", True),
        "high_pass_accuracy": Known("reliance", "share of the Nyquist frequency", True),
        "image_iou": Known("segmentation", "", True),
        "interaction_gain": Known("bottleneck", "", False),
        "interaction_strength": Known("bottleneck", "order", False),
        "iou": Known("segmentation", "class", True),
        "knowledge_points": Known("knowledge-points", "number of the layer", False),
        "last_class_gap": Known("feature-diversity", "", False),
        "last_similarity": Known("feature-diversity", "", False),
        "log_loss": Known("calibration", "", False),
        "low_order_drop": Known("attack-orders", "", True),
        "low_pass_accuracy": Known("reliance", "share of the Nyquist frequency", True),
        "majority_floor": Known("accuracy", "", True),
        "mean_iou": Known("segmentation", "", True),
        "mean_iou_floor": Known("segmentation", "", True),
        "mean_order": Known("bottleneck", "", False),
        "middle_order_drop": Known("attack-orders", "", True),
        "minority_collapse": Known("collapse", "means or classifier", False),
        "nc1": Known("collapse", "", False),
        "nc2_angles": Known("collapse", "means or classifier", False),
        "nc2_norms": Known("collapse", "means or classifier", False),
        "nc2_widest": Known("collapse", "means or classifier", False),
        "nc3": Known("collapse", "", False),
        "nc3_alignment": Known("collapse", "", False),
        "nc4": Known("collapse", "", True),
        "new_knowledge": Known("knowledge-points", "", True),
        "overconfidence": Known("calibration", "", True),
        "pattern_size": Known("concepts", "", False),
        "patterns_needed": Known("concepts", "", False),
        "peak_dominance": Known("feature-diversity", "", False),
        "peak_self_enhancement": Known("feature-diversity", "", False),
        "peak_similarity": Known("feature-diversity", "", False),
        "perturbation_likeness": Known("attack-attribution", "", False),
        "pixel_accuracy": Known("segmentation", "", True),
        "recovered": Known("attack-orders", "", True),
        "region_stretch": Known("knowledge-points", "number of the layer", False),
        "region_turn": Known("knowledge-points", "number of the layer", False),
        "reliable_points": Known("knowledge-points", "number of the layer", False),
        "reliable_share": Known("knowledge-points", "number of the layer", True),
        "reliance_clean_accuracy": Known("reliance", "", True),
        "robust_accuracy": Known("robustness", "norm,radius", True),
        "score_drop": Known("attack-orders", "", False),
        "settled": Known("implicit", "layer", True),
        "shape_reliance": Known("reliance", "", True),
        "shared_directions": Known("collapse", "", False),
        "shuffled_accuracy": Known("reliance", "patches", True),
        "similarity": Known("feature-diversity", "layer", False),
        "similarity_rise": Known("feature-diversity", "", False),
        "single_order_drop": Known("attack-orders", "", True),
        "smallest_radius": Known("robustness", "norm", False),
        "solver_residual": Known("implicit", "layer", False),
        "solver_steps": Known("implicit", "layer", False),
        "spectral_radius": Known("implicit", "layer", False),
        "spiking_accuracy": Known("spiking", "time steps", True),
        "spiking_dead": Known("spiking", "", True),
        "spiking_gain": Known("spiking", "", False),
        "spiking_gain_bound": Known("spiking", "", False),
        "spiking_operations": Known("spiking", "", False),
        "spiking_operations_ratio": Known("spiking", "", False),
        "spiking_rate": Known("spiking", "", True),
        "spiking_residual": Known("spiking", "", False),
        "spiking_saturated": Known("spiking", "", True),
        "spiking_silent": Known("spiking", "", True),
        "structure_area": Known("bottleneck", "", False),
        "unsettled_answers": Known("implicit", "layer", True),
        "worst_class_accuracy": Known("accuracy", "", True),
        "worst_class_iou": Known("segmentation", "", True),
    }
)
"""The measures that probes of `PROBES` and `MORE` make, by name without brackets."""


@dataclass(frozen=True)
class Requirement:
    """One demand on one measure.

    Args:
        measure: exact name of the measure, such as `robust_accuracy[linf,0.1]`.
        comparison: `>=`, `>`, `<=` or `<`. There is no `==`: a measured number is never exactly another.
        bound: the number; shares lie between 0 and 1 here, whichever way they were written.
        because: why it is demanded, for whoever reads the verdict.
        interval: whether the whole 95% interval must hold, not the measured value alone.
        percent: whether the bound was written with a percent sign.
        radius: of a robust accuracy, as exactly as it was written; None for other measures.

    Example:
        >>> Requirement.parse("robust_accuracy[linf,8/255] >= 60%")
        Requirement('robust_accuracy[linf,0.0313725] >= 60%')
    """

    measure: str
    comparison: Comparison
    bound: float
    because: str = ""
    interval: bool = False
    percent: bool = False
    radius: float | None = None

    @property
    def norm(self) -> str:
        """Norm of a robustness measure; empty for others."""
        base, _, detail = self.measure.partition("[")
        known = MEASURES.get(base)
        return detail.rstrip("]").partition(",")[0] if known is not None and known.detail.startswith("norm") else ""

    @classmethod
    def parse(cls, text: str, *, because: str = "", interval: bool = False, where: str = "") -> Requirement:
        """Read one requirement, such as "accuracy >= 90%".

        Args:
            text: a measure, a comparison and a number. Shares are written 0.6 or 60%.
            because: why it is demanded.
            interval: whether the whole interval must hold.
            where: place of the text, for the error.

        Raises:
            RequirementError: the text is no requirement; says what was read, and how it is written.
        """
        place = f"{where}: " if where else ""
        found = _RULE.fullmatch(text.strip())
        if found is None:
            raise RequirementError(f"{place}{_quoted(text)} is no requirement; {GRAMMAR}")
        number = _NUMBER.fullmatch(found["number"].strip())
        if number is None:
            raise RequirementError(
                f"{place}{_quoted(text)} demands {_quoted(found['number'].strip())}, which is no number; {GRAMMAR}"
            )
        measure, radius = _canonical(found["measure"].strip(), place)
        known = MEASURES.get(measure.partition("[")[0])
        bound, percent = Decimal(number["digits"]), bool(number["percent"])
        if percent and known is not None and not known.share:
            raise RequirementError(
                f"{place}{_quoted(text)} gives a percentage, but {measure} is not a share; write a plain number"
            )
        bound = bound / 100 if percent else bound
        if known is not None and known.share and abs(bound) > 1:
            raise RequirementError(
                f"{place}{_quoted(text)} asks for a share beyond 1; write a share such as 0.6, or 60%"
            )
        return cls(measure, found["comparison"], float(bound), because, interval, percent, radius)  # type: ignore[arg-type]

    def __str__(self) -> str:
        bound = Decimal(repr(self.bound))
        number = f"{(100 * bound).normalize():f}%" if self.percent else f"{bound.normalize():f}"
        return f"{self.measure} {self.comparison} {number}"

    def __repr__(self) -> str:
        return f"Requirement({str(self)!r})"

    @property
    def probe(self) -> str:
        """Name of the probe that makes the measure; empty where none of the house does."""
        known = MEASURES.get(self.measure.partition("[")[0])
        return "" if known is None else known.probe

    def meets(self, value: float, bound: float | None = None) -> bool:
        """Whether a number meets the demand.

        Args:
            value: the number, in the unit of `bound`.
            bound: the demanded number in another unit, such as percent; that of the requirement if not given.
        """
        bound = self.bound if bound is None else bound
        if self.comparison == ">=":
            return value >= bound
        if self.comparison == ">":
            return value > bound
        return value <= bound if self.comparison == "<=" else value < bound


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a check that its file may fix; None leaves the choice to the caller.

    Args:
        budget: model evaluations.
        samples: how many samples the command line draws.
        seed: root of all chance.
        quick: fewer samples and contexts, wider intervals.
        confident: demand every requirement of the whole interval.
        probes: questions to ask beside those that the requirements need.
    """

    budget: Annotated[int, msgspec.Meta(ge=1)] | None = None
    samples: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: int | None = None
    quick: bool | None = None
    confident: bool | None = None
    probes: tuple[str, ...] = ()


class _Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rule: str
    because: str = ""
    interval: bool = False


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    require: tuple[_Rule, ...]
    settings: Settings = Settings()


@dataclass(frozen=True)
class Requirements:
    """What a requirements file holds: the demands and, if it gives any, settings of the check."""

    demands: tuple[Requirement, ...]
    settings: Settings = field(default_factory=Settings)

    @classmethod
    def load(cls, path: str | Path) -> Requirements:
        """Read a TOML file of `[[require]]` tables with `rule`, `because` and `interval`, and a table `[settings]`.

        Raises:
            RequirementError: no such file, an unknown key, or a rule that is none.
            DataError: the file is no TOML, or too large.
        """
        path = Path(path)
        if path_kind(path) != "file":
            raise RequirementError(f"there is no requirements file {path}")
        raw = read_toml(path)
        _check_keys(raw, path)
        try:
            file = msgspec.convert(raw, _File)
        except msgspec.ValidationError as error:
            raise RequirementError(f"{path}: {_worded(str(error))}") from None
        if not file.require:
            raise RequirementError(f"{path} requires nothing; add a [[require]] table with a rule")
        demands = tuple(
            Requirement.parse(
                entry.rule, because=entry.because, interval=entry.interval, where=f"{path}, requirement {number}"
            )
            for number, entry in enumerate(file.require, start=1)
        )
        return cls(demands, file.settings)


def check_known(demands: Iterable[Requirement], *, also: Iterable[str] = ()) -> None:
    """Refuse measures that no probe makes, naming the nearest one.

    Args:
        demands: what is required.
        also: exact names of further measures, such as those of a finished report.

    Raises:
        RequirementError: names the first unknown measure.
    """
    also = set(also)
    for demand in demands:
        if demand.measure in also:
            continue
        base, bracket, _ = demand.measure.partition("[")
        known = MEASURES.get(base)
        if known is None:
            names = [*MEASURES, *also]
            hint = nearest(demand.measure, names) or nearest(base, names)
            raise RequirementError(
                f"{demand} names a measure that no probe makes; {hint}the measures are {', '.join(sorted(MEASURES))}"
            )
        needed = bool(known.detail) and "optional" not in known.detail
        if bracket and not known.detail:
            raise RequirementError(f"{demand}: {base} takes no brackets; write {base}")
        allowed = (*NORMS, *_WHOLE) if known.probe == "robustness" else NORMS
        if demand.norm and demand.norm not in allowed:
            raise RequirementError(
                f"{demand} names the norm {demand.norm!r}; a robustness probe knows the norms l2 and linf"
            )
        if needed and not bracket:
            raise RequirementError(f"{demand}: {base} is one number per {known.detail}; write {base}[{known.detail}]")


def _canonical(name: str, place: str) -> tuple[str, float | None]:
    """Return a measure's exact name and, for a robust accuracy, the radius; `8/255` and `1e-1` name radii too."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise RequirementError(f"{place}{_quoted(name)} is no measure's name; {GRAMMAR}")
    if parts["base"] != "robust_accuracy" or parts["detail"] is None or parts["detail"].strip() in _WHOLE:
        return name, None
    found = _RADIUS.fullmatch(parts["detail"])
    try:
        if found is None:
            raise ValueError
        radius = float(Decimal(found["top"].strip()) / Decimal((found["bottom"] or "1").strip()))
    except (ArithmeticError, ValueError):
        raise RequirementError(
            f"{place}{_quoted(name)} must name a norm and a radius, such as robust_accuracy[linf,0.1], or one of "
            f"{', '.join(_WHOLE)}"
        ) from None
    norm = found["norm"].strip()
    if norm not in NORMS:
        raise RequirementError(
            f"{place}{_quoted(name)} names the norm {_quoted(norm)}; {nearest(norm, NORMS)}known are l2 and linf"
        )
    if not 0 < radius < float("inf"):
        raise RequirementError(f"{place}{_quoted(name)} names a radius that is not above 0")
    return f"robust_accuracy[{norm},{radius:g}]", radius


def _quoted(text: str) -> str:
    """Return what was read, in quotes and on one line, however long it is."""
    return repr(text if len(text) <= 120 else text[:117] + "...")


def _check_keys(raw: Mapping[str, Any], path: Path) -> None:
    """Refuse unknown keys, naming the nearest valid one; values are left to msgspec."""

    def known(table: object, names: tuple[str, ...], where: str) -> None:
        for key in table if isinstance(table, dict) else ():
            if key not in names:
                raise RequirementError(
                    f"{path} has an unknown key {key!r} {where}; {nearest(key, names)}known are {', '.join(names)}"
                )

    known(raw, _File.__struct_fields__, "at the top")
    known(raw.get("settings"), Settings.__struct_fields__, "in [settings]")
    rules = raw.get("require", ())
    for number, rule in enumerate(rules if isinstance(rules, list) else (), start=1):
        known(rule, _Rule.__struct_fields__, f"in requirement {number}")


def _worded(message: str) -> str:
    """Turn "Expected `str`, got `int` - at `$.require[0].rule`" into a sentence that begins with the key."""
    reason, _, place = message.partition(" - at `$")
    key = re.sub(r"require\[(\d+)\]", lambda found: f"requirement {int(found[1]) + 1}", place.strip("`."))
    reason = (reason[0].lower() + reason[1:]).replace("`object`", "a table").replace("object missing", "there is no")
    reason = reason.replace("there is no required field", "there is no key")
    if reason == "there is no key `require`":
        return "requires nothing; add a [[require]] table with a rule"
    return f"{key}: {reason}" if key else reason
