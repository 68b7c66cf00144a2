"""Do a model's implicit layers settle, and is their gradient the right one?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch

from pellucid.core import (
    ALONE,
    Advice,
    Axis,
    Curve,
    Effort,
    Exhibit,
    Finding,
    Interval,
    Line,
    Measure,
    Need,
    Provenance,
    Stream,
    Subject,
    Table,
    Work,
    bootstrap,
    number,
    numbers,
    wilson,
)
from pellucid.explain import EquilibriumView, GradientMode, cost_equilibria, equilibria, implicit_layers

from .. import _levels
from .._advice import again
from .._batches import forwards
from .._samples import draw, ids_of
from .._wording import brief, count, in_percent, percent

SAMPLES = {"quick": 32, "full": 128}
FEW = {"quick": 4, "full": 8}

_PHANTOM = "arXiv:2111.05177"
_DEQ = "arXiv:1909.01377"


@final
@dataclass(frozen=True)
class ImplicitLayers:
    """Steps, residuals, Jacobian and gradients of the implicit layers of a model (`nn.Equilibrium`).

    Args:
        samples: how many samples are watched; 128 if not given, 32 when quick.
        few: on how many of them the Jacobian and the gradients are measured; 8 if not given, 4 when quick.
    """

    samples: int | None = None
    few: int | None = None
    name: str = field(default="implicit", init=False)
    question: str = field(default="Do the implicit layers settle, and is their gradient the right one?", init=False)

    def __post_init__(self) -> None:
        for name in ("samples", "few"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def suits(self, subject: Subject) -> bool:
        """Whether the model holds an implicit layer."""
        return bool(implicit_layers(subject.model))

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward per sample, a longer one per layer, and the gradients of a few."""
        layers = len(implicit_layers(subject.model))
        if not layers:
            return Need(0, 0, skip=f"{subject.name} holds no implicit layer (nn.Equilibrium)")
        most = min(len(subject), self.samples or SAMPLES[effort])
        few = min(most, self.few or FEW[effort])
        least = min(most, 8)
        return Need(
            cost_equilibria(layers, least, min(least, few)),
            cost_equilibria(layers, most, few),
            remark=f"watches fewer than {count(most, 'sample')}",
        )

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding per layer."""
        work.need_all(self.name)
        layers = len(implicit_layers(subject.model))
        n = few = 0
        for n in range(min(len(subject), self.samples or SAMPLES["full"]), 0, -1):
            few = min(n, self.few or FEW["full" if n > SAMPLES["quick"] else "quick"])
            if cost_equilibria(layers, n, few) <= budget:
                break
        part = subject.take(draw(subject, n, rng=rng.child("samples")))
        views = equilibria(
            part.model,
            part.inputs,
            part.labels,
            ids=part.ids,
            few=few,
            rng=rng,
            batch_size=min(64, forwards(part)),
            on_step=work.on_step,
            clock=work.clock,
        )
        work.on_step(1, 1)
        return [self._finding(part, view, len(views), rng.child("interval", view.layer)) for view in views]

    def _finding(self, subject: Subject, view: EquilibriumView, layers: int, rng: Stream) -> Finding:
        converged = wilson(int(view.converged.sum()), len(view.converged))
        changed = None if view.changed is None else wilson(int(view.changed.sum()), len(view.changed))
        own = view.own
        cosine = _mean(own.cosine) if own is not None else math.nan
        judged = _levels.implicit(converged, changed, cosine)
        return Finding(
            probe=self.name,
            name="implicit" if layers == 1 else f"implicit[{view.layer}]",
            question=self.question,
            answer=_answer(view, converged, changed, cosine, layers),
            measure=_share("settled", view, "samples that settle", converged, "higher", view.converged),
            level=judged.level,
            reason=judged.reason,
            advice=_advice(subject, view, judged.level, cosine),
            measures=tuple(_measures(view, changed, subject, rng)),
            exhibits=tuple(_exhibits(view)),
            provenance=Provenance(
                seed=0,
                evaluations=view.evaluations,
                sample_ids=ids_of(subject),
                settings={
                    "layer": view.layer,
                    "solver": f"{view.solver}, at most {view.max_iter} steps, tolerance {view.tol:g}",
                    "looked at closely": f"{len(view.few)} samples",
                    "reference gradient": "implicit function theorem, Anderson, residual 1e-6",
                    "interval": "Wilson for shares; bootstrap over samples, 1000 draws, 95%",
                },
            ),
            references=(_PHANTOM, _DEQ),
            cautions=_cautions(view, subject),
        )


def _mean(values: torch.Tensor) -> float:
    known = values[values.isfinite()].double()
    return float(known.mean()) if len(known) else math.nan


def _answer(
    view: EquilibriumView, converged: Interval[float], changed: Interval[float] | None, cosine: float, layers: int
) -> str:
    where = f"The layer {view.layer}" if layers > 1 else "The implicit layer"
    text = (
        f"{where} settles on {percent(converged.value)} of {count(len(view.converged), 'sample')} within "
        f"{count(view.max_iter, 'step')} of {view.solver}"
    )
    if bool(view.converged.any()):
        text += f", those after {brief(_mean(view.steps[view.converged].double()))} on average"
    text += "."
    if changed is not None:
        turned = int(view.changed.sum()) if view.changed is not None else 0
        text += (
            " No answer changes when the solver may go on."
            if not turned
            else f" {percent(changed.value)} of the answers change when the solver may go on."
        )
    own = view.own
    if own is not None and own.name != "exact" and math.isfinite(cosine):
        text += f" Its gradient ({own.name}) has a cosine of {brief(cosine)} to the exact one."
    elif own is not None and own.name == "exact":
        text += " Its gradient is the exact one."
    return text


def _share(
    name: str, view: EquilibriumView, label: str, share: Interval[float], better: str, each: torch.Tensor
) -> Measure:
    return Measure(
        name=f"{name}[{view.layer}]",
        label=label,
        value=in_percent(share.value),
        low=in_percent(share.low),
        high=in_percent(share.high),
        unit="%",
        usual="100" if better == "higher" else "0",
        better="higher" if better == "higher" else "lower",
        samples=numbers(each.double()),
    )


def _measures(view: EquilibriumView, changed: Interval[float] | None, subject: Subject, rng: Stream) -> list[Measure]:
    rng = rng.at(subject.ids)
    steps = bootstrap(view.steps.double(), rng=rng)
    found = [
        Measure(
            name=f"solver_steps[{view.layer}]",
            label="steps of the solver",
            value=number(steps.value),
            low=number(steps.low),
            high=number(steps.high),
            usual=f"below the {view.max_iter} it may take",
            better="lower",
            samples=numbers(view.steps.double()),
        ),
        Measure(
            name=f"solver_residual[{view.layer}]",
            label="residual where the solver ends, median",
            value=number(view.residual.double().median()),
            usual=f"below the tolerance {view.tol:g}",
            better="lower",
            samples=numbers(view.residual.double()),
        ),
        Measure(
            name=f"spectral_radius[{view.layer}]",
            label=f"spectral radius of the cell's Jacobian at the equilibrium, mean of {len(view.few)} samples",
            value=number(_mean(view.radius)),
            usual="below 1: plain iteration settles",
            better="lower",
        ),
    ]
    if view.norm is not None:
        found.append(
            Measure(
                name=f"cell_norm[{view.layer}]",
                label=f"largest singular value of that Jacobian, mean of {len(view.few)} samples",
                value=number(_mean(view.norm)),
                usual="below 1: a contraction",
                better="lower",
            )
        )
    if changed is not None and view.changed is not None:
        found.append(
            _share("unsettled_answers", view, "answers that change when it goes on", changed, "lower", view.changed)
        )
    for mode in view.modes:
        found += _of_mode(view, mode)
    if view.certificate is not None:
        found.append(
            Measure(
                name=f"ascent_certified[{view.layer}]",
                label="samples whose gradient provably goes uphill",
                value=in_percent(view.certificate.certified.double().mean()),
                unit="%",
                usual="any share: the condition is sufficient, not necessary",
                better="higher",
            )
        )
    return found


_SHORT = {"unrolled": "upg", "Neumann series": "npg", "one step": "one-step", "exact": "exact"}


def _of_mode(view: EquilibriumView, mode: GradientMode) -> list[Measure]:
    short = _SHORT.get(mode.name.partition(",")[0], mode.name)
    key = f"{view.layer},{short}"
    cost = [
        Measure(
            name=f"backward_evaluations[{key}]",
            label=f"evaluations of the cell for the gradient, {mode.name}",
            value=number(mode.evaluations),
            better="lower",
        ),
        Measure(
            name=f"backward_memory[{key}]",
            label=f"kept for the gradient per sample, {mode.name}",
            value=number(mode.kept / 1024),
            unit="KiB",
            better="lower",
        ),
    ]
    if short == "exact":
        return cost
    return [
        Measure(
            name=f"gradient_cosine[{key}]",
            label=f"cosine to the exact gradient, {mode.name}",
            value=number(_mean(mode.cosine)),
            usual="above 0 the step goes uphill; 0.9 and more in a trained network that settles",
            better="higher",
        ),
        Measure(
            name=f"gradient_ratio[{key}]",
            label=f"length over the exact gradient's, {mode.name}",
            value=number(_mean(mode.ratio)),
            usual="below 1: what comes back through many steps is left out",
        ),
        *cost,
    ]


# -- what to do ---------------------------------------------------------------------------------------------------


def _advice(subject: Subject, view: EquilibriumView, level: str, cosine: float) -> Advice | None:
    if level == "fine":
        return None
    if float(view.converged.double().mean()) < _levels.MOST_SETTLE:
        return _to_settle(subject, view)
    if cosine < _levels.AGREES:
        return _to_agree(subject, view, cosine)
    return Advice(
        text="Solve to a smaller tolerance: `layer.solver = nn.Anderson(tol=1e-5)` on the model as it is, or train "
        "with the smaller tolerance.",
        command=again(subject, "model.solver.tol=1e-5"),
    )


def _to_settle(subject: Subject, view: EquilibriumView) -> Advice:
    reached = view.needed[view.needed >= 0]
    radius = _mean(view.radius)
    if len(reached) >= _levels.MOST_SETTLE * len(view.needed):
        steps = 10 * math.ceil(int(reached.max()) / 10)
        return Advice(
            text=f"It needs more steps: with {steps}, {percent(len(reached) / len(view.needed))} of these samples "
            f"settle. Set `max_iter={steps}` in `layer.solver`, or train with it.",
            command=again(subject, f"model.solver.max_iter={steps}"),
        )
    if float(view.history.amin(0).median()) < 1e-5:
        return Advice(
            text="The residual stands at what float32 can express: a larger tolerance, such as 1e-4, asks for no more "
            "than that.",
            command=again(subject, "model.solver.tol=1e-4"),
        )
    if radius < 1:
        return Advice(
            text=f"The cell's Jacobian has a spectral radius of {brief(radius)}, so an equilibrium is near, but the "
            "solver does not get there in four times the steps: try another one, "
            "`layer.solver = nn.Broyden(max_iter=60)`, or plain steps "
            "with damping, `nn.Picard(max_iter=200, damping=0.5)`.",
            command=again(subject, "model.solver.method=broyden"),
        )
    return Advice(
        text=f"The cell pushes states apart: its Jacobian has a spectral radius of {brief(radius)}, above 1, where the "
        "solver ends. Train with a penalty on the Jacobian, smaller weights or a normalization in the cell; more steps "
        "alone will not help.",
        command=again(
            subject, "objective.kind=equilibrium", "weighting.weights.clean=1", "weighting.weights.jacobian=0.5"
        ),
    )


def _to_agree(subject: Subject, view: EquilibriumView, cosine: float) -> Advice:
    radius = min(_mean(view.radius), 0.999)
    steps = max(2, math.ceil(math.log(0.3) / math.log(1 - 0.5 * (1 - radius)))) if radius > 0 else 2
    return Advice(
        text=f"The cosine is {brief(cosine)}: take more phantom steps, about {min(steps, 100)} at this spectral radius "
        f"({brief(_mean(view.radius))}), or the exact gradient; on the model as it is `layer.backward = "
        "nn.Implicit()` does it, for attacks and saliency maps too.",
        command=again(subject, "model.backward.mode=exact"),
    )


def _cautions(view: EquilibriumView, subject: Subject) -> tuple[str, ...]:
    notes = []
    if subject.labels is None:
        notes.append("There are no labels: the gradient is that of the cross entropy of the model's own answers.")
    if view.exact_missed:
        notes.append(
            f"The exact gradient was not reached on {count(view.exact_missed, 'sample')} of {len(view.few)}: cosines "
            "are to what was reached."
        )
    if not view.modes:
        notes.append("The cell has no parameters, or nothing behind it has a gradient: there is none to compare.")
    if view.norm is None:
        notes.append("An operation of the cell has no forward derivative, so its largest singular value is not known.")
    if view.certificate is None:
        notes.append(
            f"The state has {view.size:,} numbers, too many to write its Jacobian out: the certificate that the "
            "gradient goes uphill is left out, and the cosine is measured instead."
        )
    elif bool(view.certificate.vacuous.all()):
        notes.append(
            "The certificate says nothing here: some change of the state leaves no trace in the parameters' gradient "
            "(dead units, or fewer parameters than numbers in the state)."
        )
    return tuple(notes)


# -- what to show -------------------------------------------------------------------------------------------------


def _exhibits(view: EquilibriumView) -> list[Exhibit]:
    found: list[Exhibit] = [_course(view), _histogram(view), _residuals(view)]
    if view.modes:
        found.append(_table(view))
    found.append(_jacobian(view))
    return found


def _course(view: EquilibriumView) -> Curve:
    history = view.history.double().clamp_min(1e-12)
    steps = numbers(range(len(history)))
    low, middle, high = (history.quantile(q, dim=1) for q in (0.1, 0.5, 0.9))
    return Curve(
        title="How it settles",
        x=Axis("step of the solver"),
        y=Axis("residual", scale="log"),
        lines=(
            Line(name="median sample", x=steps, y=numbers(middle), low=numbers(low), high=numbers(high)),
            Line(name="tolerance", x=steps, y=(number(view.tol),) * len(steps), role="reference"),
        ),
        caption="|F(h) - h| / |F(h)|; the band holds 80% of the samples. A sample that is done stays where it is.",
    )


def _histogram(view: EquilibriumView) -> Curve:
    most = int(view.steps.max())
    width = max(1, math.ceil((most + 1) / 16))
    bins = view.steps // width
    counts = bins.bincount(minlength=most // width + 1)
    names = [str(k) if width == 1 else f"{k * width}-{(k + 1) * width - 1}" for k in range(len(counts))]
    first = int(counts.nonzero()[0])
    return Curve(
        title="Steps per sample",
        x=Axis("steps"),
        y=Axis("share of the samples", "%"),
        lines=(Line(name="samples", x=numbers(range(len(counts) - first)), y=numbers(counts[first:] / counts.sum())),),
        bars=True,
        categories=tuple(names[first:]),
        caption=f"At most {view.max_iter}; samples that stop there have not settled."
        if not bool(view.converged.all())
        else f"At most {view.max_iter}.",
    )


def _residuals(view: EquilibriumView) -> Curve:
    places = (3 * view.residual.double().clamp(1e-12, 1e3).log10()).floor().long()
    first, last = int(places.min()), int(places.max())
    counts = (places - first).bincount(minlength=last - first + 1)
    return Curve(
        title="Residual per sample, where the solver ends",
        x=Axis("residual up to"),
        y=Axis("share of the samples", "%"),
        lines=(Line(name="samples", x=numbers(range(len(counts))), y=numbers(counts / counts.sum())),),
        bars=True,
        categories=tuple(f"{10 ** ((k + 1) / 3):.2g}" for k in range(first, last + 1)),
        caption=f"The tolerance is {view.tol:g}.",
    )


def _table(view: EquilibriumView) -> Table:
    rows: list[tuple[str | int | float | None, ...]] = []
    for mode in view.modes:
        exact = mode.name == "exact"
        rows.append(
            (
                f"{mode.name} (this layer's)" if mode.own else mode.name,
                None if exact else number(_mean(mode.cosine)),
                None if exact else number(mode.cosine.nan_to_num(torch.inf).min()),
                None if exact else number(mode.together),
                None if exact else number(_mean(mode.ratio)),
                number(mode.evaluations),
                number(mode.kept / 1024),
            )
        )
    solver = float(view.steps.double().mean())
    one = next((mode.kept for mode in view.modes if mode.name == "one step"), 0.0)
    rows.append(("through all steps of the solver (not used)", None, None, None, None, 3 * solver, one * solver / 1024))
    return Table(
        title="Ways to pass the gradient",
        columns=(
            "way",
            "cosine to the exact one",
            "worst sample",
            "all samples together",
            "length over exact",
            "evaluations of the cell",
            "kept, KiB",
        ),
        rows=tuple(rows),
        caption=f"Per sample, without the solver's own {brief(view.cell_evaluations)} evaluations of the cell; a "
        "product with its Jacobian counts two. Seconds depend on the machine and are in manifest.json.",
    )


def _jacobian(view: EquilibriumView) -> Curve:
    lines = [
        Line(
            name="spectral radius",
            x=numbers(view.radius.double()),
            y=numbers(view.steps[view.few].double()),
            role="points",
        )
    ]
    if view.norm is not None:
        lines.append(
            Line(
                name="largest singular value",
                x=numbers(view.norm.double()),
                y=numbers(view.steps[view.few].double()),
                role="points",
            )
        )
    return Curve(
        title="Jacobian of the cell at the equilibrium",
        x=Axis("size"),
        y=Axis("steps"),
        lines=tuple(lines),
        caption="One point per sample. A spectral radius below 1: plain iteration settles; a singular value below 1: "
        "every step brings any two states closer.",
    )
