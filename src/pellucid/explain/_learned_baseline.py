"""Which baseline near the usual one makes the patterns behind a score fewest and weakest?

The sum L(r) of |w_T(r)| over all patterns falls as the baseline r moves; the patterns explain the score exactly at
every r. With w = M v (M the Moebius transform) and c = M' sign(w), L = sum of c(S) v(S), so with c held fixed the
gradient of L is that of a weighted sum of scores: no pattern needs a gradient of its own (arXiv:2111.06206). The empty
set is no pattern: its sign counts as 0.

Letters: r baseline, w patterns, v worth, c weights of the coalitions, g gradient, b half width of the box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import Masker, Model, ModelError, OnStep, Players, device_of, silent
from pellucid.games import ModelGame, ValueOf, coalitions, log_odds, mobius, superset_mobius, target_classes

MOST_PLAYERS = 16
"""Most players of a graph: 65,536 evaluations per input."""

Target = int | Literal["predicted"]

_MOST_BYTES = 1 << 29
"""Activations of a whole table are kept for one backward pass up to this size, else computed twice."""


def most_evaluations(n_players: int, steps: int) -> int:
    """Return the most evaluations that learning a baseline takes: three tables a step, the last one, a first look."""
    return (1 << n_players) * (3 * steps + 2)


def check_count(n_players: int) -> None:
    """Raise a `ValueError` for more players than a graph can have."""
    if n_players > MOST_PLAYERS:
        raise ValueError(
            f"a graph of {n_players} players needs {1 << n_players:,} evaluations per input; join players into at most "
            f"{MOST_PLAYERS}, such as words into phrases, pixels into fewer cells or segments, columns into groups"
        )


@dataclass(frozen=True, eq=False)
class BaselineSettings:
    """How far a baseline may move, and how it is moved.

    Args:
        steps: gradient steps.
        radius: how far, in units of `scale`; 0.05 in the authors' code, 0.01 of the variance in the paper.
        scale: what is much for each element, broadcastable to one input; the standard deviation over the masker's
            `background` if not given.
        shape: "box" bounds each element by radius * scale; "ball" bounds the Euclidean length of each player's move by
            that of radius * scale over the player's elements.
        rate: first step of the authors' plain descent, falling to a tenth; 0.001 in their code. If not given, the
            first step moves the element that matters most by a fifth of its box, whatever the units.
        bounds: least and greatest legal input value.
    """

    _: KW_ONLY
    steps: int = 50
    radius: float = 0.05
    scale: Tensor | None = None
    shape: Literal["box", "ball"] = "box"
    rate: float | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.radius > 0 or (self.rate is not None and not self.rate > 0):
            raise ValueError(f"need steps >= 1, radius > 0 and rate > 0, got {self.steps}, {self.radius}, {self.rate}")
        if self.shape not in ("box", "ball"):  # a wrong type is found by checkers, a wrong text is not
            raise ValueError(f'shape must be "box" or "ball", got {self.shape!r}')


@dataclass(frozen=True, eq=False)
class LearnedBaseline:
    """The best baseline that was seen, and how much it brought.

    Args:
        baseline: in the shape of one input, on the CPU.
        l1_before: sum of |effect| over all patterns, the constant left out, at the usual baseline.
        l1_after: the same at the learned baseline; never larger.
        trace: float64 `(steps + 1,)`, the sum before each step and after the last.
        distance: Euclidean distance from the usual baseline.
        score_absent_before: score of the input with every player absent, at the usual baseline.
        score_absent: the same at the learned one; a baseline must stay absent-looking.
        evaluations: model evaluations spent, a gradient counted as two.
    """

    baseline: Tensor
    l1_before: float
    l1_after: float
    trace: Float[Tensor, " iterates"]
    distance: float
    score_absent_before: float
    score_absent: float
    evaluations: int

    def applied(self, masker: Masker) -> Masker:
        """Return the masker with this baseline in the place of its own."""
        return _Refilled(masker, self.baseline)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers for JSON; `from_dict` reads them back."""
        simple = ("l1_before", "l1_after", "distance", "score_absent_before", "score_absent", "evaluations")
        return {
            **{key: getattr(self, key) for key in simple},
            "shape": list(self.baseline.shape),
            "baseline": self.baseline.flatten().tolist(),
            "trace": self.trace.tolist(),
        }

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> LearnedBaseline:
        """Return the learned baseline that `to_dict` wrote; its numbers are float64."""
        rest = {key: value for key, value in entries.items() if key not in ("shape", "baseline", "trace")}
        return cls(
            baseline=torch.tensor(entries["baseline"], dtype=torch.float64).reshape(entries["shape"]),
            trace=torch.tensor(entries["trace"], dtype=torch.float64),
            **rest,
        )


