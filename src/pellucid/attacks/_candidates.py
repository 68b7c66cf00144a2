"""The part that every attack shares: ask the model, keep each sample's best candidate, report honestly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import Model, ModelError, Perturbed, Space, Stream, evaluating

from ._losses import Loss


@contextmanager
def borrowed(model: Model) -> Iterator[None]:
    """Attack the model as its user runs it: eval mode, parameters frozen, gradients on, nothing left behind."""
    with torch.inference_mode(False), evaluating(model, precise=False), torch.enable_grad():
        yield


def attackable(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs and labels cut loose from any graph and on one device; checks that they fit each other."""
    x = _loose(x.detach())
    return x, classes("y", y, x)


def classes(name: str, y: Tensor, x: Tensor) -> Tensor:
    """Return classes, one per row of `x` and on its device, or say what is wrong with them."""
    if y.ndim == 3 and x.ndim == 4:
        raise ValueError(
            f"attacks change one answer per image, but {name} holds masks {tuple(y.shape)}; models that answer for "
            "every pixel cannot be attacked yet"
        )
    if y.dtype != torch.int64 or y.shape != (len(x),):
        raise ValueError(
            f"{name} must be int64 of shape ({len(x)},), one label per row of x; got {y.dtype} {tuple(y.shape)}"
        )
    return _loose(y.to(x.device))


def _loose(tensor: Tensor) -> Tensor:
    """Return the tensor; tensors made in inference mode may not enter a graph, their copies may."""
    return tensor.clone() if tensor.is_inference() else tensor


