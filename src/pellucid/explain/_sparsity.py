"""How sparse is a model over a data set? And-Or graphs of many inputs, shared out over processes, and their spread."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ALONE, Interval, Masker, Model, OnStep, Players, Stream, Work, bootstrap
from pellucid.games import ValueOf, log_odds, sizes

from ._and_or_graph import AndOrGraph, Logic
from ._concepts import and_or_graph_of, check_settings, concept_table, in_two
from ._learned_baseline import BaselineSettings, LearnedBaseline, check_count
from ._learned_baseline import learn_baseline as baseline_for
from ._samples import check_samples

STRONG = 0.05
"""A pattern is strong above this share of the strongest."""

_POINTS = 40


def and_or_graphs(
    model: Model | Sequence[Model],
    x: Float[Tensor, "samples *input"] | Int[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker | Sequence[Masker],
    *,
    value: ValueOf = log_odds,
    logic: Logic = "and",
    learn_baseline: BaselineSettings | None = None,
    explained: float = 0.95,
    max_patterns: int = 80,
    rng: Stream,
    work: Work = ALONE,
) -> tuple[AndOrGraph, ...]:
    """Which few combinations of parts made each input's score? `and_or_graph` for many inputs.

    A sample's graph depends on its id, not on its company, and is the same in one process and in many.

    Args:
        model: maps a batch to logits; one for all inputs, or one for each, such as `games.on_embeddings` of each text.
        x: inputs.
        y: the class whose score is explained, per input.
        masker: cuts an input into players; one for all inputs, or one for each.
        value, logic, learn_baseline, explained, max_patterns: see `and_or_graph`.
        rng: bound to the samples' ids, else row numbers are the ids.
        work: how the computation is watched, kept and shared out.

    Raises:
        ValueError: more than 16 players, settings out of range, or samples that do not fit.
    """
    check_settings(explained, max_patterns, logic)
    ids = check_samples(x, y, rng)
    maskers = [masker] * len(x) if isinstance(masker, Masker) else list(masker)
    models = list(model) if isinstance(model, Sequence) else [model] * len(x)
    for name, given in (("masker", maskers), ("model", models)):
        if len(given) != len(x):
            raise ValueError(f"one {name} per input is needed, got {len(given)} for {len(x)} inputs")
    players = [make(one) for make, one in zip(maskers, x, strict=True)]
    most = max(cut.count for cut in players)
    check_count(most)

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        k = int(rows)  # one sample is one chunk
        own, found = maskers[k], dict[str, Tensor]()
        if learn_baseline is not None:
            first, on_step = in_two(on_step, players[k].count, learn_baseline.steps)
            learned = baseline_for(
                models[k], x[k], own, target=int(y[k]), value=value, settings=learn_baseline, on_step=first
            )
            own, found = learned.applied(own), _packed(learned)
        worth, noise = concept_table(
            models[k], x[k], int(y[k]), own, value=value, rng=rng.at(ids[k : k + 1]), on_step=on_step
        )
        found["worth"] = torch.nn.functional.pad(worth, (0, (1 << most) - len(worth)), value=torch.nan)
        found["noise"] = torch.tensor(noise, dtype=torch.float64)
        return {key: tensor[None] for key, tensor in found.items()}

    key = f"{_told(players, learn_baseline)}|{rng.seed}|{getattr(value, '__name__', value)}"
    tables = work.map("graphs", ids, compute, chunk=1, key=key)
    return tuple(
        and_or_graph_of(
            tables["worth"][k][: 1 << cut.count],
            cut,
            noise=float(tables["noise"][k]),
            logic=logic,
            explained=explained,
            max_patterns=max_patterns,
            baseline=_unpacked({name: tensor[k] for name, tensor in tables.items()}) if learn_baseline else None,
        )
        for k, cut in enumerate(players)
    )


def _told(players: Sequence[Players], settings: BaselineSettings | None) -> str:
    """Return who plays, what absent players show and how that is learned, as a digest: 3 x 4 cells are not 4 x 3."""
    told = hashlib.sha256(repr(settings and replace(settings, scale=None)).encode())
    scale = None if settings is None else settings.scale
    for tensor in (*(part for cut in players for part in (cut.owner, cut.baseline)), scale):
        if tensor is not None:
            told.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            told.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{','.join(str(cut.count) for cut in players)}|{told.hexdigest()}"


_SCALARS = ("l1_before", "l1_after", "distance", "score_absent_before", "score_absent", "evaluations")


def _packed(learned: LearnedBaseline) -> dict[str, Tensor]:
    scalars = torch.tensor([float(getattr(learned, name)) for name in _SCALARS], dtype=torch.float64)
    return {"baseline": learned.baseline, "trace": learned.trace, "scalars": scalars}


def _unpacked(found: dict[str, Tensor]) -> LearnedBaseline:
    numbers = dict(zip(_SCALARS, found["scalars"].tolist(), strict=True))
    evaluations = int(numbers.pop("evaluations"))
    return LearnedBaseline(baseline=found["baseline"], trace=found["trace"], evaluations=evaluations, **numbers)


@dataclass(frozen=True, eq=False)
class Sparsity:
    """How few patterns explain the scores of a data set's inputs. Intervals are over samples, 95 %, bootstrap.

    Args:
        graphs: the graph of each sample.
        needed: mean number of patterns that the share asked for needs.
        explained: mean share of variance that at most the allowed number of patterns explain.
        strong: mean number of patterns above 5 % of the sample's strongest.
        l1: mean sum of |effect| over all patterns.
        sparse: share of samples for which the allowed number of patterns is enough.
        noise: mean number of patterns that cannot be told from rounding.
        counts: int64 `(P,)`, numbers of patterns.
        curve: `(N, P)`, share of variance that so many patterns of the path explain.
        strengths: `(N, P)`, strength of the pattern of each rank in `counts`, over the strongest; 0 beyond the last.
        evaluations: model evaluations spent.
    """

    graphs: tuple[AndOrGraph, ...]
    needed: Interval[Tensor]
    explained: Interval[Tensor]
    strong: Interval[Tensor]
    l1: Interval[Tensor]
    sparse: float
    noise: float
    counts: Int[Tensor, " points"]
    curve: Float[Tensor, "samples points"]
    strengths: Float[Tensor, "samples points"]
    evaluations: int


def sparsity(
    model: Model,
    x: Float[Tensor, "samples *input"] | Int[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker | Sequence[Masker],
    *,
    value: ValueOf = log_odds,
    logic: Logic = "and",
    learn_baseline: BaselineSettings | None = None,
    explained: float = 0.95,
    max_patterns: int = 80,
    rng: Stream,
    work: Work = ALONE,
) -> Sparsity:
    """How few patterns explain the scores of a data set's inputs?

    Args:
        model, x, y, masker, value, logic, learn_baseline, explained, max_patterns, rng, work: see `and_or_graphs`.

    Example:
        >>> import torch
        >>> from pellucid.games import Features, logit
        >>> model = lambda x: torch.stack([x[:, 0] * x[:, 1] + x[:, 2], -x[:, 0]], dim=1)
        >>> x, y = torch.ones(3, 3), torch.zeros(3, dtype=torch.int64)
        >>> found = sparsity(model, x, y, Features(fill="zero"), value=logit, explained=1.0, rng=Stream(0))
        >>> float(found.needed.value), found.sparse
        (2.0, 1.0)
    """
    graphs = and_or_graphs(
        model,
        x,
        y,
        masker,
        value=value,
        logic=logic,
        learn_baseline=learn_baseline,
        explained=explained,
        max_patterns=max_patterns,
        rng=rng,
        work=work,
    )
    return sparsity_of(graphs, rng=rng)


def sparsity_of(graphs: Sequence[AndOrGraph], *, rng: Stream) -> Sparsity:
    """How few patterns explain the scores, given the graphs? See `sparsity`.

    Args:
        graphs: at least one.
        rng: where the bootstrap's draws come from.
    """
    if not graphs:
        raise ValueError("graphs is empty; give at least one")
    most = max(graph.n_all_patterns for graph in graphs)
    points = torch.logspace(0, math.log10(most), _POINTS, dtype=torch.float64).round().long().tolist()
    counts = torch.tensor(sorted(set(points)))
    curve = torch.stack([graph.path.explained[(graph.n_all_patterns - counts).clamp_min(0)] for graph in graphs])
    ranked = [_ranked(graph, most) for graph in graphs]

    def over_samples(name: str, values: list[float]) -> Interval[Tensor]:
        return bootstrap(torch.tensor(values, dtype=torch.float64), rng=rng.child("sparsity").child(name))

    return Sparsity(
        graphs=tuple(graphs),
        needed=over_samples("needed", [float(graph.needed) for graph in graphs]),
        explained=over_samples("explained", [graph.explained_variance for graph in graphs]),
        strong=over_samples("strong", [float((ranks > STRONG).sum()) for ranks in ranked]),
        l1=over_samples("l1", [graph.l1 for graph in graphs]),
        sparse=sum(graph.sparse for graph in graphs) / len(graphs),
        noise=sum(_within_noise(graph) for graph in graphs) / len(graphs),
        counts=counts,
        curve=curve,
        strengths=torch.stack([ranks[counts - 1] for ranks in ranked]),
        evaluations=sum(graph.evaluations for graph in graphs),
    )


def _ranked(graph: AndOrGraph, most: int) -> Tensor:
    """Return the strengths of all patterns over the strongest, strongest first."""
    strength = graph.terms[graph.path.order].abs().sort(descending=True).values
    strength = strength / strength[0] if float(strength[0]) > 0 else strength
    return torch.nn.functional.pad(strength, (0, most - len(strength)))


def _within_noise(graph: AndOrGraph) -> int:
    rows = graph.path.order
    limits = 3 * graph.noise * 2 ** (sizes(graph.n_players)[rows % len(graph.and_terms)] / 2)
    return int((graph.terms[rows].abs() <= limits).sum())