@dataclass(frozen=True, eq=False)
class _Refilled:
    """A masker whose absent players show another baseline."""

    masker: Masker
    baseline: Tensor

    def __call__(self, x: Tensor) -> Players:
        return replace(self.masker(x), baseline=self.baseline.to(x), backgrounds=0)


def learn_baseline(
    model: Model,
    x: Tensor,
    masker: Masker,
    *,
    target: Target = "predicted",
    value: ValueOf = log_odds,
    settings: BaselineSettings = BaselineSettings(),
    on_step: OnStep = silent,
) -> LearnedBaseline:
    """Which baseline near the masker's own makes the patterns behind a score fewest and weakest?

    Minimizes the sum of |w_T| over all patterns by projected gradient descent; the best iterate is returned, not the
    last. Elements of no player keep their baseline, so that the whole input's score never changes.

    Args:
        model: maps a batch to logits; gradients must reach its input.
        x: one input of floating point, without batch axis; for text, its embeddings.
        masker: cuts the input into at most 16 players, with a single baseline.
        target: the class whose score is explained.
        value: makes the value function of a class.
        settings: how far the baseline may move, and how it is moved.
        on_step: progress in steps.

    Raises:
        ValueError: more than 16 players, no scale, or an input or model without gradients.
        ModelError: the model gives NaN or infinity on a masked input, or its gradients are.

    Example:
        >>> import torch
        >>> from pellucid.games import Features, logit
        >>> model = lambda x: torch.stack([(x[:, 0] - 0.1) * x[:, 1], -x[:, 0]], dim=1)
        >>> near = BaselineSettings(radius=0.1, scale=torch.ones(2))
        >>> learned = learn_baseline(model, torch.ones(2), Features(fill="zero"), target=0, value=logit, settings=near)
        >>> learned.l1_after < learned.l1_before
        True
    """
    y = int(target_classes(model, x[None], target))
    game = ModelGame(model, x, masker, value(y))
    check_count(game.n_players)
    search = _Search(game, x, masker, settings)
    start = r = search.start
    best: tuple[float, Tensor, float] | None = None
    trace: list[float] = []
    before = 0.0
    rates = torch.logspace(0, -1, settings.steps, dtype=torch.float64).tolist()
    for step in range(settings.steps + 1):
        last = step == settings.steps
        l1, absent, g = search.look(r, gradient=not last)
        trace.append(l1)
        before = absent if step == 0 else before
        if best is None or l1 < best[0]:
            best = (l1, r, absent)
        if not last:
            if not bool(g.isfinite().all()):
                raise ModelError(
                    "the model's gradients hold NaN or infinity while a baseline is learned; choose another fill"
                )
            r = search.moved(r, g, rates[step])
        on_step(step + 1, settings.steps + 1)
    assert best is not None
    return LearnedBaseline(
        baseline=best[1].cpu(),
        l1_before=trace[0],
        l1_after=best[0],
        trace=torch.tensor(trace, dtype=torch.float64),
        distance=float((best[1] - start).double().norm()),
        score_absent_before=before,
        score_absent=best[2],
        evaluations=search.evaluations + (target == "predicted"),
    )


