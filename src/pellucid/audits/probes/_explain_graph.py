"""Which few combinations of parts made this answer? The And-Or graph of some samples as a probe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from pellucid.attacks import BALLS, PGD
from pellucid.core import (
    ALONE,
    BudgetError,
    DataError,
    Effort,
    Finding,
    Masker,
    Model,
    Need,
    Stream,
    Subject,
    Work,
    evaluating,
)
from pellucid.explain import (
    AndOrGraph,
    BaselineSettings,
    Logic,
    and_or_graphs,
    cost_and_or_graph,
)
from pellucid.games import VALUES, ClassScore, OnEmbeddings, Words, on_embeddings
from pellucid.metrics import attacked

from .._batches import kept
from .._cast import Cast, fill_in_words
from .._players import is_image, is_text, spread
from ._explain import Explain
from ._explain_graph_findings import ToldGraphs, sample_finding, summary_finding

MOST_PLAYERS = 16
MOST_FINDINGS = 24
STEPS = 50
"""Steps of learning a baseline."""


MOST_KEPT = 2_000
"""Most patterns of a graph, as `explain.and_or_graph_of` allows."""


@final
@dataclass(frozen=True)
class ExplainGraph:
    """Explain a score by the few combinations of parts that make it: exact AND, or AND and OR patterns, as a graph.

    Args:
        players: who plays, at most 16; see `Explain`.
        value: what is explained, one of `games.VALUES`.
        of: whose score: "predicted", "label", a class's name, or its number.
        fill: what an absent player shows: "mean" of the usual inputs, "zero", or for images "blur".
        logic: "and", or "and-or" to split effects into AND and OR patterns.
        learn_baseline: learn what absent players show, near the fill, so that patterns become fewer and weaker; words
            play on their embeddings then.
        explained: share of variance over all masked versions that the kept patterns are to explain.
        max_patterns: most patterns to keep.
        samples: how many samples, drawn evenly from the classes.
        ids: the samples with these ids instead.
        against: another model on the same samples, whose patterns are compared.
        attack: an attack on the inputs, such as "linf:8/255", whose patterns are compared.
    """

    players: str = "auto"
    value: str = "log_odds"
    of: str | int = "predicted"
    fill: str = "mean"
    logic: Logic = "and"
    learn_baseline: bool = False
    explained: float = 0.95
    max_patterns: int = 80
    samples: int = 8
    ids: tuple[int, ...] = ()
    against: Subject | None = field(default=None, repr=False)
    attack: str = ""
    name: str = "graph"
    question: str = "Which few combinations of parts made the answers?"

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """Exactly what the settings cost, at most: learning a baseline may be cheaper.

        Raises:
            DataError, BudgetError: settings that do not fit the subject.
        """
        if subject.dense:
            return Need(0, 0, skip="asks about one answer per image")
        part, _, counts = self.prepared(subject)
        cost = sum(cost_and_or_graph(n) + (2**n * (3 * STEPS + 2) if self.learn_baseline else 0) for n in counts)
        if self.learn_baseline and is_text(subject):
            cost += len(part)  # a look at how the model embeds each text
        if self.against is not None or self.attack:
            cost *= 2
        if self.attack:
            cost += len(part) * self._attack(subject).cost
        cost += len(part) if self.of == "predicted" else 0
        return Need(cost, cost, memory=2 ** max(counts) * 8 * 16 + 2**22)

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding over all samples, and in one for each."""
        return self.findings(self.measured(subject, rng, work=work), rng)

    def prepared(self, subject: Subject) -> tuple[Subject, list[Masker], list[int]]:
        """Return the samples to explain, their maskers and their numbers of players, all checked.

        :meta private:
        """
        part, maskers, counts = self._how().prepared(subject)
        if not (0 < self.explained <= 1 and 1 <= self.max_patterns <= MOST_KEPT):
            raise DataError(
                f"explained must lie in (0, 1] and max-patterns be at least 1 and at most {MOST_KEPT:,}, got "
                f"{self.explained} and {self.max_patterns}"
            )
        if self.logic not in ("and", "and-or"):
            raise DataError(f'logic must be "and" or "and-or", got {self.logic!r}')
        most = max(counts)
        if most > MOST_PLAYERS:
            raise BudgetError(
                f"a graph of {most} players would take 2**{most} = {2**most:,} evaluations per sample; use at most "
                f"{MOST_PLAYERS}, such as --players {_fewer(subject)}"
            )
        if self.learn_baseline:
            for one in (subject, self.against):
                if one is not None and not _has_gradients(one, part.inputs):
                    raise DataError(f"a baseline is learned through gradients, and {one.name} gives none to its inputs")
        if self.attack:
            self._attack(subject)
        if self.against is not None and self.against.inputs.shape[1:] != subject.inputs.shape[1:]:
            raise DataError(f"{self.against.name} takes other inputs than {subject.name}; compare models of one input")
        if self.against is not None and is_text(subject) and not torch.equal(self.against.inputs, subject.inputs):
            raise DataError(
                f"{self.against.name} cuts the texts into other tokens than {subject.name}; compare models of one "
                "tokenizer"
            )
        if self.against is not None and self.against.n_classes != subject.n_classes:
            raise DataError(
                f"{self.against.name} tells {self.against.n_classes} classes apart but {subject.name} "
                f"{subject.n_classes}; compare models of the same classes"
            )
        return part, maskers, counts

    def measured(self, subject: Subject, rng: Stream, *, work: Work = ALONE) -> ToldGraphs:
        """Return the graphs, before they are put into words.

        :meta private:
        """
        part, maskers, _ = self.prepared(subject)
        how = self._how()
        classes = how.classes(part)
        cast = Cast.parse(self.players, part)
        model, inputs, second, spent = self._second(subject, part, classes, rng)
        halves = (work.part(0, 0.5), work.part(0.5, 1)) if second else (work, work)
        graphs = self._graphs(subject, part, part.model, part.inputs, classes, maskers, rng, halves[0])
        others: tuple[AndOrGraph, ...] = ()
        if second:
            keyed = replace(halves[1], key=f"{halves[1].key}|{second}")
            others = self._graphs(subject, part, model, inputs, classes, maskers, rng, keyed)
        players = [masker(x) for masker, x in zip(maskers, part.inputs, strict=True)]
        names = [cast.names(part, cut) for cut in players]
        value = how.score(part)
        score = VALUES[value](0)
        return ToldGraphs(
            subject=part,
            usual=subject,
            classes=classes,
            graphs=_with_names(graphs, names),
            others=_with_names(others, names),
            other_inputs=inputs if self.attack else None,
            second=second,
            players=tuple(players),
            noun=("feature", "features") if cast.kind == "groups" else cast.noun,
            unit=part.number or (score.name if isinstance(score, ClassScore) else value.replace("_", " ")),
            predicted=self.of == "predicted",
            explained=self.explained,
            max_patterns=self.max_patterns,
            settings={
                "players": cast.in_words(players[0]),
                "absent players": fill_in_words(part, self.fill) + (", then learned" if self.learn_baseline else ""),
                "value": part.number or value.replace("_", " "),
                "class": str(self.of),
                "logic": self.logic,
                "explained variance": self.explained,
                "most patterns": self.max_patterns,
                "pruning": "greedy, window 20",
                **({"compared with": second} if second else {}),
            },
            spent=spent,
        )

    def findings(self, told: ToldGraphs, rng: Stream) -> list[Finding]:
        """Put the graphs into words and pictures.

        :meta private:
        """
        shown = range(min(MOST_FINDINGS, len(told.graphs)))
        return [summary_finding(told, rng.child("summary")), *(sample_finding(told, k) for k in shown)]

    def _how(self) -> Explain:
        return Explain(
            players=self.players, value=self.value, of=self.of, fill=self.fill, samples=self.samples, ids=self.ids
        )

    def _graphs(
        self,
        subject: Subject,
        part: Subject,
        model: Model,
        inputs: Tensor,
        classes: Tensor,
        maskers: list[Masker],
        rng: Stream,
        work: Work,
    ) -> tuple[AndOrGraph, ...]:
        asked: Model | Sequence[OnEmbeddings] = model
        settings = _baseline_settings(subject) if self.learn_baseline and not is_text(subject) else None
        looks = self.learn_baseline and is_text(subject)
        if looks:
            asked = played = [on_embeddings(model, ids) for ids in inputs]
            inputs = torch.stack([one.inputs for one in played])
            maskers = [_on_embeddings(masker, one) for masker, one in zip(maskers, played, strict=True)]
            settings = BaselineSettings(steps=STEPS, scale=played[0].scale)
        graphs = and_or_graphs(
            asked,
            inputs,
            classes,
            maskers,
            value=VALUES[self._how().score(part)],
            logic=self.logic,
            learn_baseline=settings,
            explained=self.explained,
            max_patterns=self.max_patterns,
            rng=rng.child("graph").at(part.ids),
            work=work,
        )
        return tuple(replace(graph, evaluations=graph.evaluations + looks) for graph in graphs)

    def _second(self, subject: Subject, part: Subject, classes: Tensor, rng: Stream) -> tuple[Model, Tensor, str, int]:
        """Return what the graphs are compared with, and what that cost.

        A model, inputs for it, and both in words; empty words if there is nothing to compare with.
        """
        if self.against is not None and self.attack:
            raise DataError("compare with another model or with attacked inputs, not with both at once")
        if self.against is not None:
            return self.against.model, part.inputs, self.against.name, 0
        if not self.attack:
            return part.model, part.inputs, "", 0
        found = attacked(
            part.model,
            part.inputs,
            classes,
            self._attack(part),
            rng=rng.child("attack").at(part.ids),
            batch_size=kept(part),
        )
        what = f"the same inputs attacked by {self.attack}"
        return part.model, found.inputs.to(part.inputs), what, found.evaluations

    def _attack(self, subject: Subject) -> PGD:
        match = re.fullmatch(r"(linf|l2):(\d*\.?\d+)(?:/(\d*\.?\d+))?", self.attack)
        if not match or not float(match[3] or 1):
            raise DataError(f"attack must be a norm and a radius, such as linf:8/255 or l2:0.5, got {self.attack!r}")
        if not subject.differentiable or subject.modality == "text":
            raise DataError(f"an attack needs gradients, and {subject.name} gives none to its inputs")
        radius = float(match[2]) / float(match[3] or 1)
        scale = None if is_image(subject) else spread(subject).to(subject.inputs)
        return PGD(BALLS[match[1]](radius, bounds=subject.bounds, scale=scale))


