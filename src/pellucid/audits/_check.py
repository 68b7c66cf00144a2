"""Hold requirements against an audit: run only the probes they need, and judge each by its measured number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pellucid.core import Measure, Probe, RequirementError, RunFolder, Subject, nearest
from pellucid.reports import Check, Report, Result

from ._audit import audit
from ._events import OnEvent, unwatched
from ._plan import DEFAULT_BUDGET
from ._requirements import ATTACKS, NORMS, Requirement, Requirements, Settings, check_known
from ._settings import with_settings
from ._wording import listed
from .probes import MORE, PROBES, Robustness

SAME_RADIUS = 1e-3
"""Relative difference below which two radii are one: a report's names hold them with a few digits."""

Demand = str | Requirement
T = TypeVar("T")


def check(
    subject: Subject | Report,
    requirements: Demand | Path | Requirements | Sequence[Demand],
    *,
    budget: int | None = None,
    seed: int | None = None,
    quick: bool | None = None,
    confident: bool | None = None,
    probes: Sequence[str] = (),
    settings: Sequence[str] = (),
    on_event: OnEvent = unwatched,
    out: str | Path | None = None,
    command: str = "",
) -> Check:
    """Does the model meet these requirements?

    A requirement is judged by the measured value, which is a pure function of model, data, settings and seed: the same
    check never passes once and fails the next time. The verdict says when the 95% interval reaches beyond the bound;
    `confident` makes the whole interval count. What was not measured is not met.

    Args:
        subject: the model and its samples, or a finished report: then nothing is computed.
        requirements: such as "accuracy >= 90%", one or several; or a requirements file, or what was read from one.
        budget: model evaluations for the whole audit.
        seed: root of all chance.
        quick: fewer samples and contexts, wider intervals.
        confident: demand every requirement of the whole 95% interval.
        probes: questions to ask beside those that the requirements need.
        settings: changed settings of probes, such as "bottleneck.only_correct=true".
        on_event: told what happens, as in `audit`.
        out: folder for the report; an earlier check there is replaced when this one is done.
        command: the command that makes the same check again.

    Settings that are None come from the requirements file, and from the defaults of `audit` where it has none.

    Raises:
        RequirementError: a requirement cannot be read, or names an unknown measure or class.
        BudgetError: the budget answers no question; the text gives the least that works.
        RunError: `out` holds something else.

    Example:
        >>> import torch, pellucid
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> subject = pellucid.Subject(model, torch.rand(12, 1, 8, 8), torch.arange(12) % 3, name="net")
        >>> pellucid.check(subject, "accuracy >= 0%").passed
        True
    """
    demands, fixed = read_requirements(requirements)
    whole = bool(_first(confident, fixed.confident, False))
    if isinstance(subject, Report):
        check_known(demands, also=(measure.name for measure in _measures(subject)))
        return judge(subject, demands, confident=whole)
    check_known(demands)
    _check_classes(subject, demands)

    def audited() -> Report:
        return audit(
            subject,
            budget=_first(budget, fixed.budget, DEFAULT_BUDGET),
            seed=_first(seed, fixed.seed, 0),
            quick=bool(_first(quick, fixed.quick, False)),
            probes=with_settings(probes_for(demands, beside=(*fixed.probes, *probes)), settings),
            on_event=on_event,
            command=command,
        )

    if out is None:
        return judge(audited(), demands, confident=whole)
    # An earlier check may be replaced: its folder is a by-product, and a gate runs again and again.
    with RunFolder.create(Path(out), kind="check", command=command, resume=True) as run:
        report = audited()
        report.save(run.path)
    return judge(report, demands, confident=whole)


def read_requirements(
    requirements: Demand | Path | Requirements | Sequence[Demand],
) -> tuple[tuple[Requirement, ...], Settings]:
    """Return the demands and the settings of whatever names them; a text alone is one demand, a `Path` a file.

    Raises:
        RequirementError: one cannot be read, or there is none.
    """
    if isinstance(requirements, Path):
        requirements = Requirements.load(requirements)
    if isinstance(requirements, Requirements):
        return requirements.demands, requirements.settings
    listed = [requirements] if isinstance(requirements, (str, Requirement)) else list(requirements)
    if not listed:
        raise RequirementError("nothing is required; give at least one requirement, such as `accuracy >= 0.9`")
    return tuple(r if isinstance(r, Requirement) else Requirement.parse(r) for r in listed), Settings()


def probes_for(demands: Sequence[Requirement], *, beside: Sequence[str] = ()) -> list[str | Probe]:
    """Return the probes that measure what is demanded, and no others; robustness at exactly the radii asked for.

    Args:
        demands: requirements whose measures are known.
        beside: names of further probes.
    """
    wanted = {demand.probe for demand in demands} | set(beside)
    probes = PROBES | MORE
    for name in beside:
        if name not in probes:
            raise RequirementError(f"there is no probe {name!r}; {nearest(name, probes)}known are {', '.join(probes)}")
    chosen: list[str | Probe] = [name for name in probes if name in wanted and name != "robustness"]
    if "robustness" not in wanted:
        return chosen
    names = {d.norm for d in demands if d.probe == "robustness"}
    if "robustness" in beside:
        names |= set(NORMS)
    if "worst" in names:
        names |= {"linf", "l2", "flow", "rt", "spatial"}
    attacks = tuple(name for name in ATTACKS if name in names)
    radii = {n: tuple(sorted({d.radius for d in demands if d.norm == n and d.radius is not None})) for n in NORMS}
    return [*chosen, Robustness(radii={n: radii[n] for n in radii if n in attacks}, attacks=attacks)]


