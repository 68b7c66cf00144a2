"""Do the model's spiking neurons settle, and what do their spikes cost?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from pellucid.core import (
    ALONE,
    Advice,
    Axis,
    Curve,
    Effort,
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

from .. import _levels
from .._advice import again
from .._batches import forwards
from .._samples import draw, ids_of
from .._spikes import (
    BINS,
    COUNTED,
    MEASURED,
    SHARES,
    Call,
    Operations,
    calls_of,
    gains,
    kept_for_backward,
    operations,
    passes,
    spiking_layers,
    times_of,
)
from .._wording import brief, count, in_percent, percent

LEAST = 8
WANTED = {"quick": 64, "full": 256}
_BATCH = 32
"""Most samples at once: populations of many neurons keep several states."""

_EXTRA = 2 * COUNTED + MEASURED * 18 + 6
"""Evaluations for the calls, the spikes that are counted, the gains and the memory."""


@final
@dataclass(frozen=True)
class Spiking:
    """Accuracy and distance from the equilibrium by time steps, rates, operations, and memory of training."""

    name: str = "spiking"
    question: str = "Do the model's spiking neurons settle, and what do their spikes cost?"

    def suits(self, subject: Subject) -> bool:
        """Whether the model holds a spiking layer with feedback."""
        return bool(spiking_layers(subject.model))

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward of each sample for each number of time steps, and a few more."""
        if not self.suits(subject):
            return Need(0, 0, skip=f"{subject.name} holds no spiking layer (nn.FeedbackSpiking)")
        most = min(len(subject), WANTED[effort])
        return Need(
            _cost(min(most, LEAST)),
            _cost(most),
            remark=f"watches fewer than {count(most, 'sample')}",
        )

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding."""
        n = min(len(subject), WANTED["full"], max(1, (budget - _EXTRA) // len(SHARES)))
        part = subject.take(draw(subject, n, rng=rng.child("samples")))
        calls = calls_of(part, min(n, COUNTED))
        times, own = times_of(calls), max(call.steps for call in calls.values())
        found = passes(part, times, own, batch=min(_BATCH, forwards(part)), work=work.part(0.0, 0.9))
        cost = operations(calls)
        memory = kept_for_backward(calls, _three(times))
        bound, measured = gains(calls, rng=rng.child("gain"))
        work.on_step(1, 1)
        return [self._finding(part, calls, found, own, cost, (_three(times), memory), (bound, measured), rng)]

    def _finding(
        self,
        subject: Subject,
        calls: dict[str, Call],
        found: dict[int, dict[str, Tensor]],
        own: int,
        cost: Operations,
        memory: tuple[list[int], dict[str, list[int]]],
        gain: tuple[float, float],
        rng: Stream,
    ) -> Finding:
        here = found[own]
        residual = here["residual"].double()
        mean = bootstrap(residual, rng=rng.child("residual"))
        later = {steps: float(each["residual"].double().mean()) for steps, each in found.items()}
        judged = _levels.settled(float(residual.mean()), min(v for t, v in later.items() if t >= own), own, max(found))
        right = {steps: _right(subject, each["logits"]) for steps, each in found.items()}
        dead = float((~here["fired"].any(0)).double().mean())
        events = any(call.layout != "constant" for call in calls.values())
        return Finding(
            probe=self.name,
            name="spiking",
            question=self.question,
            answer=_answer(judged.level, own, residual, right, cost, float(here["mean"].mean()), events=events),
            measure=Measure(
                name="spiking_residual",
                # The number of steps stands in the answer: runs of other numbers are compared by this label.
                label="largest distance of a rate from the equilibrium's equation, mean over samples",
                value=number(residual.mean()),
                low=number(mean.low),
                high=number(mean.high),
                usual=f"about {brief(1 / own)}, one spike in {own}",
                better="lower",
                samples=numbers(residual),
            ),
            level=judged.level,
            reason=judged.reason,
            advice=_advice(subject, judged.level, own, later, gain, events=events),
            measures=_measures(here, right, dead, cost, gain),
            exhibits=(
                *_curves(found, right, own),
                _histogram(here, own),
                _memory(*memory),
                _table(cost, own),
            ),
            provenance=Provenance(
                seed=0,
                evaluations=_cost(len(subject), len(found)),
                sample_ids=ids_of(subject),
                settings={
                    "layers": ", ".join(name or "the model" for name in calls),
                    "neurons": ", ".join(dict.fromkeys(str(call.layer.neuron) for call in calls.values())),
                    "time steps": own,
                    "input": "events" if events else "constant",
                    "spikes counted on": min(len(subject), COUNTED),
                    "gain": "bound: the product of the maps' largest gains over the threshold; measured: the largest "
                    f"singular value of the Jacobian at the rates of {min(len(subject), MEASURED)} samples",
                    "interval": "residual: bootstrap over samples; accuracy: Wilson; 95%",
                },
            ),
            references=("arXiv:2109.14247",),
            cautions=_cautions(subject),
        )


def _cost(n: int, times: int = len(SHARES)) -> int:
    return n * times + _EXTRA


def _three(times: list[int]) -> list[int]:
    return sorted({times[0], times[len(times) // 2], times[-1]})


def _right(subject: Subject, logits: Tensor) -> Interval[float] | None:
    if subject.labels is None:
        return None
    hits = int((logits.argmax(1) == subject.labels.cpu()).sum())
    share = wilson(hits, len(logits))
    return Interval(float(share.value), float(share.low), float(share.high))


# -- words -------------------------------------------------------------------------------------------------------------


def _answer(
    level: str,
    own: int,
    residual: Tensor,
    right: dict[int, Interval[float] | None],
    cost: Operations,
    rate: float,
    *,
    events: bool,
) -> str:
    text = f"After {count(own, 'time step')} the rates lie {brief(float(residual.mean()))} from their equilibrium"
    text += f" (mean over samples of the neuron farthest away; at most {brief(float(residual.max()))})"
    text = f"Not at equilibrium: {text[0].lower()}{text[1:]}." if level != "fine" else f"{text}."
    own_right = right[own]
    if own_right is not None:
        fewest = next(t for t in sorted(right) if _reaches(right[t], own_right))
        text += f" The model is right on {percent(own_right.value)} of {count(len(residual), 'sample')}"
        if fewest < own:
            text += f", and not shown to be worse after {count(fewest, 'step')}"
        text += "."
    text += f" A neuron fires in {percent(rate)} of the steps (mean rate)."
    share = cost.spikes / cost.dense if cost.dense else 0.0
    text += f" An inference takes {_amount(cost.spikes)} additions for spikes"
    text += f", {brief(share)} times the multiply-adds of the same maps used once without spikes."
    return text


def _reaches(here: Interval[float] | None, own: Interval[float]) -> bool:
    return here is not None and here.high >= own.value


_RECIPES = {
    "mnist": "spiking-mnist",
    "fashion-mnist": "spiking-fashion-mnist",
    "simulated-n-mnist": "spiking-simulated-n-mnist",
    "cifar10": "spiking-alexnet-cifar10-full",
}


def _command(subject: Subject, change: str) -> str:
    name = _RECIPES.get(subject.data_name)
    return again(subject, change, shipped=name or "") if name or "recipe" in subject.records else ""


def _advice(
    subject: Subject, level: str, own: int, later: dict[int, float], gain: tuple[float, float], *, events: bool
) -> Advice | None:
    if level == "fine":
        return None
    enough = next((t for t in sorted(later) if t > own and later[t] <= _levels.SETTLED), None)
    if enough is not None:
        return Advice(
            text=f"With {enough} time steps the same model comes below {brief(_levels.SETTLED)}: raise "
            "model.time_steps in its recipe, or time_steps of the layer as it is. Training with more steps takes no "
            "more memory.",
            command=_command(subject, f"model.time_steps={enough}"),
        )
    if gain[1] >= 1:
        return Advice(
            text=f"The equilibrium's map stretches distances (gain {brief(gain[1])} at the samples' rates), so rates "
            "need not settle: train with a lower bound, model.gain in its recipe (SpectralBound's bound in Python), or "
            "with a higher threshold.",
            command=_command(subject, "model.gain=0.5"),
        )
    where = "record events in more and shorter frames" if events else "raise model.time_steps in its recipe further"
    return Advice(text=f"Rates near the equilibrium by about one spike over the number of steps: {where}.")


def _cautions(subject: Subject) -> tuple[str, ...]:
    notes = [
        "Operations are counted in the spiking layers alone. An addition for a spike is cheaper than a multiply-add "
        "(0.9 against 4.6 pJ in 32-bit floats at 45 nm, Horowitz 2014), but memory traffic usually costs more than "
        "both, and no hardware was measured.",
        "Memory is what the layers keep for the backward pass for one sample; weights and optimizers come on top.",
    ]
    if any("simulated" in note for note in subject.notes):
        notes.append("The events are simulated from still images, not recorded by a camera.")
    return tuple(notes)


# -- measures and exhibits ---------------------------------------------------------------------------------------------


def _measures(
    here: dict[str, Tensor],
    right: dict[int, Interval[float] | None],
    dead: float,
    cost: Operations,
    gain: tuple[float, float],
) -> tuple[Measure, ...]:
    accuracies = [
        Measure(
            name=f"spiking_accuracy[{steps}]",
            label=f"accuracy with {count(steps, 'time step')}",
            value=in_percent(share.value),
            low=in_percent(share.low),
            high=in_percent(share.high),
            unit="%",
            better="higher",
        )
        for steps, share in right.items()
        if share is not None
    ]
    return (
        *accuracies,
        _share("spiking_rate", "mean rate of the neurons", here["mean"]),
        _share("spiking_silent", "neurons that do not fire for a sample", here["silent"]),
        _share("spiking_saturated", "neurons that fire at every step for a sample", here["saturated"]),
        Measure(
            name="spiking_dead",
            label="neurons that fire for no sample",
            value=in_percent(dead),
            unit="%",
            usual="their weights get no gradient from these samples",
            better="lower",
        ),
        Measure(
            name="spiking_operations",
            label="additions for spikes per inference",
            value=number(cost.spikes),
            better="lower",
        ),
        Measure(
            name="spiking_operations_ratio",
            label="additions for spikes over multiply-adds of the same maps once",
            value=number(cost.spikes / cost.dense if cost.dense else 0.0),
            usual="below 1 where spiking needs fewer operations than a plain network",
            better="lower",
        ),
        Measure(
            name="spiking_gain",
            label="gain of the equilibrium's map at the samples' rates",
            value=number(gain[1]),
            usual="below 1: distances shrink, rates settle",
            better="lower",
        ),
        Measure(
            name="spiking_gain_bound",
            label="bound of that gain, all neurons active",
            value=number(gain[0]),
            usual="below 1: rates settle from anywhere",
            better="lower",
        ),
    )


def _share(name: str, label: str, each: Tensor) -> Measure:
    # Samples are shares, as `compare` wants them, though the measure is in percent.
    return Measure(name=name, label=label, value=in_percent(each.mean()), unit="%", samples=numbers(each))


def _curves(
    found: dict[int, dict[str, Tensor]], right: dict[int, Interval[float] | None], own: int
) -> tuple[Curve, ...]:
    times = tuple(float(t) for t in found)
    axis = Axis("time steps", scale="log")
    known = [share for share in right.values() if share is not None]
    residual = [each["residual"].double() for each in found.values()]
    settle = Curve(
        title="Distance from the equilibrium by time steps",
        x=axis,
        y=Axis("largest distance of a rate", scale="linear"),
        lines=(
            Line(
                name="mean over samples",
                x=times,
                y=numbers([each.mean() for each in residual]),
                low=numbers([each.quantile(0.05) for each in residual]),
                high=numbers([each.quantile(0.95) for each in residual]),
            ),
            Line(name="one spike in T", x=times, y=numbers([1 / t for t in times]), role="reference"),
        ),
        caption=f"One model, stopped after more and fewer steps; it was made for {own}. The band holds 90% of the "
        "samples. A rate of T steps is known to about one spike in T.",
    )
    if not known:
        return (settle,)
    accuracy = Curve(
        title="Accuracy by time steps",
        x=axis,
        y=Axis("accuracy", unit="%"),
        lines=(
            Line(
                name="accuracy",
                x=times,
                y=numbers([share.value for share in known]),
                low=numbers([share.low for share in known]),
                high=numbers([share.high for share in known]),
            ),
        ),
        caption=f"The same weights with other numbers of steps than the {own} they were made for.",
    )
    return (accuracy, settle)


def _histogram(here: dict[str, Tensor], own: int) -> Curve:
    share = here["histogram"].double().sum(0)
    share = share / share.sum()
    return Curve(
        title=f"Rates after {count(own, 'step')}",
        x=Axis("rate"),
        y=Axis("share of neurons", unit="%"),
        lines=(Line(name="share of neurons", x=tuple(float(k) for k in range(BINS)), y=numbers(share)),),
        bars=True,
        categories=tuple(f"{k / BINS:g} to {(k + 1) / BINS:g}" for k in range(BINS)),
        caption=f"All neurons and samples together; {percent(float(here['silent'].mean()))} are exactly 0 and "
        f"{percent(float(here['saturated'].mean()))} are 1. At both ends a neuron passes no gradient.",
    )


def _memory(times: list[int], memory: dict[str, list[int]]) -> Curve:
    return Curve(
        title="Memory of training by time steps",
        x=Axis("time steps", scale="log"),
        y=Axis("memory per sample (kB)", scale="log"),
        lines=tuple(
            Line(name=way, x=tuple(float(t) for t in times), y=numbers([each / 1e3 for each in sizes]))
            for way, sizes in memory.items()
        ),
        caption="What the spiking layers keep for the backward pass of one sample: with the gradient of the "
        "equilibrium, and with surrogate gradients through every time step, on the same weights.",
    )


def _table(cost: Operations, own: int) -> Table:
    rows = [
        (f"additions for spikes, {count(own, 'step')}", cost.spikes),
        ("multiply-adds of the input, once", cost.once),
        ("multiply-adds of the same maps once, without spikes", cost.dense),
    ]
    return Table(
        title="Operations per inference",
        columns=("what", "operations"),
        rows=tuple((what, _amount(each)) for what, each in rows if each),
        caption="In the spiking layers, per sample. A spike causes one addition for each neuron it reaches.",
    )


def _amount(value: float) -> str:
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g}"
