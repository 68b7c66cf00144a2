"""What the results of games show of themselves in a notebook and in a terminal."""

from __future__ import annotations

from pellucid.core import MOST_ROWS, Panel, Spark, numbers, showing

from ._interactions import Interactions
from ._pair_orders import PairOrders
from ._prune import PrunePath
from ._size_curve import SizeCurve


def _interactions(result: Interactions) -> Panel:
    one = result.values.ndim == 1
    return Panel(
        f"Interactions ({result.index})",
        facts=(
            ("players", result.n_players),
            ("coalitions", len(result.values)),
            *(() if one else (("shape of each", " x ".join(map(str, result.values.shape[1:]))),)),
            ("evaluations", result.evaluations),
        ),
        columns=("strongest coalitions", "value") if one else (),
        rows=tuple((result.label(players), value) for players, value in result.top(MOST_ROWS)) if one else (),
    )


def _size_curve(result: SizeCurve) -> Panel:
    one = result.chains.ndim == 2
    f, error = (numbers(part) for part in (result.f, result.stderr)) if one else ((), ())
    return Panel(
        "Mean worth by coalition size",
        facts=(
            ("players", result.n_players),
            ("chains", len(result.chains)),
            ("evaluations", result.evaluations),
        ),
        columns=("size", "mean worth", "standard error") if one else (),
        rows=tuple(zip(result.sizes.tolist(), f, error, strict=True)) if one else (),
        curve=Spark((f,), label="Mean worth by coalition size") if one else None,
    )


def _pair_orders(result: PairOrders) -> Panel:
    one = result.values.ndim == 2
    strength = numbers(result.abs_mean) if one else ()
    floor = numbers(result.floor.mean(0)) if one else ()
    return Panel(
        "Interactions of pairs by order",
        facts=(("pairs", len(result.pairs)), ("orders", len(result.orders)), ("evaluations", result.evaluations)),
        columns=("order", "mean strength", "noise floor") if one else (),
        rows=tuple(zip(result.orders, strength, floor, strict=True)) if one else (),
        curve=Spark((strength, floor), label="Mean strength by order") if one else None,
    )


def _prune_path(result: PrunePath) -> Panel:
    explained = numbers(result.explained)
    return Panel(
        "Patterns in the order of their removal",
        facts=(("patterns", len(result.order)), ("variance", result.variance)),
        curve=Spark((explained,), label="Explained variance after each removal"),
    )


showing(_interactions)(Interactions)
showing(_size_curve)(SizeCurve)
showing(_pair_orders)(PairOrders)
showing(_prune_path)(PrunePath)
