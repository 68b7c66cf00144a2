"""Do any classes share a direction in the last layer, and how near is it to neural collapse?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from pellucid.core import (
    ALONE,
    PENULTIMATE,
    Advice,
    Classifier,
    Effort,
    FeatureReader,
    Finding,
    Interval,
    Measure,
    Need,
    OnStep,
    Provenance,
    Stream,
    Subject,
    Work,
    has_linear,
    number,
    wilson,
)
from pellucid.metrics import (
    Classification,
    Collapse,
    FrequencyGroups,
    Geometry,
    classification,
    collapse,
    frequency_groups,
    group_accuracy,
    simplex_geometry,
)

from .. import _levels
from .._advice import recipe
from .._batches import forwards
from .._players import is_large
from .._samples import draw, ids_of
from .._wording import brief, count, in_percent, listed, percent
from ._collapse_exhibits import Pair, exhibits_of

TRIED = 8
"""Samples on which the classifier is looked for."""

FEWEST = 5
"""Samples below which a class's features say too little to be measured."""

LEAST = 100
WANTED = {"quick": 500, "full": 2000}
PER_CLASS = 10
"""Samples of each class that are wanted where there are many classes."""

IMBALANCED = 2.0
"""Ratio of the largest to the smallest class in training from which on some classes are called rare."""

LONG_TAILED = ("fashion-mnist", "cifar10")
"""Data sets of which there are recipes with long tails for a CPU."""


@dataclass(frozen=True)
class Seen:
    """What the probe found out about a subject.

    Args:
        subject: on the samples looked at.
        classifier: the last linear layer.
        weights: geometry of its vectors about their mean.
        collapse: measures of the features, None where no two classes have enough samples.
        rows: samples that these measures rest on.
        answers: accuracy and confusion, None without labels or where features were not looked at.
        groups: classes by their training samples; None where these are unknown or about equal.
        pairs: classes by how much they share, the closest first, and those of which one is answered as the other.
        shared: number of all pairs that share a direction.
        evaluations: model evaluations spent.
    """

    subject: Subject
    classifier: Classifier
    weights: Geometry
    collapse: Collapse | None
    answers: Classification | None
    groups: FrequencyGroups | None
    pairs: tuple[Pair, ...]
    shared: int
    evaluations: int

    @property
    def lost(self) -> tuple[int, ...]:
        """Classes that are answered rightly less often than by chance, though not as one other class."""
        if self.answers is None or self.subject.n_classes < 3:
            return ()
        merged = {pair.merged[0] for pair in self.pairs if pair.merged}
        right = zip(self.answers.confusion.diagonal().tolist(), self.answers.support.tolist(), strict=True)
        low = [n > 0 and wilson(hits, n).high < 1 / self.subject.n_classes for hits, n in right]
        return tuple(k for k in range(len(low)) if low[k] and k not in merged)

    @property
    def by_group(self) -> dict[str, Interval[float]]:
        """Accuracy on frequent, medium and rare classes."""
        if self.groups is None or self.answers is None or self.subject.labels is None:
            return {}
        return group_accuracy(self.answers.correct, self.subject.labels, self.groups)


