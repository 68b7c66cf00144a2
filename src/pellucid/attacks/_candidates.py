"""The part that every attack shares: ask the model, keep each sample's best candidate, report honestly."""

from __future__ import annotations

from collections.abc import Iterator
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
    if y.dtype != torch.int64 or y.shape != (len(x),):
        raise ValueError(
            f"y must be int64 of shape ({len(x)},), one label per row of x; got {y.dtype} {tuple(y.shape)}"
        )
    x, y = x.detach(), y.to(x.device)
    # Tensors made in inference mode may not enter a graph; their copies may.
    return (x.clone() if x.is_inference() else x), (y.clone() if y.is_inference() else y)


class Candidates:
    """Each sample's best candidate so far, ranked by (misclassified, loss).

    The loss alone would not do: of two candidates the one with the higher cross-entropy can be the one that the model
    still gets right (p_y = 0.30 as the largest of four has 1.20, p_y = 0.45 below 0.55 has 0.80).
    """

    def __init__(self, model: Model, space: Space, loss: Loss, x: Tensor, y: Tensor, rng: Stream) -> None:
        self.model, self.space, self.loss = model, space, loss
        self.x, self.y, self.rng = x, y, rng
        self.evaluations = 0
        self.zero_gradients = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.params: Tensor | None = None
        self.wrong = self.broken
        self.best = torch.empty(0)

    def score(self, params: Tensor) -> tuple[Bool[Tensor, " b"], Float[Tensor, " b"]]:
        """Return whether the model is wrong at `params` and the loss there; one evaluation per sample."""
        logits = self.model(self.space.render(self.x, params))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(self.x) or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(f"the model must return logits of shape ({len(self.x)}, K) with K >= 2, got {shape}")
        if not logits.is_floating_point():
            raise ModelError(f"the model must return floating point logits, got {logits.dtype}")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        self.evaluations += len(self.x)
        loss = self.loss(logits, self.y)
        if loss.shape != self.y.shape:
            raise ValueError(f"the loss must return one number per sample, got shape {tuple(loss.shape)}")
        # Summed up on the device and looked at once at the end: a look at every step would stall a GPU.
        self.broken = self.broken | ~logits.detach().isfinite().all(1)
        return logits.detach().argmax(1) != self.y, loss

    def slope(self, params: Tensor) -> Tensor:
        """Keep `params` if they are the best so far and return the loss's gradient there; two evaluations."""
        params = params.detach().requires_grad_()
        wrong, loss = self.score(params)
        if not loss.requires_grad:
            raise ModelError("the model's output does not depend on its input by any gradient; use a random search")
        (grad,) = torch.autograd.grad(loss.sum(), params)
        self.evaluations += len(self.x)
        peak = grad.flatten(1).abs().amax(1)
        self.broken = self.broken | ~peak.isfinite()
        self.zero_gradients += peak == 0
        self._keep(params.detach(), wrong, loss.detach())
        return grad

    def offer(self, params: Tensor) -> None:
        """Keep `params` for the samples for which they are the best so far; one evaluation per sample."""
        params = params.detach()
        with torch.no_grad():
            self._keep(params, *self.score(params))

    def _keep(self, params: Tensor, wrong: Tensor, loss: Tensor) -> None:
        if self.params is None:
            self.params, self.wrong, self.best = params, wrong, loss
            return
        better = (wrong & ~self.wrong) | ((wrong == self.wrong) & (loss > self.best))
        rows = better.view(-1, *[1] * (params.ndim - 1))
        self.params = torch.where(rows, params, self.params)
        self.wrong = self.wrong | wrong
        self.best = torch.where(better, loss, self.best)

    def result(self, params: Tensor | None = None) -> Perturbed:
        """Return the best candidates; success and loss are measured once more on the inputs that are handed out."""
        chosen = self.params if params is None else params
        assert chosen is not None
        with torch.no_grad():
            inputs = self.space.render(self.x, chosen)
            success, loss = self.score(chosen)
        self._check()
        return Perturbed(
            inputs=inputs,
            params=chosen,
            success=success,
            loss=loss,
            evaluations=self.evaluations,
            zero_gradients=self.zero_gradients,
        )

    def _check(self) -> None:
        rows = self.broken.nonzero()
        if len(rows):
            row = int(rows[0])
            name = row if self.rng.ids is None else int(self.rng.ids[row])
            raise ModelError(
                f"the model gives NaN or infinity, in logits or in the gradient, for sample {name} under attack; "
                "repair the weights or the operation that divides by zero"
            )