def _has_gradients(subject: Subject, inputs: Tensor) -> bool:
    """Whether scores follow the inputs, or the embeddings of a text.

    Raises:
        ModelError: the model of texts has no embeddings to play on.
    """
    if not is_text(subject):
        return subject.differentiable and inputs.is_floating_point()
    played = on_embeddings(subject.model, inputs[0])
    with evaluating(played), torch.enable_grad():
        return bool(played(played.inputs[None].clone().requires_grad_()).requires_grad)


def _on_embeddings(masker: Masker, played: OnEmbeddings) -> Masker:
    """Return the words of a text as players on its embeddings; absent ones show that of the same token."""
    assert isinstance(masker, Words)
    token = masker.text.absent if masker.fill is None else masker.fill
    assert isinstance(token, int)
    return replace(masker, fill=played.vector(token))


def _baseline_settings(subject: Subject) -> BaselineSettings:
    scale = spread(subject) if subject.inputs.ndim == 2 else subject.usual.double().std(0, correction=0)
    return BaselineSettings(steps=STEPS, scale=scale.to(subject.inputs), bounds=subject.bounds)


def _with_names(graphs: tuple[AndOrGraph, ...], names: list[tuple[str, ...]]) -> tuple[AndOrGraph, ...]:
    return tuple(replace(g, names=_short(own, g.grid)) for g, own in zip(graphs, names, strict=False))


def _short(names: tuple[str, ...], grid: tuple[int, int] | None) -> tuple[str, ...]:
    """Return the names of players in little room: cells are r1c2."""
    return names if grid is None else tuple(f"r{p // grid[1] + 1}c{p % grid[1] + 1}" for p in range(len(names)))


def _fewer(subject: Subject) -> str:
    if is_image(subject):
        return "grid:3x4"
    return "words:10" if subject.modality == "text" else "groups, with at most 16 groups of columns"