class Candidates:
    """Each sample's best candidate so far, ranked by (success, loss).

    The loss alone would not do: of two candidates the one with the higher cross-entropy can be the one that the model
    still gets right (p_y = 0.30 as the largest of four has 1.20, p_y = 0.45 below 0.55 has 0.80).

    `x` and `y` hold the samples still under attack, all of them unless `early_stop` lets `drop` leave some out; params
    that come in have one row for each of these.

    Args:
        model: maps `(b, ...)` to logits `(b, k)`, already borrowed.
        space: what renders the params.
        loss: what is raised, per sample.
        x: inputs; `y`: labels; `target`: classes that the model shall answer, None for any wrong one.
        rng: the samples' ids, by which an error names one.
        early_stop: a sample is no longer attacked once it succeeded.
        penalty: what params cost, per sample; taken off the loss.
    """

    def __init__(
        self,
        model: Model,
        space: Space,
        loss: Loss,
        x: Tensor,
        y: Tensor,
        rng: Stream,
        *,
        target: Tensor | None = None,
        early_stop: bool = False,
        penalty: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.penalty = penalty
        self.model, self.space, self.loss, self.early_stop = model, space, loss, early_stop
        target = None if target is None else classes("target", target, x)
        self.x, self.y, self.target = x, y, target
        self.evaluations = 0
        self.zero_gradients = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self._all = (x, y, target)
        self._rng = rng
        self._rows: Tensor | None = None
        self._largest = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        self._params: Tensor | None = None
        self._success = self._close = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._loss = torch.empty(0)
        self._trace: list[Tensor] = []

    # -- the samples still under attack ---------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many samples are still under attack."""
        return len(self.x)

    def stream(self, *purpose: str | int) -> Stream:
        """Return the stream for a purpose, bound to the samples still under attack."""
        rng = self._rng.child(*purpose)
        if self._rows is None:
            return rng
        rows = self._rows.cpu()
        return rng.at(rows if rng.ids is None else rng.ids.cpu()[rows])

    def drop(self, *given: Tensor) -> tuple[Tensor, ...]:
        """With `early_stop`, leave out the samples that succeeded; returns the given tensors without their rows."""
        if not self.early_stop or self._params is None:
            return given
        return self.narrow(~self.rows_of(self._success), *given)

    def narrow(self, left: Bool[Tensor, " b"], *given: Tensor) -> tuple[Tensor, ...]:
        """Go on with those marked of the samples still under attack; returns the given tensors' rows of these."""
        rows = left.nonzero()[:, 0]
        if len(rows) == len(self.x):
            return given
        self._only(rows if self._rows is None else self._rows[rows])
        return tuple(tensor[rows] for tensor in given)

    def _only(self, rows: Tensor) -> None:
        """Attack only the samples of these row numbers of the whole batch from here on."""
        x, y, target = self._all
        self._rows, self.x, self.y = rows, x[rows], y[rows]
        self.target = None if target is None else target[rows]

    def rows_of(self, of_all: Tensor) -> Tensor:
        """Return the rows of the samples still under attack."""
        return of_all if self._rows is None else of_all[self._rows]

    @property
    def best(self) -> Tensor:
        """The best params so far of the samples still under attack."""
        assert self._params is not None
        return self.rows_of(self._params)

    @property
    def best_loss(self) -> Tensor:
        """The losses at `best`."""
        return self.rows_of(self._loss)

    # -- asking the model -----------------------------------------------------------------------------------------

    def answer(self, inputs: Tensor) -> Float[Tensor, "b k"]:
        """Return checked logits; one evaluation per sample."""
        logits = self.model(inputs)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs) or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(f"the model must return logits of shape ({len(inputs)}, K) with K >= 2, got {shape}")
        if not logits.is_floating_point():
            raise ModelError(f"the model must return floating point logits, got {logits.dtype}")
        self.evaluations += len(inputs)
        return logits

    def judge(self, logits: Float[Tensor, "b k"]) -> tuple[Bool[Tensor, " b"], Float[Tensor, " b"], Bool[Tensor, " b"]]:
        """Return whether the attack succeeds at these logits, its loss there, and whether that is a close call."""
        precision = torch.finfo(logits.dtype).eps ** 0.5
        logits = logits if logits.dtype == torch.float64 else logits.float()
        aim = self.y if self.target is None else self.target
        loss = self.loss(logits, aim)
        if loss.shape != aim.shape:
            raise ValueError(f"the loss must return one number per sample, got shape {tuple(loss.shape)}")
        found = logits.detach()
        # Summed up on the device and looked at once at the end: a look at every step would stall a GPU.
        self._mark(found.abs().amax(1))
        hit, top = found.argmax(1) == aim, found.topk(2, dim=1).values
        close = top[:, 0] - top[:, 1] <= precision * top.abs().amax(1)
        return (~hit, loss, close) if self.target is None else (hit, -loss, close)

    def slope(self, params: Tensor, *, trace: bool = False) -> Tensor:
        """Keep `params` if they are the best so far and return the loss's gradient there; two evaluations.

        With `trace` the losses are kept for the result's `trace`.
        """
        return self.climb(params, trace=trace)[1]

    def climb(
        self, params: Tensor, *, trace: bool = False, by: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Float[Tensor, " b"], Tensor]:
        """Do as `slope`, and return the loss too; `by` is a loss of the logits to climb if not the one that ranks."""
        params = params.detach().requires_grad_()
        logits = self.answer(self.space.render(self.x, params))
        success, rank, close = self._measure(params, logits)
        loss = rank if by is None else by(logits if logits.dtype == torch.float64 else logits.float())
        if not loss.requires_grad:
            raise ModelError("the model's output does not depend on its input by any gradient; use a random search")
        (grad,) = torch.autograd.grad(loss.sum(), params)
        self.evaluations += len(self.x)
        self.note(grad.flatten(1).abs().amax(1))
        self.keep(params.detach(), success, rank.detach(), close, trace=trace)
        return loss.detach(), grad

    def offer(self, params: Tensor, *, trace: bool = False) -> None:
        """Keep `params` for the samples for which they are the best so far; one evaluation per sample."""
        params = params.detach()
        with torch.no_grad():
            self.keep(params, *self._measure(params, self.answer(self.space.render(self.x, params))), trace=trace)

    def _measure(self, params: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        success, loss, close = self.judge(logits)
        return success, (loss if self.penalty is None else loss - self.penalty(params)), close

    def note(self, size: Float[Tensor, " b"]) -> None:
        """Count where a gradient of this size is exactly zero, and mark where it is no number."""
        self._mark(size)
        if self._rows is None:
            self.zero_gradients += size == 0
        else:
            self.zero_gradients[self._rows] += size == 0

    def _mark(self, size: Tensor) -> None:
        """Keep the largest size seen: NaN and infinity stay."""
        if self._rows is None:
            self._largest = torch.maximum(self._largest, size)
        else:
            self._largest[self._rows] = torch.maximum(self._largest[self._rows], size)

    def keep(self, params: Tensor, success: Tensor, loss: Tensor, close: Tensor, *, trace: bool = False) -> None:
        """Keep `params` where they are the best so far, given what `judge` says of them."""
        if trace:
            self._trace.append(self._spread(loss))
        if self._params is None:
            self._params, self._success, self._loss, self._close = params, success, loss, close
            return
        kept, best = self.rows_of(self._success), self.rows_of(self._loss)
        better = (success > kept) | ((success == kept) & (loss > best))
        if self._rows is None:
            rows = better.view(-1, *[1] * (params.ndim - 1))
            self._params = torch.where(rows, params, self._params)
            self._success = self._success | success
            self._loss = torch.where(better, loss, best)
            self._close = torch.where(better, close, self._close)
        else:
            rows = self._rows[better]
            self._params, self._success = self._params.index_copy(0, rows, params[better]), self._success.clone()
            self._loss, self._close = self._loss.index_copy(0, rows, loss[better]), self._close.clone()
            self._success[rows], self._close[rows] = success[better], close[better]

    def _spread(self, loss: Tensor) -> Tensor:
        """Return the losses of all samples, NaN for those no longer under attack."""
        if self._rows is None:
            return loss
        return loss.new_full((len(self._all[0]),), torch.nan).index_copy(0, self._rows, loss)

    def try_inputs(self) -> None:
        """Try the inputs themselves for the samples that nothing fooled so far; at most one evaluation each.

        An attack that does not begin at the input calls it last: without it, a model that errs on the input itself can
        pass for right, where all that was tried happened to turn the answer back.
        """
        self.check()
        rows = None if self._params is None else (~self._success).nonzero()[:, 0]
        if rows is None or len(rows) == len(self._all[0]):
            self._rows = None
            self.x, self.y, self.target = self._all
        elif len(rows):
            self._only(rows)
        else:
            return
        self.offer(self.space.zeros(self.x))

    # -- the end --------------------------------------------------------------------------------------------------

    def result(self, params: Tensor | None = None) -> Perturbed:
        """Return the best candidates, or `params` for all samples.

        Where the two leading logits nearly tie, success and loss are measured once more: a second pass may round
        otherwise, and what is reported must be what the returned inputs give.
        """
        self._rows = None
        self.x, self.y, self.target = self._all
        if params is not None:
            self._params, self._trace = None, []
            self.offer(params)
        assert self._params is not None
        with torch.no_grad():
            inputs = self.space.render(self.x, self._params)
            rows = self._close.nonzero()[:, 0] if params is None else self._close.new_empty(0, dtype=torch.int64)
            if len(rows):
                self._only(rows)
                success, loss, _ = self._measure(self._params[rows], self.answer(inputs[rows]))
                self._success, self._loss = self._success.clone(), self._loss.clone()
                self._success[rows], self._loss[rows] = success, loss
        self.check()
        return Perturbed(
            inputs=inputs,
            params=self._params,
            success=self._success,
            loss=self._loss,
            evaluations=self.evaluations,
            zero_gradients=self.zero_gradients,
            space=self.space,
            trace=torch.stack(self._trace) if self._trace else None,
        )

    def check(self) -> None:
        """Raise a `ModelError` that names a sample with logits or a gradient that are no numbers."""
        rows = (~self._largest.isfinite()).nonzero()
        if len(rows):
            row = int(rows[0])
            name = row if self._rng.ids is None else int(self._rng.ids[row])
            raise ModelError(
                f"the model gives NaN or infinity, in logits or in the gradient, for sample {name} under attack; "
                "repair the weights or the operation that divides by zero"
            )
