"""Why this answer on this input? An explanation as a probe: what to measure, and the findings it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pellucid.core import (
    ALONE,
    BudgetError,
    DataError,
    Effort,
    Finding,
    Masker,
    Need,
    Stream,
    Subject,
    Work,
    nearest,
)
from pellucid.explain import Explanation, ExplanationSettings, check_explanation, cost_explanation, explanations
from pellucid.games import INDICES, VALUES, ClassScore, find_index

from .._cast import Cast, fill_in_words
from .._players import answers
from .._samples import draw
from ._explain_findings import Told, sample_finding, summary_finding

ALIASES = {"harsanyi": "Moebius", "shapley": "SV", "banzhaf": "BV"}
"""Other names of indices."""

MOST_FINDINGS = 24
"""Samples beyond these are in the tables and in `explanation.json`, without a finding of their own."""

_MOEBIUS_ORDER = 3
_WHOLE = 12


@final
@dataclass(frozen=True)
class Explain:
    """Explain the score of a class on some samples: which parts of the input made it, alone and together.

    Args:
        players: "grid:4", "grid:3x4", "segments:12", "features", "groups" or "words:8"; "auto" is a grid of 3 x 4 for
            images, the columns of a table, or its groups if it names some, and at most ten words or phrases of a text.
        value: what is explained, one of `games.VALUES`; a model that measures a number is always explained by it.
        of: whose score: "predicted", "label", a class's name, or its number.
        fill: what an absent player shows: "mean" of the usual inputs, "zero", or for images "blur"; for words the mask,
            or "padding".
        index: one of `games.INDICES`, or "harsanyi", "shapley", "banzhaf".
        order: most players of an interaction; if not given 2, 1 for values, and all for Harsanyi up to 12 players.
        samples: how many samples, drawn evenly from the classes.
        ids: the samples with these ids instead.
        permutations: random orders for Shapley values of more than `max_exact` players.
        max_exact: most players for which all coalitions are evaluated.
    """

    players: str = "auto"
    value: str = "log_odds"
    of: str | int = "predicted"
    fill: str = "mean"
    index: str = "SII"
    order: int | None = None
    samples: int = 8
    ids: tuple[int, ...] = ()
    permutations: int = 100
    max_exact: int = 20
    name: str = "explain"
    question: str = "Why does the model answer as it does?"

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """Exactly what the settings cost; less makes another explanation.

        Raises:
            DataError, BudgetError: settings that do not fit the subject.
        """
        if subject.dense:
            return Need(0, 0, skip="asks about one answer per image")
        part, _, players = self.prepared(subject)
        looks = len(part) if self.of == "predicted" else 0
        cost = looks + sum(cost_explanation(n, self.settings(n)) for n in players)
        most = max(players)
        table = 2**most * 8 * 8 if self.settings(most).exact(most) else 0
        return Need(cost, cost, memory=table + 2**22)

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding over all samples, and in one for each."""
        return self.findings(self.measured(subject, rng, work=work), rng)

    def settings(self, n_players: int) -> ExplanationSettings:
        """Return what is measured on a game of so many players."""
        try:
            chosen = find_index(ALIASES.get(self.index.lower(), self.index))
        except ValueError:
            known = [*INDICES, *ALIASES]
            raise DataError(
                f"there is no index {self.index!r}; {nearest(self.index, known)}known are {', '.join(known)}"
            ) from None
        order = self.order
        if order is None and chosen.name == "Moebius":
            order = n_players if n_players <= _WHOLE else _MOEBIUS_ORDER
        if order is None:
            order = 1 if chosen.value else min(2, n_players)
        return ExplanationSettings(chosen.name, order, self.permutations, self.max_exact)

    def measured(self, subject: Subject, rng: Stream, *, work: Work = ALONE) -> Told:
        """Return the numbers, before they are put into words.

        :meta private:
        """
        part, maskers, counts = self.prepared(subject)
        classes = self.classes(part)
        cast = Cast.parse(self.players, part)
        made = explanations(
            part.model,
            part.inputs,
            classes,
            maskers,
            settings=self.settings(max(counts)),
            value=VALUES[self.score(part)],
            rng=rng.child("explain").at(part.ids),
            work=work,
        )
        players = [masker(x) for masker, x in zip(maskers, part.inputs, strict=True)]
        value = self.score(part)
        score = VALUES[value](0)
        return Told(
            subject=part,
            classes=classes,
            found=made,
            names=tuple(cast.names(part, cut) for cut in players),
            noun=cast.noun,
            unit=part.number or (score.name if isinstance(score, ClassScore) else value.replace("_", " ")),
            predicted=self.of == "predicted",
            settings={
                "players": cast.in_words(players[0]),
                "absent players": fill_in_words(part, self.fill),
                "value": value.replace("_", " "),
                "class": str(self.of),
                "index": self._index(max(counts)),
                "estimator": self._estimator(made),
            },
        )

    def findings(self, told: Told, rng: Stream) -> list[Finding]:
        """Put the numbers into words and pictures.

        :meta private:
        """
        shown = range(min(MOST_FINDINGS, len(told.found)))
        return [summary_finding(told, rng.child("summary")), *(sample_finding(told, k) for k in shown)]

    def _index(self, n: int) -> str:
        settings = self.settings(n)
        return f"{settings.index} up to order {settings.order}" if settings.order > 1 else settings.index

    def _estimator(self, made: tuple[Explanation, ...]) -> str:
        if all(one.exact for one in made):
            return "exact, all coalitions"
        return f"{self.permutations} permutations in antithetic pairs"

    def prepared(self, subject: Subject) -> tuple[Subject, list[Masker], list[int]]:
        """Return the samples to explain, their maskers and their numbers of players, all checked.

        :meta private:
        """
        if self.value not in VALUES:
            hint = nearest(self.value, VALUES)
            raise DataError(f"there is no value {self.value!r}; {hint}known are {', '.join(VALUES)}")
        if subject.number and self.value not in (Explain.value, "output"):
            raise DataError(f"{subject.name} measures {subject.number} and has no {self.value}; use the value output")
        if self.samples < 1:
            raise DataError(f"samples must be at least 1, got {self.samples}")
        cast = Cast.parse(self.players, subject)
        part = subject.take(self._rows(subject))
        maskers = cast.maskers(part, self.fill, usual=subject)
        alike = cast.kind not in ("segments", "words")
        counts = [masker(x).count for masker, x in zip(maskers, part.inputs[: 1 if alike else None], strict=False)]
        counts = counts * len(part) if alike else counts
        try:
            check_explanation(max(counts), self.settings(max(counts)))
        except ValueError as error:
            raise DataError(str(error)) from None
        except BudgetError as error:
            raise BudgetError(f"{self.players}: {error}") from None
        if self.of == "label" and subject.labels is None:
            raise DataError("the samples have no labels; explain the predicted class")
        self._fixed(subject)
        return part, maskers, counts

    def score(self, subject: Subject) -> str:
        """Return the value that is explained: a number is its own.

        :meta private:
        """
        return "output" if subject.number else self.value

    def _rows(self, subject: Subject) -> Tensor:
        if not self.ids:
            # Not the stream of the audit: which samples are explained must not depend on anything but the subject.
            return draw(subject, self.samples, rng=Stream(0).child("explain", "samples"))
        known = {int(name): row for row, name in enumerate(subject.ids)}
        missing = [name for name in self.ids if name not in known]
        if missing:
            raise DataError(
                f"there is no sample {missing[0]} among the {len(subject):,} of {subject.data_name}; ids run from "
                f"{int(subject.ids.min())} to {int(subject.ids.max())}"
            )
        return torch.tensor([known[name] for name in dict.fromkeys(self.ids)])

    def _fixed(self, subject: Subject) -> int | None:
        """Return the class that is named, None if it differs from sample to sample."""
        of, names = self.of, subject.class_names
        if of in ("predicted", "label"):
            return None
        if isinstance(of, str) and of in names:
            return names.index(of)
        if isinstance(of, int) or of.isdecimal():
            if int(of) < len(names):
                return int(of)
            raise DataError(f"there is no class {of}; classes are 0 to {len(names) - 1}")
        raise DataError(f"there is no class {of!r}; {nearest(of, names)}give predicted, label, a class or its number")

    def classes(self, part: Subject) -> Tensor:
        """Return the class whose score is explained, sample by sample.

        :meta private:
        """
        if self.of == "predicted":
            return answers(part)
        fixed = self._fixed(part)
        if fixed is None:
            assert part.labels is not None  # checked before
            return part.labels
        return torch.full((len(part),), fixed)
