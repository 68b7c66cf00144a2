"""Functions whose patterns are known, and how many of them each method ranks first."""

import torch
from networks import Perceptron, fit
from torch import Tensor

from pellucid.core import Stream
from pellucid.games import (
    Features,
    ModelGame,
    and_or,
    coalitions,
    harsanyi,
    index,
    log_odds,
    probability,
    sizes,
    table,
)

Rows = set[int]


def rows_of(values: Tensor, count: int) -> Rows:
    """Return the table rows of the `count` patterns of greatest strength."""
    strength = values.abs().clone()
    strength[0] = 0
    return set(strength.argsort(descending=True, stable=True)[:count].tolist())


def overlap(found: set[int], known: set[int]) -> float:
    """Return the intersection over the union."""
    return len(found & known) / len(found | known)


def draw(rng: Stream, n: int, count: int, least: int) -> list[int]:
    """Return `count` different sets of `least` to 4 players, as table rows."""
    order = rng.uniform((1 << n, 1))[:, 0].argsort()
    allowed = (sizes(n) >= least) & (sizes(n) <= 4)
    return [int(row) for row in order if bool(allowed[row])][:count]


def effects(rng: Stream, count: int) -> Tensor:
    """Return effects of either sign, of strength 0.5 to 2."""
    strength = 0.5 + 1.5 * rng.child("strength").uniform((count, 1), dtype=torch.float64)[:, 0]
    return torch.where(rng.child("sign").uniform((count, 1))[:, 0] < 0.5, strength, -strength)


def every_index(values: Tensor, count: int) -> dict[str, Rows]:
    """Return what dividends and other indices rank first."""
    n = len(values).bit_length() - 1
    found = {"dividends": rows_of(harsanyi(values).values, count)}
    for name, order in (("SII", n), ("SII", 2), ("STII", 2), ("STII", 3)):
        numbers = index(values, name, order=order)
        rows = [sum(1 << p for p in players) for players in numbers.players]
        chosen = numbers.values.abs().clone()
        chosen[[k for k, players in enumerate(numbers.players) if not players]] = 0
        ranked = chosen.argsort(descending=True, stable=True)[:count].tolist()
        found[f"{name}, order {'all' if order == n else order}"] = {rows[k] for k in ranked}
    return found


def add_mul(seed: int, *, n: int = 8) -> dict[str, float]:
    """A sum of products of some of n inputs, all present ones 1: the IoU of each method's strongest with the terms."""
    rng = Stream(seed).child("add-mul")
    count = 3 + int(rng.child("count").integers(6, (1, 1))[0, 0])
    known = draw(rng.child("sets"), n, count, 1)
    dividends = torch.zeros(1 << n, dtype=torch.float64)
    dividends[known] = effects(rng, count)
    keep = coalitions(n).double()
    values = torch.zeros(1 << n, dtype=torch.float64)
    for row in known:
        players = [p for p in range(n) if row >> p & 1]
        values += dividends[row] * keep[:, players].prod(1)
    return {name: overlap(found, set(known)) for name, found in every_index(values, count).items()}


def and_or_sum(seed: int, *, n: int = 8) -> dict[str, float]:
    """A sum of ANDs and ORs of some of n inputs: the IoU of the strongest AND and OR patterns with the terms."""
    rng = Stream(seed).child("and-or")
    count = 4 + 2 * int(rng.child("count").integers(3, (1, 1))[0, 0])
    ands = draw(rng.child("and"), n, count // 2, 1)
    ors = draw(rng.child("or"), n, count // 2, 2)
    weights = effects(rng, count).tolist()
    keep = coalitions(n)
    values = torch.zeros(1 << n, dtype=torch.float64)
    for row, weight, is_or in zip([*ands, *ors], weights, [False] * len(ands) + [True] * len(ors), strict=True):
        part = keep[:, [p for p in range(n) if row >> p & 1]]
        values += weight * (part.any(1) if is_or else part.all(1))
    known = {*ands, *((1 << n) + row for row in ors)}
    split = and_or(values)
    both = torch.cat([split.and_, split.or_])
    found = {"AND-OR": rows_of(both, count), "AND alone": rows_of(harsanyi(values).values, count)}
    return {name: overlap(rows, known) for name, rows in found.items()}


def learned(seed: int, *, residual: bool, n: int = 8) -> dict[str, float]:
    """A network that has learned an OR of three ANDs: is the AND that an input satisfies its strongest pattern?"""
    rng = Stream(seed).child("learned")
    clauses: list[int] = []
    for row in draw(rng.child("clauses"), n, 40, 2):
        if len(clauses) < 3 and all(row & other not in (row, other) for other in clauses):
            clauses.append(row)
    number = torch.arange(1 << n)
    holds = torch.stack([(number & row) == row for row in clauses], dim=1)
    x, y = coalitions(n).float(), holds.any(1).long()
    model = Perceptron(n, 2, residual=residual, seed=seed)
    fit(model, x, y, steps=600, rate=3e-3)
    once = (holds.sum(1) == 1).nonzero()[:, 0]
    found = {"accuracy": float((model(x).argmax(1) == y).double().mean()), "inputs": float(len(once))}
    for name, value in (("probability", probability), ("log odds", log_odds)):
        right = []
        for row in once.tolist():
            values = table(ModelGame(model, x[row], Features(fill="zero"), value(1)))
            clause = clauses[int(holds[row].int().argmax())]
            right.append(overlap(rows_of(harsanyi(values).values, 1), {clause}))
        found[name] = sum(right) / max(1, len(right))
    return found
