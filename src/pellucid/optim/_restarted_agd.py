"""Accelerated descent for smooth nonconvex losses that restarts itself.

Legend: x the point that is held, d = x - previous, y where the gradient is taken, k steps and S summed |d|^2 of the
epoch, anchor the last point that was accepted, B0 the shrinking radius.

All decisions are arithmetic where the parameters lie: on a GPU no step waits, and CPU and CUDA walk the same path. When
an epoch ends, the next closure is called at its last point, where loss and gradient are needed anyway. The loss
decides, and after an acceptance the gradient serves the first step of the next
epoch. So every step calls the closure once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from ._rules import AdaptiveRestart, FixedRestart, Restart
from ._scalars import Scalar, Truth, finite, larger, opposite, pick, root, scalar, taken, truth

_LOOK_EVERY = 16
"""Steps between two looks at whether the closure repeats itself; a look waits for the device."""

_MOST_HALVINGS = 60


class RestartStatus(NamedTuple):
    """Where a restarted descent stands.

    Args:
        evaluations: of loss and gradient.
        epoch_steps: steps since the last restart.
        restarts: epochs that were kept.
        rejections: epochs that were undone.
        lr: step now, of the first parameter group.
        theta: one minus the momentum.
        radius: how far an epoch may go now.
        settled: the last epoch ran to its end without a restart, which is where the method stops.
        loss: of the accepted point; NaN under `FixedRestart`, which accepts nothing.
        grad_norm: measured there, over all groups: the certificate of a first-order point. Under `FixedRestart` at
            the last point where the gradient was taken.
        stalled: 60 halvings have not helped.
        deterministic: False if the closure gave two losses for one point.
    """

    evaluations: int
    epoch_steps: int
    restarts: int
    rejections: int
    lr: float
    theta: float
    radius: float
    settled: bool
    loss: float
    grad_norm: float
    stalled: bool
    deterministic: bool


@dataclass
class _Flat:
    """The parameters of one group, device and dtype as one vector."""

    params: list[Tensor]
    group: int

    def gathered(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.params])

    def gradient(self) -> Tensor:
        return torch.cat(
            [torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.detach().reshape(-1) for p in self.params]
        )

    def scatter(self, flat: Tensor) -> None:
        pieces = torch.split(flat, [p.numel() for p in self.params])
        torch._foreach_copy_(self.params, [part.view_as(p) for part, p in zip(pieces, self.params, strict=True)])

    @property
    def key(self) -> Tensor:
        return self.params[0]


@dataclass
class _Walk:
    """One step: per bucket where the parameters were, where the gradient was taken, and the gradient."""

    held: list[Tensor]
    points: list[Tensor]
    gradients: list[Tensor]
    theta: float
    norm: Scalar = 0.0


@final
class RestartedAGD(torch.optim.Optimizer):
    """How do I lower a smooth nonconvex loss with momentum that is safe?

    For full-batch, deterministic problems: completion, fits, physics, masks, small networks on all of their data. Not
    for minibatches: the test at a restart compares two losses, which noise would decide. It needs at most O(eps^(-7/4))
    gradients to a gradient norm of eps, gradient descent O(eps^-2). L-BFGS often needs fewer where there is room for
    its history and for line searches: `minimize` tells.

    Between steps the parameters hold the iterate x. Each `step(closure)` calls the closure once; it must zero the
    gradients, compute the loss, call `backward` and return the loss (weight decay belongs into it). Parameters without
    a gradient stay where they are. Memory is three vectors beside the parameters (five with `FixedRestart`), while a
    step is computed a few more.

    Args:
        params: tensors or parameter groups; a group may have an `lr` of its own. All on one device.
        lr: the step; about 1 / L for a gradient with Lipschitz constant L. With `AdaptiveRestart` a step that is too
            large is found out and halved.
        restart: `AdaptiveRestart()`, or `FixedRestart(...)` with constants from theory.
        momentum: "nesterov" takes the gradient at the point the momentum leads to, "heavy-ball" where it stands and
            bears larger steps.

    Raises:
        ValueError: a setting out of range, parameters on several devices, or complex ones.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, 3.0]))
        >>> optimizer = RestartedAGD([x], lr=0.5)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (1 - torch.cos(x)).sum()
        ...     loss.backward()
        ...     return loss
        >>> for _ in range(200):
        ...     loss = optimizer.step(closure)
        >>> optimizer.status.grad_norm < 1e-3
        True

    Source: arXiv:2201.11411, Algorithm 1 and its adaptive variant.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        restart: Restart | None = None,
        momentum: str = "nesterov",
    ) -> None:
        if momentum not in ("nesterov", "heavy-ball"):
            raise ValueError(f"momentum must be 'nesterov' or 'heavy-ball', got {momentum!r}")
        super().__init__(params, {"lr": lr})
        self.restart = AdaptiveRestart() if restart is None else restart
        self.momentum = momentum
        for group in self.param_groups:
            if not (group["lr"] > 0 and math.isfinite(group["lr"])):
                raise ValueError(f"lr must be positive and finite, got {group['lr']}")
        if self._theta() >= 1 and isinstance(self.restart, AdaptiveRestart):
            warnings.warn(
                "theta is 1, so there is no momentum and this is gradient descent; lower theta_scale, eps, rho or lr",
                stacklevel=2,
            )
        self._flats = self._bucketed()
        self._device = self._flats[0].key.device
        self._now: dict[str, Scalar | Truth] = {}
        self._loss_dtype = torch.float64
        self._warned, self._looks = False, 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Go one step; see the class for what `closure` must do.

        Returns:
            The loss where the gradient was taken.

        Raises:
            ValueError: there is no closure, it returned no single number, or the loss is not finite at the start.
        """
        if closure is None:
            raise ValueError("step needs a closure that zeroes the gradients, computes the loss and calls backward")
        held = [flat.gathered() for flat in self._flats]
        first = not self._now
        if first:
            self._begin(held)
        theta = self._theta()
        points = self._points(held, theta)
        for flat, point in zip(self._flats, points, strict=True):
            flat.scatter(point)
        try:
            with torch.enable_grad():
                loss = closure()
            value = self._value(loss)
            walk = _Walk(held, points, [flat.gradient() for flat in self._flats], theta)
            walk.norm = self._norm(walk.gradients)
            if first and not bool(finite(value) & finite(walk.norm)):
                raise ValueError(
                    f"the loss or its gradient is not finite at the start: {float(value)}; start elsewhere"
                )
        except BaseException:
            for flat, x in zip(self._flats, held, strict=True):  # a step that failed leaves the iterate
                flat.scatter(x)
            if first:
                self._now = {}
            raise
        self._now["evaluations"] = self._now["evaluations"] + 1
        if isinstance(self.restart, AdaptiveRestart):
            self._adaptive(self.restart, walk, value)
        else:
            self._fixed(self.restart, walk)
        self._look(first)
        return loss

    # -- the two rules ---------------------------------------------------------------------------------------------

    def _adaptive(self, rule: AdaptiveRestart, walk: _Walk, value: Scalar) -> None:
        now = self._now
        deciding, beginning = now["deciding"], opposite(finite(now["loss"]))
        asked = rule.accept_tol * rule.eps**1.5 / root(self._rho(rule))
        # Below the rounding of the loss a fall cannot be seen; nor may one be claimed.
        rounding = pick(beginning, 0.0, 4 * torch.finfo(self._loss_dtype).eps * abs(now["loss"]))
        fell = beginning | (value <= now["loss"] - larger(rounding, asked))
        sound = finite(value) & finite(walk.norm)
        accept = deciding & sound & fell
        reject = (deciding & opposite(accept)) | opposite(sound)
        # The first gradient after going back is taken where the accepted loss was: another loss there is noise.
        noise = now["returned"] & (abs(value - now["loss"]) > 1e-4 * abs(now["loss"]) + 1e-12)
        now["repeats"] = now["repeats"] & opposite(noise)
        now["returned"] = reject
        now["loss"] = pick(accept, value, now["loss"])
        now["grad_norm"] = pick(accept, walk.norm, now["grad_norm"])
        judged = deciding & opposite(beginning)
        now["decisions"] = now["decisions"] + judged
        now["restarts"] = now["restarts"] + (accept & opposite(beginning))
        shrunk = now["max_radius"] / pick(judged, 1 + 0.001 * now["decisions"], 1.0)
        now["max_radius"] = pick(reject, shrunk / 10, shrunk)
        length = self._move(walk, back_to=reject, keep=accept)
        now["rejections"] = now["rejections"] + reject
        self._count(length, ended=accept | reject, stay=reject)
        radius = root(rule.eps / self._rho(rule))
        far = opposite(now["steps"] * now["moved"] <= larger(now["max_radius"], radius) ** 2)
        last, inside = max(2, math.floor(1 / walk.theta * (1 + 1e-12))), now["max_radius"] <= radius
        spent = now["steps"] >= pick(inside, float(last), last + 1.0)
        now["deciding"] = (far | spent) & opposite(reject)
        now["settled"] = now["settled"] | (spent & inside & opposite(far) & opposite(reject))

    def _fixed(self, rule: FixedRestart, walk: _Walk) -> None:
        now = self._now
        done = now["settled"]
        now["grad_norm"] = walk.norm
        length = self._move(walk, back_to=done)
        self._add("sum", walk.points, unless=done)
        self._count(length, ended=truth(False, self._device), stay=done)
        if rule.steps is not None:
            nearer = opposite(done) & (now["steps"] > rule.steps // 2) & (length < now["shortest"])
            now["shortest"] = pick(nearer, length, now["shortest"])
            for flat in self._flats:
                state = self.state[flat.key]
                state["average"] = pick(nearer, state["sum"] / now["steps"], state["average"])
        over = opposite(done) & (now["steps"] * now["moved"] > rule.radius**2)
        now["steps"], now["moved"] = pick(over, 0.0, now["steps"]), pick(over, 0.0, now["moved"])
        now["shortest"] = pick(over, math.inf, now["shortest"])
        for flat in self._flats:
            state = self.state[flat.key]
            state["sum"] = pick(over, torch.zeros_like(state["sum"]), state["sum"])
        now["restarts"] = now["restarts"] + over
        now["deciding"] = over | done  # the next step begins without momentum
        if rule.steps is not None:
            now["settled"] = done | (opposite(over) & (now["steps"] >= rule.steps))

    def _rho(self, rule: AdaptiveRestart) -> Scalar:
        return rule.rho * 4.0 ** self._now["rejections"]

    # -- arithmetic --------------------------------------------------------------------------------------------------

    def _points(self, held: list[Tensor], theta: float) -> list[Tensor]:
        """Return where the gradient is taken: x + c (x - previous)."""
        if self.momentum == "nesterov":
            ahead, judged = 1 - theta, 0.0
        else:
            weight = max(0.0, (1 - 2 * theta) * (1 - theta))
            # At the end of an epoch the heavy ball is judged at a mean of its last two points.
            ahead, judged = 0.0, -weight / (1 + weight) if isinstance(self.restart, AdaptiveRestart) else 0.0
        c = pick(self._now["deciding"], judged, ahead)
        return [x + c * (x - self.state[flat.key]["previous"]) for flat, x in zip(self._flats, held, strict=True)]

    def _move(self, walk: _Walk, *, back_to: Truth, keep: Truth | None = None) -> Scalar:
        """Set the parameters to the next iterate; return the squared length of the move over all groups.

        `back_to` marks a return to the anchor; `keep` makes the points the anchor.
        """
        now, lengths = self._now, []
        drift = pick(now["deciding"], 0.0, 1 - walk.theta if self.momentum == "heavy-ball" else 0.0)
        for flat, x, point, gradient in zip(self._flats, walk.held, walk.points, walk.gradients, strict=True):
            state = self.state[flat.key]
            if keep is not None:
                state["anchor"] = pick(keep, point, state["anchor"])
            goal = point - self.param_groups[flat.group]["lr"] * 0.5 ** now["rejections"] * gradient
            if self.momentum == "heavy-ball":
                goal = goal + drift * (x - state["previous"])
            home = x if keep is None else state["anchor"]
            goal = pick(back_to, home, goal)
            state["previous"] = pick(back_to, home, pick(now["deciding"], point, x))
            lengths.append((goal - state["previous"]).to(torch.float64).square().sum())
            flat.scatter(goal)
        return taken(torch.stack(lengths).sum(), self._device)

    def _add(self, name: str, points: list[Tensor], *, unless: Truth) -> None:
        for flat, y in zip(self._flats, points, strict=True):
            state = self.state[flat.key]
            state[name] = pick(unless, state[name], state[name] + y)

    def _count(self, length: Scalar, *, ended: Truth, stay: Truth) -> None:
        """Count a step: a new epoch where `ended`, no step at all where `stay`."""
        now = self._now
        now["steps"] = pick(ended, 0.0, now["steps"]) + pick(stay, 0.0, 1.0)
        now["moved"] = pick(ended, 0.0, now["moved"]) + pick(stay, 0.0, length)

    def _norm(self, vectors: list[Tensor]) -> Scalar:
        squares = [vector.to(torch.float64).square().sum() for vector in vectors]
        return root(taken(torch.stack(squares).sum(), self._device))

    def _value(self, loss: Any) -> Scalar:
        value = loss.detach() if isinstance(loss, Tensor) else torch.as_tensor(loss)
        if value.numel() != 1 or value.is_complex():
            raise ValueError(f"the closure must return one real number, got shape {tuple(value.shape)}")
        self._loss_dtype = value.dtype if value.is_floating_point() else torch.float64
        return taken(value.reshape(()), self._device)

    # -- state -------------------------------------------------------------------------------------------------------

    def _theta(self) -> float:
        if isinstance(self.restart, FixedRestart):
            return self.restart.theta
        return self.restart.theta(max(group["lr"] for group in self.param_groups))

    def _bucketed(self) -> list[_Flat]:
        buckets: dict[tuple[int, torch.dtype], list[Tensor]] = {}
        devices = set()
        for number, group in enumerate(self.param_groups):
            for p in group["params"]:
                if p.is_complex() or p.is_sparse:
                    raise ValueError(
                        "parameters must be real and dense; give the real and imaginary part of complex ones"
                    )
                devices.add(p.device)
                buckets.setdefault((number, p.dtype), []).append(p)
        if len(devices) > 1:
            raise ValueError(f"all parameters must be on one device, got {', '.join(sorted(map(str, devices)))}")
        return [_Flat(params, number) for (number, _), params in buckets.items()]

    def _begin(self, held: list[Tensor]) -> None:
        adaptive = isinstance(self.restart, AdaptiveRestart)
        names = ("evaluations", "steps", "moved", "restarts", "rejections", "decisions")
        numbers = dict.fromkeys(names, 0.0) | {"loss": math.inf, "grad_norm": math.nan, "shortest": math.inf}
        # The first epoch begins as all others do: with an accepted point.
        truths = {"deciding": True, "settled": False, "returned": False, "repeats": True}
        self._now = {name: scalar(value, self._device) for name, value in numbers.items()}
        self._now |= {name: truth(value, self._device) for name, value in truths.items()}
        self._now["max_radius"] = scalar(self._first_radius(held), self._device)
        for flat, x in zip(self._flats, held, strict=True):
            state = self.state[flat.key]
            state["previous"] = x.clone()
            for name in ("anchor",) if adaptive else ("sum", "average"):
                state[name] = torch.zeros_like(x) if name == "sum" else x.clone()

    def _first_radius(self, held: list[Tensor]) -> float:
        if isinstance(self.restart, FixedRestart):
            return self.restart.radius
        if self.restart.max_radius is not None:
            return self.restart.max_radius
        return max(10 * math.sqrt(self.restart.eps / self.restart.rho), float(self._norm(held)) + 1)

    def _look(self, first: bool) -> None:
        """Warn once if the closure does not repeat itself."""
        if self._warned or first:
            return
        self._looks += 1
        if self._looks % _LOOK_EVERY == 0 and not bool(self._now["repeats"]):
            self._warned = True
            warnings.warn(
                "the closure gave two losses for one point, and the restart test needs a deterministic one: give it "
                "all of the data, and put dropout and batch norm into eval mode",
                stacklevel=3,
            )

    @property
    def status(self) -> RestartStatus:
        """Where the descent stands; reading it waits for the device."""
        if not self._now:
            raise ValueError("there is no status before the first step")
        now = {name: float(value) for name, value in self._now.items()}
        adaptive = isinstance(self.restart, AdaptiveRestart)
        floor = 0.0
        if isinstance(self.restart, AdaptiveRestart):
            floor = math.sqrt(self.restart.eps / (self.restart.rho * 4 ** now["rejections"]))
        return RestartStatus(
            evaluations=int(now["evaluations"]),
            epoch_steps=int(now["steps"]),
            restarts=int(now["restarts"]),
            rejections=int(now["rejections"]),
            lr=self.param_groups[0]["lr"] * 0.5 ** now["rejections"],
            theta=self._theta(),
            radius=max(floor, now["max_radius"]),
            settled=bool(now["settled"]),
            loss=now["loss"] if adaptive else math.nan,
            grad_norm=now["grad_norm"],
            stalled=now["rejections"] >= _MOST_HALVINGS,
            deterministic=bool(now["repeats"]),
        )

    @torch.no_grad()
    def finish(self) -> None:
        """Put the parameters where the method ends.

        With `AdaptiveRestart` that is the accepted point, of which `status` knows loss and gradient norm; with
        `FixedRestart` the mean of the last epoch's points up to its shortest move, once `settled`.

        Raises:
            ValueError: nothing has been stepped, or the last epoch of a `FixedRestart` has not ended.
        """
        if not self._now:
            raise ValueError("there is nothing to finish before the first step")
        adaptive = isinstance(self.restart, AdaptiveRestart)
        if not adaptive and not bool(self._now["settled"]):
            raise ValueError("the last epoch has not ended; step on until status.settled")
        for flat in self._flats:
            flat.scatter(self.state[flat.key]["anchor" if adaptive else "average"])

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on as if nothing had happened."""
        return {**super().state_dict(), "now": {name: float(value) for name, value in self._now.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the state of `state_dict`; the parameters must hold what they held then.

        Raises:
            ValueError: it is the state of another optimizer.
        """
        if "now" not in state_dict:
            raise ValueError("this is not the state of a RestartedAGD")
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        truths = {"deciding", "settled", "returned", "repeats"}
        self._now = {
            name: truth(bool(value), self._device) if name in truths else scalar(value, self._device)
            for name, value in state_dict["now"].items()
        }
