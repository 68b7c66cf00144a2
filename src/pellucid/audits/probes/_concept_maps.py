"""What does a matrix-decomposition layer extract, and do its atoms follow the classes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from pellucid.core import (
    ALONE,
    Advice,
    Effort,
    Finding,
    Measure,
    Need,
    Provenance,
    Stream,
    Subject,
    Work,
    bootstrap,
    number,
    numbers,
)
from pellucid.explain import (
    AtomEffects,
    ConceptMaps,
    ConceptMatches,
    atom_effects,
    concept_maps,
    cost_atom_effects,
    decomposition_layers,
    match_concepts,
)

from .. import _levels
from .._batches import forwards
from .._players import is_image
from .._samples import draw, ids_of
from .._wording import brief, count, in_percent, listed, percent
from ._concept_map_exhibits import MOST_ATOMS, atom_name, exhibits_of

SAMPLES = {"quick": 32, "full": 96}
PER_CLASS = {"quick": 5, "full": 20}
"""Samples of each class where there is one label per sample; an image of many pixels says more."""

MOST = 500
SHOWN = 6

_MEMORY = 2**30
"""Bytes of maps that are kept at once, of layers at a quarter of the image's size."""

_PAPER = "arXiv:2109.04553"
_DISSECTION = "arXiv:1704.05796"


@final
@dataclass(frozen=True)
class ConceptAtoms:
    """Maps, use and residual of each matrix-decomposition layer, its atoms matched to masks or classes.

    Args:
        samples: how many samples are looked at; if not given 96, 32 when quick, and more of classifiers with many
            classes.
    """

    dense: ClassVar[bool] = True
    samples: int | None = None
    name: str = field(default="concept-maps", init=False)
    question: str = field(default="What do the atoms of the decomposition layers follow?", init=False)

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def suits(self, subject: Subject) -> bool:
        """Whether the model holds a matrix-decomposition layer."""
        return bool(decomposition_layers(subject.model))

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward per sample; of those shown another one, one with each atom left out and one without any."""
        if not decomposition_layers(subject.model):
            return Need(
                0, 0, skip=f"{subject.name} holds no matrix-decomposition layer (nn.MatrixDecomposition, nn.Hamburger)"
            )
        wanted = self._wanted(subject, effort)
        least = min(wanted, 8)
        return Need(
            least + min(least, SHOWN),
            wanted + min(wanted, SHOWN) * (1 + _left_out(subject)),
            remark=f"looks at fewer than {count(wanted, 'sample')}, or leaves no atom out",
        )

    def _wanted(self, subject: Subject, effort: Effort) -> int:
        many = 0 if subject.dense or subject.labels is None else PER_CLASS[effort] * subject.n_classes
        return min(_most(subject), self.samples or max(SAMPLES[effort], min(MOST, many)))

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding per layer."""
        work.need_all(self.name)
        most = self._wanted(subject, "full")
        n = max(k for k in range(1, most + 1) if k == 1 or k + min(k, SHOWN) <= budget)
        part = subject.take(draw(subject, n, rng=rng.child("samples")))
        shown = part.take(_most_mixed(part, SHOWN) if part.dense else draw(part, SHOWN, rng=rng.child("shown")))
        found = concept_maps(
            part.model, part.inputs, batch_size=min(32, forwards(part)), on_step=work.part(0, 0.8).on_step
        )
        prefix = _wrapping(part.model)
        layers = [replace(maps, layer=maps.layer.removeprefix(prefix)) for maps in found]
        answers = shown.logits(batch_size=forwards(shown)).argmax(1)
        effects = self._effects(shown, found, budget - n - len(shown), work.part(0.8, 1))
        spent = share_out(n + len(shown), len(layers))
        findings = [
            self._finding(part, shown, answers, maps, effect, len(layers), cost, rng.child(maps.layer))
            for maps, effect, cost in zip(layers, effects, spent, strict=True)
        ]
        work.on_step(1, 1)
        return findings

    def _effects(
        self, shown: Subject, found: Sequence[ConceptMaps], budget: int, work: Work
    ) -> list[AtomEffects | None]:
        """Return what changes when atoms are left out; None for layers called twice, and where the budget ends."""
        once = [maps.layer for maps in found]
        effects: list[AtomEffects | None] = []
        for number_, maps in enumerate(found):
            twice = f"{maps.layer} (call 2)" in once or maps.layer not in decomposition_layers(shown.model)
            atoms = maps.usage.mean(0).argsort(descending=True, stable=True)[:MOST_ATOMS].sort().values.tolist()
            # The atoms as they are were answered before, but inside another forward: counted again.
            cost = cost_atom_effects(len(shown), len(atoms))
            if twice or cost > budget:
                effects.append(None)
                continue
            budget -= cost
            part = work.part(number_ / len(found), (number_ + 1) / len(found))
            effects.append(
                atom_effects(
                    shown.model,
                    shown.inputs,
                    layer=maps.layer,
                    atoms=atoms,
                    batch_size=forwards(shown),
                    on_step=part.on_step,
                )
            )
        return effects

    def _finding(
        self,
        subject: Subject,
        shown: Subject,
        answers: Tensor,
        maps: ConceptMaps,
        effects: AtomEffects | None,
        layers: int,
        spent: int,
        rng: Stream,
    ) -> Finding:
        matches, unmatched = _matched(subject, maps, rng.child("match"))
        residual = maps.residual.mean(1).double()
        judged = _levels.concept_maps(
            steady=maps.steady,
            unused=float(maps.unused.double().mean()),
            residual=float(residual[:, -1].mean()),
        )
        measures = _measures(subject, maps, matches, effects, rng.child("interval"))
        return Finding(
            probe=self.name,
            name=self.name if layers == 1 else f"{self.name}[{maps.layer}]",
            question=self.question,
            answer=_answer(subject, maps, matches, layers) + _rests(shown, effects),
            measure=measures[0],
            level=judged.level,
            reason=judged.reason,
            advice=_advice(maps),
            measures=tuple(measures[1:]),
            exhibits=tuple(exhibits_of(subject, shown, answers, maps, matches, effects)),
            provenance=Provenance(
                seed=0,
                evaluations=spent + (0 if effects is None else effects.evaluations),
                sample_ids=ids_of(subject),
                settings={
                    "layer": maps.layer,
                    "decomposition": f"{maps.kind}, {maps.heads} x {maps.rank} atoms, {maps.steps} steps",
                    "map": "code times length of the atom",
                    "left out": "none" if effects is None else f"{len(effects.atoms)} atoms, on {len(shown)} samples",
                    "unused": "below a twentieth of an even share of the answer on every sample",
                    **({} if matches is None else _how_matched(matches)),
                },
            ),
            references=(_PAPER, _DISSECTION),
            cautions=_cautions(maps, matches, effects, unmatched),
        )


