"""The game a model plays on one input or several: what is a coalition of input parts worth to it?"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pellucid.core import Game, Masker, Model, ModelError, Players, Stream, Value, device_of, evaluating

from ._games import check_keep
from ._size_curve import one_sample

# Activations of one batch should stay in a CPU's caches and fill a GPU.
_ELEMENTS_PER_BATCH = {"cpu": 1 << 17, "cuda": 1 << 23}
_MOST_ROWS = {"cpu": 1024, "cuda": 8192}
# Fewer rows cost a small model's time in overhead. A photograph's layers leave the caches at once: 32 of 224 x 224 take
# three times as long per row as 8 (EfficientNet-lite0, one core).
_LEAST_ROWS, _LEAST_ROWS_LARGE, _LARGE = 32, 8, 1 << 15
_SCORED_TOGETHER = 4096
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _batch_size(size: int, device: torch.device) -> int:
    """A power of two that depends on nothing but the input's size and the kind of device, so that runs repeat."""
    room = _ELEMENTS_PER_BATCH.get(device.type, 1 << 20) // max(1, size)
    least = _LEAST_ROWS_LARGE if device.type == "cpu" and size >= _LARGE else _LEAST_ROWS
    return min(_MOST_ROWS.get(device.type, 1024), max(least, 1 << max(0, room.bit_length() - 1)))


