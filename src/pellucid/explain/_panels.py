"""What explanations show of themselves in a notebook and in a terminal."""

from __future__ import annotations

from itertools import pairwise

from pellucid.core import Panel, Spark, number, numbers, showing

from ._and_or_graph import AndOrGraph
from ._attack_attribution import AttackAttribution
from ._attack_orders import AttackOrders
from ._components import PerturbationComponents
from ._concept_maps import ConceptMaps
from ._concept_matches import ConceptMatches
from ._knowledge import KnowledgePoints
from ._signed_orders import SignedCurve
from ._spectrum import BottleneckSpectrum


def _spectrum(result: BottleneckSpectrum) -> Panel:
    parts = (result.strength, result.low, result.high, result.floor, result.relative)
    return Panel(
        "Interaction strength by order",
        result.note,
        facts=(
            ("samples", len(result.per_sample)),
            ("players", result.n_players),
            ("evaluations", result.evaluations),
        ),
        columns=("order", "others present", "strength", "low", "high", "noise floor", "relative"),
        rows=tuple(zip(result.orders.tolist(), numbers(result.ratios), *map(numbers, parts), strict=True)),
        curve=Spark(
            (numbers(result.relative),),
            numbers(result.relative_low),
            numbers(result.relative_high),
            "Relative strength by order, with its 95% interval",
        ),
    )


def _signed(result: SignedCurve) -> Panel:
    edges = result.edges.tolist()
    names = [f"{first} to {last - 1}" for first, last in pairwise(edges)]
    parts = (result.mean, result.low, result.high, result.noise)
    return Panel(
        "What each range of orders adds to the score",
        facts=(("samples", len(result.total)), ("players", result.n_players), ("evaluations", result.evaluations)),
        columns=("orders", "mean", "low", "high", "noise"),
        rows=tuple(zip(names, *map(numbers, parts), strict=True)),
        curve=Spark((numbers(result.mean),), numbers(result.low), numbers(result.high), "Mean gain by range of orders"),
    )


def _graph(result: AndOrGraph) -> Panel:
    return Panel(
        "Patterns behind one score",
        result.note,
        facts=(
            ("score", result.score),
            ("without any player", result.constant),
            ("explained variance", f"{result.explained_variance:.1%}"),
            ("patterns", f"{len(result.patterns):,} of {result.n_all_patterns:,}"),
            ("evaluations", result.evaluations),
        ),
        columns=("players", "effect", "noise"),
        rows=tuple((result.label(p.players, p.kind), p.effect, p.noise) for p in result.patterns),
    )


def _attribution(result: AttackAttribution) -> Panel:
    parts = (
        result.rows,
        result.cost_none,
        result.cost_full,
        result.share(max(1, result.n_regions // 4)),
        result.capped,
    )
    return Panel(
        "What regions save an attack",
        result.note,
        facts=(
            ("samples", len(result.values)),
            ("regions", result.n_regions),
            ("cost in", result.unit),
            ("evaluations", result.evaluations),
        ),
        columns=("row", "cost with the border", "cost with all", "share of the strongest quarter", "capped"),
        rows=tuple(zip(*map(numbers, parts), strict=True)),
    )


def _components(result: PerturbationComponents) -> Panel:
    return Panel(
        "Groups of pixels of one perturbation",
        f"The object is {'given' if result.object_source == 'given' else 'guessed by border contrast'}.",
        facts=(("groups", len(result.components)), ("evaluations", result.evaluations)),
        columns=(
            "blocks",
            "interaction",
            "standard error",
            "on the object",
            "drop of the true class",
            "gain of the target",
        ),
        rows=tuple(
            (len(c.blocks), c.interaction, c.stderr, c.foreground, c.drop_true, c.gain_target)
            for c in result.components
        ),
    )


def _attack_orders(result: AttackOrders) -> Panel:
    edges, bins = result.edges.tolist(), result.bins
    names = ["alone", *(f"{first} to {last - 1}" for first, last in pairwise(edges)), "total"]
    values = [number(result.first_order.mean()), *numbers(bins.utility), number(result.total.mean())]
    ends = [(None, *numbers(part), None) for part in (bins.low, bins.high, bins.noise)]
    return Panel(
        "What an attack takes from the score, by order",
        facts=(("samples", len(result.total)), ("players", result.n_players), ("evaluations", result.evaluations)),
        columns=("orders", "part of the drop", "low", "high", "noise"),
        rows=tuple(zip(names, values, *ends, strict=True)),
        curve=Spark((numbers(bins.utility),), numbers(bins.low), numbers(bins.high), "Part of the drop by order"),
    )


def _knowledge(result: KnowledgePoints) -> Panel:
    return Panel(
        "Knowledge points by layer",
        result.note,
        facts=(
            ("samples", len(result.labels)),
            ("length and entropy correlate by", result.certainty),
            ("principal components", result.certainty_pca),
            ("evaluations", result.evaluations),
        ),
        columns=("layer", "regions", "points per image", "reliable ones", "reliable share"),
        rows=tuple(
            (
                layer.name,
                layer.grid[0] * layer.grid[1],
                layer.points.count,
                number(layer.points.reliable_counts.double().mean()),
                number(layer.points.ratio),
            )
            for layer in result.layers
        ),
        curve=Spark((numbers(layer.points.count for layer in result.layers),), label="Knowledge points by layer"),
    )


def _concept_maps(result: ConceptMaps) -> Panel:
    use, residual = result.usage.mean(0), result.residual.mean((0, 1))
    order = use.argsort(descending=True, stable=True)
    return Panel(
        f"Atoms of {result.layer}",
        "" if result.steady else "Each evaluation starts at new random atoms: these are those of one draw.",
        facts=(
            ("inputs", len(result.maps)),
            ("atoms", result.atoms),
            ("places", " x ".join(map(str, result.maps.shape[2:]))),
            ("needed, mean", number(result.needed.double().mean())),
            ("never used", int(result.unused.sum())),
            ("residual", number(residual[-1])),
        ),
        columns=("atom (column)", "carries, mean", "most", "keeps its number"),
        rows=tuple(
            (int(a), number(use[a]), number(result.usage[:, a].max()), number(result.steadiness[a])) for a in order
        ),
        curve=Spark((numbers(residual),), label="Residual after each step"),
    )


def _concept_matches(result: ConceptMatches) -> Panel:
    score = {"iou": "IoU", "auc": "AUC"}[result.measure]
    return Panel(
        "Which class each atom follows",
        f"Classes chosen on {len(result.chosen_on)} samples; {score} is that of the {len(result.scored_on)} others.",
        facts=(("atoms", len(result.best)), ("follow a class", int(result.clear.sum()))),
        columns=("atom (row)", "class", score, "by chance", "follows it"),
        rows=tuple(
            (a, int(best), number(result.best_score[a]), number(result.best_chance[a]), "yes" if clear else "no")
            for a, (best, clear) in enumerate(zip(result.best, result.clear, strict=True))
        ),
    )


showing(_concept_maps)(ConceptMaps)
showing(_concept_matches)(ConceptMatches)
showing(_knowledge)(KnowledgePoints)
showing(_attack_orders)(AttackOrders)
showing(_spectrum)(BottleneckSpectrum)
showing(_signed)(SignedCurve)
showing(_graph)(AndOrGraph)
showing(_attribution)(AttackAttribution)
showing(_components)(PerturbationComponents)
