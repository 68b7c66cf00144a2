"""The game a model plays on one input: what is a coalition of input parts worth to it?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import Game, Masker, Model, ModelError, Players, Stream, Value, device_of, evaluating

from ._games import check_keep
from ._size_curve import one_sample

# Activations of one batch should stay in a CPU's caches and fill a GPU.
_ELEMENTS_PER_BATCH = {"cpu": 1 << 17, "cuda": 1 << 23}
_MOST_ROWS = {"cpu": 1024, "cuda": 8192}
_SCORED_TOGETHER = 4096


def _batch_size(x: Tensor, device: torch.device) -> int:
    """A power of two that depends on nothing but the input's size and the kind of device, so that runs repeat."""
    room = _ELEMENTS_PER_BATCH.get(device.type, 1 << 20) // max(1, x.numel())
    return min(_MOST_ROWS.get(device.type, 1024), max(32, 1 << max(0, room.bit_length() - 1)))


class ModelGame:
    """Worth of a coalition: the model's score on the input whose absent players show the baseline.

    v(S) = value(model(x_S)) with x_S = x where the owner of an element is in S, the baseline elsewhere. Scores are
    computed in float64 from the model's own precision. The model runs in eval mode on its own device, and is
    left as it was.

    Args:
        model: maps a batch to logits `(c, k)`; one logit z is read as the two logits (0, z).
        x: one input, without batch axis.
        masker: cuts `x` into players.
        value: turns logits into worth, such as `log_odds(label)`.
        batch_size: coalitions per forward pass; chosen by the input's size if not given.

    Raises:
        ModelError: the model returns no `(c, k)` logits, or a coalition's value is not finite.
    """

    def __init__(self, model: Model, x: Tensor, masker: Masker, value: Value, *, batch_size: int | None = None) -> None:
        if not x.is_floating_point():
            raise ValueError(f"x must be floating point, got {x.dtype}; a baseline has no place between integers")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.value = value
        self.players: Players = masker(x)
        device = device_of(model)
        self.batch_size = batch_size or _batch_size(x, device)
        self._x = x.detach().to(device)
        self._baseline = self.players.baseline.to(self._x)
        self._shape = (1,) * (x.ndim - self.players.owner.ndim) + tuple(self.players.owner.shape)
        self._owner = _checked_owner(self.players).to(device)
        self._fixed = torch.tensor([False, True], device=device) if bool((self._owner < 0).any()) else None
        self._plain = torch.equal(self._owner, torch.arange(self.n_players, device=device))
        self._cells = _cells(self.players, device)

    @property
    def n_players(self) -> int:
        return self.players.count

    @property
    def dtype(self) -> torch.dtype:
        """The precision the model computes in, taken from the input."""
        return self._x.dtype

    def masked(self, keep: Bool[Tensor, "c n"]) -> Tensor:
        """Return the inputs `(c, ...)` that the model sees for these coalitions."""
        mask = keep.to(self._x.device)
        if self._cells is not None:  # rows of pixels are copied whole: many times faster than pixel by pixel
            grid, rows, columns = self._cells
            mask = mask.view(len(mask), *grid).index_select(2, columns).index_select(1, rows)
        elif not self._plain:
            if self._fixed is not None:  # owners -2 and -1 index these two columns from the end
                mask = torch.cat([mask, self._fixed.expand(len(mask), 2)], dim=1)
            mask = mask[:, self._owner]
        return torch.where(mask.view(len(mask), *self._shape), self._x, self._baseline)

    def __call__(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, "c *b"]:
        check_keep(keep, self.n_players)
        # Not inference mode: a model that keeps a tensor from this call could never be trained again.
        with evaluating(self.model), torch.no_grad():
            parts = [self._worth(rows) for rows in torch.split(keep, max(_SCORED_TOGETHER, self.batch_size))]
        values = torch.cat(parts).to(keep.device)
        if not bool(values.isfinite().all()):
            self._blame(keep, values)
        return values

    def _worth(self, keep: Tensor) -> Tensor:
        """Values of several batches; scoring them together costs less than one by one."""
        z = torch.cat([self._logits(rows) for rows in torch.split(keep, self.batch_size)]).to(torch.float64)
        if z.shape[1] == 1:
            z = torch.cat([torch.zeros_like(z), z], dim=1)
        return self.value(z)

    def _logits(self, keep: Tensor) -> Tensor:
        z = self.model(self.masked(keep))
        if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(keep):
            found = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ModelError(f"the model must return logits of shape ({len(keep)}, K), got {found}")
        return z

    def _blame(self, keep: Tensor, values: Tensor) -> None:
        row = int((~values.isfinite()).reshape(len(values), -1).any(1).nonzero()[0])
        present = [int(p) for p in keep[row].nonzero()[:, 0]]
        shown = present if len(present) <= 20 else [*present[:20], "..."]
        when = f"only players {shown} of {self.n_players} are" if present else "no player is"
        raise ModelError(
            f"the model gives NaN or infinity when {when} present; repair the model or choose another baseline (fill)"
        )


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
    """How exactly does the game repeat its values? The deviation of one evaluation, from `2 * probes` evaluations.

    The same random coalitions are evaluated twice, at other positions of batches of other sizes. A dividend of s
    players carries 2**(s/2) times this noise: below 3 times that it cannot be told from rounding. At least half a unit
    in the last place of the model's precision is assumed, which repetition cannot show.
    """
    keep = one_sample(rng).child("noise-floor").bits((1, probes, game.n_players))[0] < 0
    first = game(keep)
    backwards, cut = keep.flip(0), max(1, probes // 5)
    again = torch.cat([game(part) for part in (backwards[:cut], backwards[cut:]) if len(part)]).flip(0)
    deviation = float((first - again).square().mean().sqrt()) / 2**0.5
    rounding = torch.finfo(getattr(game, "dtype", torch.float64)).eps / 2 * float(first.abs().mean())
    return max(deviation, rounding)