class ModelGame:
    """Worth of a coalition: the model's score on the input whose absent players show the baseline.

    v(S) = value(model(x_S)) with x_S = x where the owner of an element is in S, the baseline elsewhere. Scores are
    computed in float64 from the model's own precision. The model runs in eval mode on its own device, and is
    left as it was.

    Args:
        model: maps a batch to logits `(c, k)` or to `(c,)`, read as one column.
        x: one input, without batch axis; floating point or integers such as token ids.
        masker: cuts `x` into players.
        value: turns logits into worth, such as `log_odds(label)`; a callable of your own gets what the model returns,
            in float64, and may return one number or several per row.
        batch_size: inputs per forward pass; chosen by the input's size if not given.
        batched: `x` is a batch `(b, ...)` whose inputs share every mask; values then are `(c, b, *)`. A value made
            of a class takes one class for all or one per input, `log_odds(labels)`.

    Raises:
        ModelError: the model returns no `(c, k)` logits, or a coalition's value is not finite.
        ValueError: the inputs of a batch are cut in different ways.

    Example:
        >>> import torch
        >>> from pellucid.games import Features, output, table
        >>> game = ModelGame(lambda x: x.sum(1), torch.tensor([1.0, 2.0]), Features(fill="zero"), output())
        >>> table(game).tolist()
        [0.0, 1.0, 2.0, 3.0]
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        masker: Masker,
        value: Value,
        *,
        batch_size: int | None = None,
        batched: bool = False,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if batched and not len(x):
            raise ValueError("x is an empty batch; give at least one input")
        self.model = model
        self.value = value
        self.players: Players = _shared(masker, x) if batched else masker(x)
        device = device_of(model)
        self._batched = batched
        self._x = x.detach().to(device)
        self._one = tuple(x.shape[batched:])  # the shape of one input
        self.batch_size = batch_size or _batch_size(max(1, x[0].numel() if batched else x.numel()), device)
        self._baseline = self.players.baseline.to(self._x)
        self._shape = (1,) * (len(self._one) - self.players.owner.ndim) + tuple(self.players.owner.shape)
        self._owner = _checked_owner(self.players).to(device)
        self._fixed = torch.tensor([False, True], device=device) if bool((self._owner < 0).any()) else None
        self._plain = torch.equal(self._owner, torch.arange(self.n_players, device=device))
        self._cells = _cells(self.players, device)
        # A mask, an input and a baseline meet as (coalitions, backgrounds, inputs, ...) where one is not enough.
        self._lead = (self.players.backgrounds or 1, len(x) if batched else 1)
        if self.cost > 1 or batched:
            own = self._baseline.ndim == len(self._one) + 1  # with an axis of backgrounds or of inputs
            axes = self._baseline.shape[own:]
            rows = (self._lead[0], 1) if self.players.backgrounds else (1, len(self._baseline) if own else 1)
            self._baseline = self._baseline.reshape(*rows, *(1,) * (len(self._one) - len(axes)), *axes)
        self._bits = self._as_bits()

    @property
    def n_players(self) -> int:
        return self.players.count

    @property
    def cost(self) -> int:
        """Model evaluations per coalition: the number of inputs times the number of backgrounds."""
        return self._lead[0] * self._lead[1]

    @property
    def dtype(self) -> torch.dtype:
        """The precision the model computes in: the coarsest of its input and its parameters."""
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else ()
        known = {self._x.dtype, *(parameter.dtype for parameter in parameters)}
        floating = [kind for kind in known if kind.is_floating_point]
        return max(floating, key=lambda kind: torch.finfo(kind).eps, default=torch.get_default_dtype())

    def _as_bits(self) -> tuple[Tensor, Tensor] | None:
        """Return the bits in which the input differs from the baseline, and the baseline's, where that pays.

        On a CPU, baseline ^ (present * (input ^ baseline)) chooses five times faster than `torch.where`, as exactly.
        """
        integer = _INTEGERS.get(self._x.element_size())
        if self._x.device.type != "cpu" or self._x.is_complex() or integer is None or self.cost > 1 or self._batched:
            return None
        single = self._baseline.ndim > len(self._one)  # one background, with an axis of its own
        baseline = (self._baseline[0] if single else self._baseline).view(integer)
        return self._x.view(integer) ^ baseline, baseline

    def masked(self, keep: Bool[Tensor, "c n"]) -> Tensor:
        """Return the inputs that the model sees for these coalitions, `(c, ...)`.

        A game with a cost above 1 has that many inputs per coalition: the backgrounds in turn, and for each
        background the inputs of the batch.
        """
        return self._masked(keep)

    def _masked(self, keep: Tensor, baseline: Tensor | None = None) -> Tensor:
        mask = keep.to(self._x.device)
        if self._cells is not None:  # rows of pixels are copied whole: many times faster than pixel by pixel
            grid, rows, columns = self._cells
            mask = mask.view(len(mask), *grid).index_select(2, columns).index_select(1, rows)
        elif not self._plain:
            if self._fixed is not None:  # owners -2 and -1 index these two columns from the end
                mask = torch.cat([mask, self._fixed.expand(len(mask), 2)], dim=1)
            mask = mask[:, self._owner]
        if self._bits is not None and baseline is None:
            difference, base = self._bits
            shown = (mask.view(len(mask), *self._shape).to(base.dtype) * difference).bitwise_xor_(base)
            return shown.view(self._x.dtype)
        baseline = self._baseline if baseline is None else baseline
        if self._lead == (1, 1) and not self._batched:
            return torch.where(mask.view(len(mask), *self._shape), self._x, baseline)
        shown = torch.where(mask.view(len(mask), 1, 1, *self._shape), self._x, baseline)
        return shown.expand(len(mask), *self._lead, *self._one).flatten(0, 2)

    def __call__(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, "c *b"]:
        check_keep(keep, self.n_players)
        # Not inference mode: a model that keeps a tensor from this call could never be trained again.
        with evaluating(self.model), torch.no_grad():
            together = max(_SCORED_TOGETHER, self.batch_size) // self.cost
            parts = [self._worth(rows) for rows in torch.split(keep, max(1, together))]
        values = (torch.cat(parts) if len(parts) > 1 else parts[0]).to(keep.device)
        if not bool(values.isfinite().all()):
            self._blame(keep, values)
        return values

    def differentiable(self, keep: Bool[Tensor, "c n"], baseline: Tensor) -> Float[Tensor, "c *b"]:
        """Return the values at another baseline, with gradients from them to it.

        The whole graph of these coalitions is kept: pass them in parts where memory is short. Parameters of the
        model get no gradients.

        Args:
            keep: the coalitions.
            baseline: fits one input; `requires_grad` where you want gradients.

        Raises:
            ValueError: the game averages over backgrounds or its input holds integers, so no one baseline can vary.
        """
        check_keep(keep, self.n_players)
        if self.players.backgrounds or not self._x.is_floating_point():
            raise ValueError("gradients need one floating-point baseline; play on embeddings, without Marginal")
        try:
            shown = baseline.to(self._x).expand(self._one)
        except RuntimeError:
            found = tuple(baseline.shape)
            raise ValueError(f"the baseline has shape {found}, which does not fit an input of {self._one}") from None
        with evaluating(self.model), torch.enable_grad():
            return self._worth(keep, shown).to(keep.device)

    def _worth(self, keep: Tensor, baseline: Tensor | None = None) -> Tensor:
        """Values of several batches; scoring them together costs less than one by one."""
        step = max(1, self.batch_size // self.cost)
        z = [self._logits(self._masked(rows, baseline)) for rows in torch.split(keep, step)]
        values = self.value((torch.cat(z) if len(z) > 1 else z[0]).to(torch.float64))
        if not self._batched and self.cost == 1:
            return values
        if len(values) != len(keep) * self.cost:
            raise ModelError(f"the value must return one row per input, {len(keep) * self.cost}, got {len(values)}")
        mean = values.view(len(keep), *self._lead, *values.shape[1:]).mean(1)
        return mean if self._batched else mean[:, 0]

    def _logits(self, inputs: Tensor) -> Tensor:
        if len(inputs) > self.batch_size:  # one coalition with more inputs than fit
            return torch.cat([self._logits(part) for part in torch.split(inputs, self.batch_size)])
        z = self.model(inputs)
        if isinstance(z, Tensor) and z.ndim == 1 and len(z) == len(inputs):
            return z[:, None]
        if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(inputs):
            found = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ModelError(f"the model must return logits of shape ({len(inputs)}, K), got {found}")
        return z

    def _blame(self, keep: Tensor, values: Tensor) -> None:
        row = int((~values.isfinite()).reshape(len(values), -1).any(1).nonzero()[0])
        present = [int(p) for p in keep[row].nonzero()[:, 0]]
        shown = present if len(present) <= 20 else [*present[:20], "..."]
        when = f"only players {shown} of {self.n_players} are" if present else "no player is"
        raise ModelError(
            f"the model gives NaN or infinity when {when} present; repair the model or choose another baseline (fill)"
        )


def _shared(masker: Masker, x: Tensor) -> Players:
    """Return how a masker cuts every input of a batch; each input may have a baseline of its own."""
    cut = [masker(one) for one in x]
    first = cut[0]
    for number, players in enumerate(cut[1:], start=1):
        if players.count != first.count or not torch.equal(players.owner, first.owner):
            raise ValueError(f"inputs 0 and {number} are cut into different players; give each a game of its own")
    if first.backgrounds or all(torch.equal(players.baseline, first.baseline) for players in cut[1:]):
        return first
    whole = [torch.broadcast_to(players.baseline, x.shape[1:]) for players in cut]
    return replace(first, baseline=torch.stack(whole))


def _cells(players: Players, device: torch.device) -> tuple[tuple[int, int], Tensor, Tensor] | None:
    """Return the grid with the row and the column of cells of each pixel, where the owners form a plain grid."""
    if players.grid is None or players.owner.ndim != 2 or int(players.owner.min()) < 0:
        return None
    columns = players.owner[0] % players.grid[1]
    rows = players.owner[:, 0] // players.grid[1]
    if not torch.equal(rows[:, None] * players.grid[1] + columns[None, :], players.owner):
        return None
    return players.grid, rows.to(device), columns.to(device)


def _checked_owner(players: Players) -> Tensor:
    owner = players.owner.flatten()
    if players.count < 1:
        raise ValueError("a game needs at least one player")
    if int(owner.max()) >= players.count or int(owner.min()) < -2:
        raise ValueError(f"owner must hold players 0 to {players.count - 1}, -1 or -2; got {int(owner.max())}")
    counts = torch.bincount(owner[owner >= 0], minlength=players.count)
    if bool((counts == 0).any()):
        raise ValueError(f"player {int((counts == 0).nonzero()[0])} owns no element of the input")
    return owner


def noise_floor(game: Game, *, rng: Stream, probes: int = 64) -> float:
    """How exactly does the game repeat its values? The deviation of one evaluation, from `2 * probes` coalitions.

    The same random coalitions are evaluated twice, at other positions of batches of other sizes. A dividend of s
    players carries 2**(s/2) times this noise: below 3 times that it cannot be told from rounding. At least half a unit
    in the last place of the model's precision is assumed, which repetition cannot show.
    """
    keep = one_sample(rng).child("noise-floor").bits((1, probes, game.n_players))[0] < 0
    first = game(keep)
    backwards, cut = keep.flip(0), max(1, probes // 5)
    again = torch.cat([game(part) for part in (backwards[:cut], backwards[cut:]) if len(part)]).flip(0)
    deviation = float((first - again).square().mean().sqrt()) / 2**0.5
    rounding = torch.finfo(_precision(game)).eps / 2 * float(first.abs().mean())
    return max(deviation, rounding)


def _precision(game: object) -> torch.dtype:
    """Return what a game computes in, looking through wrappers; float64 where it does not say."""
    while game is not None:
        found = getattr(game, "dtype", None)
        if isinstance(found, torch.dtype):
            return found
        game = getattr(game, "game", None)
    return torch.float64