def judge(report: Report, demands: Sequence[Requirement], *, confident: bool = False) -> Check:
    """Return the verdicts on a report; nothing is computed.

    Args:
        report: a finished audit.
        demands: what is required of it.
        confident: demand every requirement of the whole 95% interval.
    """
    measures = {measure.name: measure for measure in reversed(_measures(report))}
    return Check(
        report=report,
        results=tuple(_judged(report, measures, demand, demand.interval or confident) for demand in demands),
    )


def _judged(report: Report, measures: dict[str, Measure], demand: Requirement, whole: bool) -> Result:
    measure = measures.get(demand.measure) or _near_radius(measures, demand)
    # In the measure's own unit: reports hold shares as percentages.
    share = measure is not None and measure.unit == "%"
    bound = round(100 * demand.bound, 9) if share else demand.bound
    if measure is None or measure.value is None:
        reason = (
            _why_missing(report, measures, demand)
            if measure is None
            else f"{measure.name} is not defined on these samples."
        )
        return Result(
            requirement=str(demand),
            verdict="not measured",
            bound=bound,
            unit="%" if share else "",
            whole=whole,
            reason=reason,
            because=demand.because,
        )
    met = demand.meets(measure.value, bound)
    certain = all(demand.meets(end, bound) == met for end in (measure.low, measure.high) if end is not None)
    known = measure.low is not None and measure.high is not None
    verdict = met and certain and known if whole else met
    return Result(
        requirement=str(demand),
        measure=measure.name,
        verdict="passed" if verdict else "failed",
        value=measure.value,
        low=measure.low,
        high=measure.high,
        unit=measure.unit,
        bound=bound,
        uncertain=not certain,
        whole=whole,
        reason=_reason(demand, measure, bound, met=met, certain=certain, whole=whole),
        because=demand.because,
    )


_DEMANDED = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}


def _reason(demand: Requirement, measure: Measure, bound: float, *, met: bool, certain: bool, whole: bool) -> str:
    """Return the verdict as a sentence with both numbers in one unit."""

    def said(value: float | None) -> str:
        return _said(value, measure.unit, bound)

    known = measure.low is not None and measure.high is not None
    found = f"{measure.name} is {said(measure.value)}"
    if known:
        found += f" (95% interval {said(measure.low)} to {said(measure.high)})"
    required = f"{_DEMANDED[demand.comparison]} {said(bound)} is required"
    if whole and not known:
        return f"{found}; {required} of the whole interval, but there is none."
    if whole:
        required += " of the whole interval"
    if certain:
        return f"{found}; {required}."
    upwards = demand.comparison in (">=", ">")
    end, way = (measure.low, "down") if upwards == met else (measure.high, "up")
    return f"{found}; {required}, {'but' if met else 'and'} the interval reaches {way} to {said(end)}."


def _said(value: float | None, unit: str, bound: float) -> str:
    """Return a number with as many digits as its side of the bound needs: 59.96% must not read as the 60% demanded."""
    if value is None:
        return "undefined"
    text = repr(value)
    for digits in range(3, 10):
        short = f"{value:.{digits}g}"
        if (float(short) > bound, float(short) < bound) == (value > bound, value < bound):
            text = short
            break
    return f"{text}{unit}" if unit in ("", "%") else f"{text} {unit}"


def _near_radius(measures: dict[str, Measure], demand: Requirement) -> Measure | None:
    """Return the robust accuracy at the same radius where a report writes it with other digits."""
    if demand.radius is None:
        return None
    start = f"robust_accuracy[{demand.norm},"
    for name, measure in measures.items():
        if name.startswith(start):
            with suppress(ValueError):
                if math.isclose(float(name[len(start) : -1]), demand.radius, rel_tol=SAME_RADIUS):
                    return measure
    return None


def _why_missing(report: Report, measures: dict[str, Measure], demand: Requirement) -> str:
    for entry in report.skipped:
        if entry.probe == demand.probe:
            return f"the probe {entry.probe} was skipped: {entry.reason}"
    for broken in report.failed:
        if broken.probe == demand.probe:
            return f"the probe {broken.probe} failed: {broken.error}"
    if not any(finding.probe == demand.probe for finding in report.findings):
        return f"the report does not answer the question of the probe {demand.probe}."
    base = demand.measure.partition("[")[0]
    beside = [m.name for f in report.findings if f.probe == demand.probe for m in (f.measure, *f.measures)]
    alike = [name for name in beside if name.partition("[")[0] == base]
    hint = nearest(demand.measure, measures)
    return f"the report has no {demand.measure}; {hint}it has {listed(alike or beside)}."


def _measures(report: Report) -> list[Measure]:
    return [measure for finding in report.findings for measure in (finding.measure, *finding.measures)]


def _check_classes(subject: Subject, demands: Sequence[Requirement]) -> None:
    """Refuse demands on classes that the model does not know before anything is computed."""
    for demand in demands:
        base, bracket, rest = demand.measure.partition("[")
        name = rest[:-1]
        if base == "accuracy" and bracket and name not in subject.class_names:
            raise RequirementError(
                f"{demand} names the class {name!r}, which {subject.name} does not know; "
                f"{nearest(name, subject.class_names)}the classes are {listed(subject.class_names, most=12)}"
            )


def _first(*values: T | None) -> T:
    """Return the first value that is given; the last one always is."""
    return next(value for value in values if value is not None)