class _Search:
    """Where the baseline is, may go and goes."""

    def __init__(self, game: ModelGame, x: Tensor, masker: Masker, settings: BaselineSettings) -> None:
        players = game.players
        if players.backgrounds or not x.is_floating_point():
            raise ValueError(
                "a baseline is learned in place of a single one of floating-point numbers; play on embeddings, without "
                "Marginal"
            )
        self.game, self.x, self.masker, self.settings, self.evaluations = game, x, masker, settings, 0
        device = device_of(game.model)
        self.start = torch.broadcast_to(players.baseline.detach().to(x), x.shape).clone().to(device)
        self.owner = torch.broadcast_to(players.owner, x.shape).to(device)
        self.keep = coalitions(game.n_players)
        self.parts = torch.split(self.keep, game.batch_size)
        scale = settings.scale if settings.scale is not None else _spread(masker, x)
        try:
            wide = torch.broadcast_to(scale.detach().to(device=device, dtype=self.start.dtype), x.shape)
        except RuntimeError:
            raise ValueError(f"scale has shape {tuple(scale.shape)}, which does not fit {tuple(x.shape)}") from None
        self.box = torch.where(self.owner >= 0, settings.radius * wide, 0.0)
        self.whole = self._fits()

    def _fits(self) -> bool:
        """Whether the activations of all coalitions fit together; found on the first batch."""
        found: dict[int, int] = {}

        def seen(tensor: Tensor) -> Tensor:
            if not tensor.is_leaf:  # parameters are there anyway
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
            worth = self.game.differentiable(self.parts[0], self.start.clone().requires_grad_())
        self.evaluations += len(worth)
        if worth.ndim != 1:
            raise ValueError(f"a graph explains one number per coalition, got values {tuple(worth.shape[1:])}")
        if worth.grad_fn is None:
            raise ValueError("no gradient reaches the model's input; a baseline can only be learned through gradients")
        return sum(found.values()) * len(self.parts) <= _MOST_BYTES

    def look(self, r: Tensor, *, gradient: bool) -> tuple[float, float, Tensor]:
        """Return the sum of |effect|, the worth of nobody, and the gradient (zero if not asked for)."""
        at = r.detach().clone().requires_grad_(gradient)
        if not (gradient and self.whole):
            v = ModelGame(self.game.model, self.x, _Refilled(self.masker, r), self.game.value)(self.keep)
        else:
            v = torch.cat([self.game.differentiable(part, at) for part in self.parts])
        self.evaluations += len(v) * (2 if gradient and self.whole else 1)
        if not bool(v.isfinite().all()):
            raise ModelError("the model gives NaN or infinity on a masked input while its baseline is learned")
        w = mobius(v.detach())
        w[0] = 0.0
        l1, absent = float(w.abs().sum()), float(v[0].detach())
        if not gradient:
            return l1, absent, torch.zeros_like(r)
        c = superset_mobius(w.sign())
        if self.whole:
            return l1, absent, torch.autograd.grad((c * v).sum(), at)[0]
        g = torch.zeros_like(r)
        for weights, part in zip(torch.split(c, self.game.batch_size), self.parts, strict=True):
            g += torch.autograd.grad((weights * self.game.differentiable(part, at)).sum(), at)[0]
        self.evaluations += 2 * len(v)
        return l1, absent, g

    def moved(self, r: Tensor, g: Tensor, rate: float) -> Tensor:
        """Return the baseline after one step, projected."""
        if self.settings.rate is not None:
            step = self.settings.rate * rate * torch.where(self.box > 0, g, 0.0)
        else:  # in units of the box, so that the units of the elements do not matter
            pull = g * self.box
            step = 0.2 * rate * self.box * pull / pull.abs().max().clamp_min(torch.finfo(g.dtype).tiny)
        away = r - step - self.start
        if self.settings.shape == "box":
            away = away.clamp(-self.box, self.box)
        else:
            most, length = self._lengths(self.box), self._lengths(away)
            shrink = torch.where(length > most, most / length.clamp_min(torch.finfo(g.dtype).tiny), 1.0)
            away = away * shrink[self.owner.clamp_min(0)]
        r = self.start + away
        if self.settings.bounds is not None:
            r = torch.where(self.box > 0, r.clamp(*self.settings.bounds), r)
        return r

    def _lengths(self, values: Tensor) -> Tensor:
        """Return the Euclidean length of each player's part."""
        plays = self.owner >= 0
        sums = values.new_zeros(self.game.n_players).index_add_(0, self.owner[plays], values[plays].square())
        return sums.sqrt()


def _spread(masker: Masker, x: Tensor) -> Tensor:
    """Return the standard deviation of each element over a masker's background."""
    background = getattr(masker, "background", None)
    if not isinstance(background, Tensor) or len(background) < 2:
        raise ValueError(
            "learning a baseline needs to know what is much: give the masker a background= or BaselineSettings(scale=)"
        )
    values = background.detach().to(torch.float64)
    if values.ndim > x.ndim and values.shape[1:] != x.shape:  # texts of other lengths
        values = values.flatten(0, values.ndim - x.ndim)
    return values.std(0)