def share_out(total: int, count: int) -> list[int]:
    """Return whole numbers that differ by 1 at most and sum to a total."""
    return [total // count + (place < total % count) for place in range(count)]


def _wrapping(model: nn.Module) -> str:
    """Return what comes before a layer's own name where the model's answers are read in another form."""
    prefix = ""
    while type(model).__module__ == "pellucid.core._adapters" and isinstance(model.model, nn.Module):
        prefix, model = f"{prefix}model.", model.model
    return prefix


def _left_out(subject: Subject) -> int:
    """Return how many forwards per sample it takes to leave out each atom of each layer."""
    layers = decomposition_layers(subject.model).values()
    return sum(min(MOST_ATOMS, layer.heads * layer.rank) + 2 for layer in layers)


def _most(subject: Subject) -> int:
    """Return how many samples' maps fit in memory."""
    atoms = sum(layer.heads * layer.rank for layer in decomposition_layers(subject.model).values())
    cells = subject.inputs[0, 0].numel() // 16 if is_image(subject) else subject.inputs[0].numel()
    return max(1, min(len(subject), _MEMORY // (4 * max(1, atoms * cells))))


def _most_mixed(subject: Subject, n: int) -> Tensor:
    """Return the rows of the images whose labels are the most mixed; without labels the first ones."""
    if subject.labels is None:
        return torch.arange(len(subject))[:n]
    sizes = [(subject.labels == k).flatten(1).sum(1) for k in range(subject.n_classes)]
    shares = torch.stack(sizes, 1).double()
    shares = shares / shares.sum(1, keepdim=True).clamp_min(1)
    mixed: Tensor = torch.special.entr(shares).sum(1).argsort(descending=True, stable=True)
    return mixed[:n].sort().values


def _matched(subject: Subject, maps: ConceptMaps, rng: Stream) -> tuple[ConceptMatches | None, str]:
    """Return how atoms go with labels, or why they are not matched."""
    if subject.labels is None:
        return None, "There are no labels that atoms could be matched to."
    if len(subject) < 4:
        return None, "Atoms are matched to labels with 4 samples at least, half to choose and half to score."
    if subject.dense and (maps.maps.ndim != 4 or 1 in maps.maps.shape[2:]):
        return None, f"The {maps.maps[0, 0].numel()} places of this layer are no grid of the image: no masks fit them."
    values = maps.maps if subject.dense else maps.usage
    return match_concepts(values, subject.labels, subject.n_classes, rng=rng, ids=subject.ids), ""


def _how_matched(matches: ConceptMatches) -> dict[str, str]:
    what = "IoU of {map above a threshold} and the class" if matches.measure == "iou" else "AUC of the atom's use"
    halves = f"{len(matches.chosen_on)} samples choose, {len(matches.scored_on)} others score"
    return {"matched by": what, "held out": halves, "chance": "the same with labels of other samples, 20 shuffles"}


def _progress(residual: Tensor) -> Tensor:
    """Return the share of the residual that the last step took away."""
    if residual.shape[1] < 2:
        return torch.zeros(len(residual))
    return 1 - residual[:, -1] / residual[:, -2].clamp_min(1e-30)


# -- words -------------------------------------------------------------------------------------------------------------


def _answer(subject: Subject, maps: ConceptMaps, matches: ConceptMatches | None, layers: int) -> str:
    where = f"in {maps.layer} " if layers > 1 else ""
    samples = count(len(subject), "image" if is_image(subject) else "sample")
    needed = float(maps.needed.double().mean())
    some = f"{brief(round(needed, 1))} of {count(maps.atoms, 'atom')}"
    carried = f"{some} {where}carry 99% of the layer's answer on {samples}"
    if matches is None:
        text = f"{carried[0].upper()}{carried[1:]}."
    else:
        clear = matches.clear.nonzero()[:, 0].tolist()
        names = list(dict.fromkeys(subject.class_names[int(matches.best[a])] for a in clear))
        if clear:
            text = (
                f"{len(clear)} of {count(maps.atoms, 'atom')} {where}{'follows' if len(clear) == 1 else 'follow'} a "
                f"class on samples that did not choose it: {listed(names)}."
            )
            top = max(clear, key=lambda a: float(matches.best_score[a]))
            what = "IoU" if matches.measure == "iou" else "AUC"
            text += (
                f" The clearest is {atom_name(top)}, which follows {subject.class_names[int(matches.best[top])]} with "
                f"an {what} of {_score(matches, float(matches.best_score[top]))}; chance gives "
                f"{_score(matches, float(matches.best_chance[top]))}."
            )
        else:
            text = f"None of {count(maps.atoms, 'atom')} {where}follows a class more than chance would."
        text += f" On average {carried}."
    unused = int(maps.unused.sum())
    if unused:
        text += f" {count(unused, 'atom')} {'is' if unused == 1 else 'are'} never used: rank {_rank(maps)} would do."
    return text


def _rests(shown: Subject, effects: AtomEffects | None) -> str:
    """Say what changes most when one atom is left out."""
    if effects is None:
        return ""
    top = int(effects.changed.argmax())
    what = "pixels" if shown.dense else "answers"
    share, images = float(effects.changed[top]), count(len(shown), "image" if is_image(shown) else "sample")
    name = atom_name(int(effects.atoms[top]))
    text = f" Without the layer's answer {percent(effects.without_any)} of the {what} on {images} become another class"
    if not share:
        return f"{text}, without any one atom none."
    return f"{text}, without one atom at most {percent(share)} ({name})."


def _score(matches: ConceptMatches, value: float) -> str:
    return percent(value) if matches.measure == "iou" else brief(value)


def _rank(maps: ConceptMaps) -> int:
    """Return the rank that the head with the most used atoms needs."""
    return max(1, int((~maps.unused).unflatten(0, (maps.heads, maps.rank)).sum(1).max()))  # type: ignore[no-untyped-call]


def _advice(maps: ConceptMaps) -> Advice | None:
    if not maps.steady:
        return Advice(
            text=f"Set `init = 'fixed'` on the layer {maps.layer} of the model as it is, or train with it: evaluation "
            "then starts at the same atoms each time."
        )
    if bool(maps.unused.any()):
        return Advice(text=f"Train with rank {_rank(maps)}: as much is carried, at less cost.")
    return None


def _cautions(
    maps: ConceptMaps, matches: ConceptMatches | None, effects: AtomEffects | None, unmatched: str
) -> tuple[str, ...]:
    cautions = [unmatched] if unmatched else []
    if matches is not None and effects is None:
        cautions.append("That an atom lies where a class is does not show that the answer rests on it.")
    if effects is not None:
        cautions.append("Atoms are left out one at a time: of two alike neither changes much alone.")
    used = maps.steadiness[~maps.unused]
    steadiness = float(used.nanmean()) if len(used) else float("nan")
    if steadiness < 0.9:
        cautions.append(
            "Atoms are found anew for each sample: the same number stands for the atom closest to the others' of that "
            f"number on {percent(steadiness)} of the samples; what is said of an atom holds for those."
        )
    if matches is not None and len(matches.scored_on) < _levels.FEW:
        cautions.append(
            f"{count(len(matches.scored_on), 'sample')} score the matches: few, so weak matches are missed."
        )
    if maps.kind == "cd":
        cautions.append("Codes of concept decomposition can be negative; the pictures show what is above zero.")
    if maps.left_out:
        cautions.append(f"{count(maps.left_out, 'token')} before the patches of the image has no place on it.")
    return tuple(cautions)


# -- numbers -----------------------------------------------------------------------------------------------------------


def _measures(
    subject: Subject, maps: ConceptMaps, matches: ConceptMatches | None, effects: AtomEffects | None, rng: Stream
) -> list[Measure]:
    layer, rng = maps.layer, rng.at(subject.ids)
    measures = []
    if matches is not None:
        measures.append(
            Measure(
                name=f"atoms_matched[{layer}]",
                label=f"atoms of {maps.atoms} that follow a class",
                value=float(matches.clear.sum()),
                usual="0 by chance, in 19 of 20 cases",
                better="higher",
            )
        )
        known = matches.best_atom >= 0
        of_class = matches.score.gather(0, matches.best_atom.clamp_min(0)[None])[0][known]
        chance = matches.chance.gather(0, matches.best_atom.clamp_min(0)[None])[0][known]
        if len(of_class):
            iou = matches.measure == "iou"
            value = float(of_class.mean())
            measures.append(
                Measure(
                    name=f"concept_{matches.measure}[{layer}]",
                    label=f"held-out {'IoU' if iou else 'AUC'} of each class's own atom, mean over classes",
                    value=in_percent(value) if iou else number(value),
                    unit="%" if iou else "",
                    usual=f"{_score(matches, float(chance.mean()))} by chance",
                    better="higher",
                )
            )
    residual = maps.residual.mean(1).double()
    needed = bootstrap(maps.needed.double(), rng=rng)
    measures += [
        Measure(
            name=f"atoms_needed[{layer}]",
            label=f"atoms of {maps.atoms} that carry 99% of the layer's answer, mean",
            value=number(needed.value),
            low=number(needed.low),
            high=number(needed.high),
            samples=numbers(maps.needed.double()),
        ),
        Measure(
            name=f"atoms_unused[{layer}]",
            label="share of the atoms that are never used",
            value=in_percent(maps.unused.double().mean()),
            unit="%",
            usual="0",
            better="lower",
        ),
        _mean(
            f"decomposition_residual[{layer}]",
            "share of the features' length that the atoms leave unexplained",
            residual[:, -1],
            rng.child("residual"),
            share=True,
        ),
        _mean(
            f"decomposition_progress[{layer}]",
            "share of the residual that the last step took away",
            _progress(residual),
            rng.child("progress"),
            share=True,
            usual="a few percent after six steps",
        ),
        _mean(
            f"decomposition_rank[{layer}]",
            f"effective rank of the answer, of {maps.rank} at most",
            maps.effective_rank.mean(1).double(),
            rng.child("rank"),
        ),
    ]
    if effects is not None:
        for name, label, share in (
            (
                "decomposition_effect",
                "share of answers that change without the layer's answer",
                effects.without_any,
            ),
            ("atom_effect", "largest share of answers that change without one atom", float(effects.changed.max())),
        ):
            measures.append(Measure(name=f"{name}[{layer}]", label=label, value=in_percent(share), unit="%"))
    if len(subject) > 1:
        measures.append(
            Measure(
                name=f"atom_steadiness[{layer}]",
                label="share of the samples on which an atom is closest to its own number, mean",
                value=in_percent(maps.steadiness.mean()),
                unit="%",
                usual=f"{percent(1 / maps.rank)} by chance",
                better="higher",
            )
        )
    return measures


def _mean(name: str, label: str, values: Tensor, rng: Stream, *, share: bool = False, usual: str = "") -> Measure:
    found = bootstrap(values.double(), rng=rng)
    ends = [float(end) for end in (found.value, found.low, found.high)]
    value, low, high = (number(round(100 * end, 9) if share else end) for end in ends)
    return Measure(
        name=name,
        label=label,
        value=value,
        low=low,
        high=high,
        unit="%" if share else "",
        usual=usual,
        samples=numbers(values.double()),
    )