@final
@dataclass(frozen=True)
class Collapses:
    """Class means and classifier vectors beside a simplex ETF (NC1 to NC4), and classes that share a direction."""

    name: str = "collapse"
    question: str = field(default="Do any classes share a direction in the last layer?")

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward of each sample, and of eight to find the classifier; those eight alone where classes are few."""
        tried = min(TRIED, len(subject))
        if not has_linear(subject.model):
            skip = (
                f"{subject.name} has no linear layer that can be watched, so there are no class directions to compare"
            )
            return Need(0, 0, skip=skip)
        if not _told(subject.labels):
            return Need(tried, tried)
        k = subject.n_classes
        most = min(len(subject), WANTED["quick"] if is_large(subject) else max(WANTED[effort], PER_CLASS * k))
        least = min(most, max(LEAST, FEWEST * k))
        return Need(
            least + tried,
            most + tried,
            memory=2**27,
            remark=f"looks at fewer than {most} samples: wider intervals",
        )

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding.

        Raises:
            ModelError: the logits come from no linear layer, or features are not finite.
        """
        tried = min(TRIED, len(subject))
        n = budget - tried if _told(subject.labels) else 0
        part = subject.take(draw(subject, n, rng=rng.child("samples"))) if n > 0 else subject
        seen = _look(part, subject.inputs[:tried], work, told=n > 0)
        work.on_step(1, 1)
        return [self._finding(seen)]

    def _finding(self, seen: Seen) -> Finding:
        subject, found = seen.subject, seen.collapse
        shared = [pair for pair in seen.pairs if pair.shares]
        merged = [pair for pair in seen.pairs if pair.merged is not None]
        accuracy = seen.by_group
        reach = -1.0 if found is None or subject.n_classes < 3 else interval_of(found, "means.closest")[2] or -1.0
        judged = _levels.collapse(
            seen.shared,
            [
                f"{subject.class_names[a]} as {subject.class_names[b]}"
                for a, b in (p.merged for p in merged if p.merged)
            ],
            accuracy.get("head"),
            accuracy.get("tail"),
            lost=[subject.class_names[k] for k in seen.lost],
            told=found is not None,
            reach=reach,
        )
        near = list(seen.pairs[:1]) if reach > _levels.SHARED else []
        measures = _measures(seen)
        return Finding(
            probe=self.name,
            name="collapse",
            question=self.question,
            answer=_answer(seen, shared, merged),
            measure=measures[0],
            level=judged.level,
            reason=judged.reason,
            advice=_advice(seen, merged or shared or near, judged.level),
            measures=tuple(measures[1:]),
            exhibits=exhibits_of(
                subject, seen.weights, found, seen.answers, groups=seen.groups, accuracy=accuracy, pairs=seen.pairs
            ),
            provenance=Provenance(
                seed=0,
                evaluations=seen.evaluations,
                sample_ids=ids_of(subject) if found is not None else ids_of(subject, torch.arange(1)),
                settings={
                    "features": f"input of the last linear layer, {seen.classifier.weight.shape[1]} numbers",
                    "classifier": "fixed in advance" if seen.classifier.fixed else "learned",
                    "classifier's vectors": "about their mean, which changes no answer",
                    "classes": "each has the same weight",
                    "samples per class": f"at least {FEWEST}",
                    "interval": "delete-one-group jackknife over samples; shares: Wilson; 95%",
                },
            ),
            references=("arXiv:2008.08186", "arXiv:2203.09081"),
            cautions=_cautions(seen),
        )


# -- numbers -----------------------------------------------------------------------------------------------------------


def _told(labels: Tensor | None) -> bool:
    """Whether at least two classes have enough samples."""
    return labels is not None and int((labels.bincount() >= FEWEST).sum()) >= 2


def _look(subject: Subject, example: Tensor, work: Work, *, told: bool) -> Seen:
    read = FeatureReader(subject.model, PENULTIMATE, example=example)
    classifier = read.classifier
    assert classifier is not None  # as "penultimate" is read
    # What all vectors have in common moves all logits alike and changes no answer, so it makes no two classes close.
    vectors = classifier.weight.cpu().double()
    vectors = vectors - vectors.mean(0)
    weights = simplex_geometry(vectors)
    spent, found, answers = len(example), None, None
    if told:
        h, logits = _features(subject, read, work)
        spent += len(subject)
        assert subject.labels is not None
        answers = classification(logits, subject.labels)
        if _told(subject.labels):
            rows = (subject.labels.bincount()[subject.labels] >= FEWEST).nonzero()[:, 0]
            found = collapse(
                h[rows],
                subject.labels[rows],
                weight=vectors,
                logits=logits[rows],
                frequencies=torch.tensor(subject.class_counts) if subject.class_counts else None,
            )
    groups = None
    if _uneven(subject.class_counts):
        groups = frequency_groups(subject.class_counts)
    pairs, shared = _pairs(weights, found, answers)
    return Seen(subject, classifier, weights, found, answers, groups, pairs, shared, spent)


def _uneven(counts: tuple[int, ...]) -> bool:
    """Whether some classes were rare in training; a random half of a balanced set has no rare classes."""
    return bool(counts) and max(counts) >= IMBALANCED * max(1, min(counts))


def _features(subject: Subject, read: FeatureReader, work: Work) -> tuple[Tensor, Tensor]:
    """Return features and logits of all samples, shared out batch by batch."""

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        seen = read(subject.inputs[rows])
        return {"features": seen.features[PENULTIMATE], "logits": seen.output}

    done = work.map("penultimate", subject.ids, compute, chunk=forwards(subject))
    return done["features"], done["logits"]


def _pairs(weights: Geometry, found: Collapse | None, answers: Classification | None) -> tuple[tuple[Pair, ...], int]:
    """Return pairs of classes, those that share most first, and how many of all pairs share a direction."""
    k = len(weights.norms)
    of_means = torch.full((k, k), math.nan, dtype=torch.float64) if found is None else found.means.cosines
    places = [] if answers is None else _merged(answers)
    above, shared = torch.ones(k, k).triu(1) > 0, 0
    if k > 2:  # two centered means always point apart
        both = torch.where(above, torch.fmax(weights.cosines, of_means), -9.0)
        shared = int((both > _levels.SHARED).sum())
        order = both.flatten().argsort(descending=True, stable=True)[: min(_levels.PAIRS_LOOKED_AT, int(above.sum()))]
        closest = [(place // k, place % k) for place in order.tolist()]
        places = [*closest, *(place for place in places if place not in closest)]
    pairs = [
        Pair(a, b, number(of_means[a, b]), float(weights.cosines[a, b]), *_taken(answers, a, b)) for a, b in places
    ]
    return tuple(pairs), shared


def _merged(answers: Classification) -> list[tuple[int, int]]:
    """Return the pairs of which one class is mostly answered as the other, wherever the two lie."""
    wrong = answers.confusion - answers.confusion.diagonal().diag()
    hits, others = wrong.max(1)
    pairs = set()
    for own in ((2 * hits > answers.support) & (hits > 0)).nonzero()[:, 0].tolist():
        if _levels.mostly(int(hits[own]), int(answers.support[own])):
            pairs.add((min(own, int(others[own])), max(own, int(others[own]))))
    return sorted(pairs)


def _taken(answers: Classification | None, a: int, b: int) -> tuple[float | None, float | None, tuple[int, int] | None]:
    """Return how often a is answered as b, b as a, and which class is merged into which, if one is."""
    if answers is None:
        return None, None, None
    shares, merged = [], None
    for own, other in ((a, b), (b, a)):
        n, hits = int(answers.support[own]), int(answers.confusion[own, other])
        shares.append(hits / n if n else None)
        if n and _levels.mostly(hits, n):
            merged = (own, other)
    return shares[0], shares[1], merged


# -- words -------------------------------------------------------------------------------------------------------------


def _answer(seen: Seen, shared: list[Pair], merged: list[Pair]) -> str:
    names, found = seen.subject.class_names, seen.collapse
    ideal = brief(-1 / (len(names) - 1))
    parts = []
    if merged:
        told = [f"{names[a]} is mostly answered as {names[b]}" for a, b in (p.merged for p in merged if p.merged)]
        parts.append(f"{_upper(listed(told, most=3))}.")
    if seen.lost:
        told = [names[k] for k in seen.lost]
        parts.append(
            f"{_upper(listed(told, most=3))} {'is' if len(told) == 1 else 'are'} answered rightly less often than by "
            "chance."
        )
    if shared:
        told = [f"{names[p.a]} and {names[p.b]} ({brief(p.closest)})" for p in shared]
        parts.append(
            f"{count(seen.shared, 'pair of classes shares', 'pairs of classes share')} a direction: "
            f"{listed(told, most=3)}; the ideal cosine is {ideal}."
        )
    elif len(names) == 2:
        parts.append("With two classes there is one direction, and nothing to share.")
    elif seen.pairs:
        closest = seen.pairs[0]
        parts.append(
            f"No two classes are shown to share a direction: the closest are {names[closest.a]} and "
            f"{names[closest.b]}, cosine {brief(closest.closest)} (ideal {ideal})."
        )
    if found is None:
        why = "the data have no labels" if seen.subject.labels is None else f"too few have {FEWEST} samples here"
        parts.append(f"This is read from the classifier alone: {why}, so nothing is told of the features.")
    else:
        nearest = 1 - found.nc4.value
        parts.append(
            f"NC1, the scatter within classes measured by that between them, is {brief(found.nc1)} (0 at full "
            f"collapse), and the nearest class mean gives the model's own answer on {percent(nearest)} of "
            f"{count(int(found.counts.sum()), 'sample')}."
        )
    accuracy = seen.by_group
    if "head" in accuracy and "tail" in accuracy:
        parts.append(
            f"Frequent classes are right on {percent(accuracy['head'].value)}, rare ones on "
            f"{percent(accuracy['tail'].value)}."
        )
    return " ".join(parts)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _advice(seen: Seen, pairs: list[Pair], level: str) -> Advice | None:
    if level in ("fine", "noted"):
        return None
    subject = seen.subject
    names = subject.class_names
    who = listed((f"{names[p.a]} and {names[p.b]}" for p in pairs), most=2)

    def of(text: str) -> str:
        return f"{who}: {text}" if who else _upper(text)

    if subject.class_counts and not _uneven(subject.class_counts):
        return Advice(
            text=of(
                "all classes were about equally frequent in training, so look at the samples. Where labels are right "
                "and the samples look alike, only inputs that show the difference, or one class for both, help; no "
                "classifier parts what its inputs do not."
            )
        )
    # Recipes of the subject's own data where there are some; `recipe` tells the others what to change.
    data = subject.data_name if subject.data_name in LONG_TAILED else LONG_TAILED[0]
    balanced, adjusted = (f"{arm}-lt-{data}" for arm in ("ce-balanced", "logit-adjusted"))
    had = ""
    if subject.class_counts:
        had = (
            f"training had {max(subject.class_counts):,} samples of the most frequent class and "
            f"{min(subject.class_counts):,} of the rarest. "
        )
    if seen.classifier.fixed:
        text = had + (
            f"{'The' if had or not who else 'the'} directions of the classifier are fixed in advance already; what is "
            "left is how near the features come to them. More epochs bring them nearer, and more varied samples of the "
            f"rare classes help on new data. Compare with the recipes {balanced} and {adjusted}, which learn their "
            "directions."
        )
        return recipe(subject, of(text), f"pellucid train {adjusted} --out runs/adjusted", made_for=data)
    if had and not pairs:
        text = (
            f"{had}Adjust the logits by the class frequencies, which served rare classes best in our trainings on long "
            f"tails, and compare it with the recipes {balanced} and etf-dr-lt-{data}, which keeps more of the accuracy "
            "on frequent classes."
        )
        return recipe(subject, of(text), f"pellucid train {adjusted} --out runs/adjusted", made_for=data)
    if had:
        text = (
            f"{had}Fix the class directions in advance by a simplex ETF head with the dot-regression loss, which kept "
            "class means farthest apart in our trainings on long tails, and compare it with the recipes "
            f"{balanced} and {adjusted}, which served rare classes better there."
        )
    else:
        text = (
            "where one of them was rare in training, fix the class directions in advance by a simplex ETF head with "
            "the dot-regression loss; where both were frequent, look at their samples and labels first."
        )
    return recipe(subject, of(text), f"pellucid train etf-dr-lt-{data} --out runs/etf", made_for=data)


def _cautions(seen: Seen) -> tuple[str, ...]:
    subject, found, k = seen.subject, seen.collapse, seen.subject.n_classes
    cautions = []
    if found is not None:
        inside = found.counts[found.counts > 0]
        cautions.append(
            "Neural collapse is defined on training data. These are the audited samples and their own class means: on "
            "data the model has not learned from, NC1 and NC4 are larger."
        )
        if len(inside) < k:
            cautions.append(
                f"Fewer than {FEWEST} samples are here of {count(k - len(inside), 'class', 'classes')} of {k:,}: they "
                "are left out of all that rests on features, and the other class means are centered without them."
            )
        if int(inside.min()) < 30:
            cautions.append(
                f"Some class has only {count(int(inside.min()), 'sample')}: its mean is rough, and the scatter within "
                "classes is measured too small."
            )
        if not found.stderr:
            cautions.append("There are too many classes for standard errors of the features' measures.")
    width = seen.classifier.weight.shape[1]
    if k > width + 1:
        cautions.append(f"{k:,} classes have no simplex ETF in {width:,} dimensions, so NC2 cannot reach its ideal.")
    if not subject.class_counts:
        cautions.append(
            "The training samples per class are not known here, so classes are not sorted into frequent and rare ones. "
            "Models that pellucid train makes carry these counts."
        )
    elif seen.groups is None:
        cautions.append("All classes were about equally frequent in training, so there is no rare third to compare.")
    return tuple(cautions)


# -- measures ----------------------------------------------------------------------------------------------------------


def _measures(seen: Seen) -> list[Measure]:
    k, found = seen.subject.n_classes, seen.collapse
    measures: list[Measure] = []
    if found is not None:
        measures += [
            _measure(found, "nc1", "scatter within classes over that between them (NC1)", "0 at full collapse"),
            _measure(found, "cdnv", "scatter within pairs of classes over their distance (CDNV)", "0 at full collapse"),
            *_geometry("means", "class means", found.means, k, found),
            _measure(
                found, "nc3", "distance of the classifier from the class means (NC3)", "0 at full collapse, at most 4"
            ),
            _measure(found, "nc3_alignment", "mean cosine of classifier vectors and class means", "1 at full collapse"),
            Measure(
                name="nc4",
                label="share of answers that differ from the nearest class mean (NC4)",
                value=in_percent(found.nc4.value),
                low=in_percent(found.nc4.low),
                high=in_percent(found.nc4.high),
                unit="%",
                usual="0 at full collapse",
            ),
        ]
    measures += _geometry("classifier", "the classifier's vectors", seen.weights, k, None)
    if k > 2:
        measures.append(
            Measure(
                name="shared_directions",
                label=f"pairs of classes with a cosine above {_levels.SHARED:g}",
                value=float(seen.shared),
                usual="0",
                better="lower",
            )
        )
    if found is not None and seen.groups is not None and math.isfinite(found.minority):
        usual = f"{brief(-1 / (k - 1))} at best, 1 where they collapsed to one direction"
        for kind, value, words in (
            ("classifier", found.minority, "classifier vectors"),
            ("means", found.minority_means, "class means"),
        ):
            measures.append(
                Measure(
                    name=f"minority_collapse[{kind}]",
                    label=f"mean cosine of the {words} of the rarest third of the classes",
                    value=number(value),
                    usual=usual,
                    better="lower",
                )
            )
    for name, accuracy in seen.by_group.items():
        which = {"head": "most frequent third", "medium": "middle third", "tail": "rarest third"}[name]
        measures.append(
            Measure(
                name=f"accuracy_{name}",
                label=f"accuracy on the {which} of the classes",
                value=in_percent(accuracy.value),
                low=in_percent(accuracy.low),
                high=in_percent(accuracy.high),
                unit="%",
                better="higher",
            )
        )
    return measures


_LIMITS = {"nc3": (0.0, 4.0), "alignment": (-1.0, 1.0), "means.closest": (-1.0, 1.0)}
_KEYS = {"nc3_alignment": "alignment"}


def _measure(found: Collapse, name: str, label: str, usual: str) -> Measure:
    key = _KEYS.get(name, name)
    value, low, high = interval_of(found, key)
    return Measure(name=name, label=label, value=value, low=low, high=high, usual=usual)


def interval_of(found: Collapse, key: str) -> tuple[float | None, float | None, float | None]:
    """Return a measure of the features with the ends of its interval, None where it has none."""
    value, half = found.numbers()[key], 1.96 * found.stderr.get(key, math.nan)
    least, most = _LIMITS.get(key, (0.0, math.inf))
    return number(value), number(max(value - half, least)), number(min(value + half, most))


def _geometry(kind: str, words: str, geometry: Geometry, k: int, found: Collapse | None) -> list[Measure]:
    rows = [
        ("closest_classes", "closest", f"largest cosine of {words} of two classes", f"{brief(-1 / (k - 1))} at best"),
        ("nc2_norms", "equinorm", f"spread of the lengths of {words} (NC2)", "0 at full collapse"),
        ("nc2_angles", "equiangle", f"spread of the cosines of {words} (NC2)", "0 at full collapse"),
        ("nc2_widest", "max_angle", f"distance of the cosines of {words} from the ideal (NC2)", "0 at full collapse"),
    ]
    measures = []
    for name, part, label, usual in rows:
        value: tuple[float | None, float | None, float | None] = (number(getattr(geometry, part)), None, None)
        if found is not None:
            value = interval_of(found, f"means.{part}")
        measures.append(
            Measure(name=f"{name}[{kind}]", label=label, value=value[0], low=value[1], high=value[2], usual=usual)
        )
    return measures
