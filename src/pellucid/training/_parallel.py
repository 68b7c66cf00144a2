"""Many processes as one: the only file of the training that knows about ranks.

The same recipe runs alone or under `torchrun`; each process takes an equal share of every batch, and gradients and
logged numbers are averages over all. Networks and objectives stay single-device code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pellucid.core import Batch, Objective, Ranks, RunError, Stream, first_line

Terms = Mapping[str, Tensor]
Step = Callable[[Batch, Stream], Terms]


class Parallel:
    """This process among those that train together; use it as a context.

    Args:
        device: "cpu", "cuda" or one card such as "cuda:1"; under `torchrun`, "cuda" is the process's own card.

    Raises:
        RunError: this machine has no such device.
    """

    def __init__(self, device: str = "cpu") -> None:
        here = Ranks.here()
        self.world, self.rank = here.count, here.index
        self.device = _device(here.device(device))
        self._started = False

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes files."""
        return self.rank == 0

    def __enter__(self) -> Parallel:
        if self.world > 1 and not dist.is_initialized():
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            self._started = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the others may wait in a collective for ever: leave at once and let torchrun end them.
        if self._started and kind is None:
            dist.destroy_process_group()

    def step(self, model: nn.Module, objective: Objective) -> Step:
        """Return the objective of `model` as a function of a batch whose gradients are averaged over all processes."""
        # The objective is inside the wrapped module: it may call the model often, as attacks do, and only the one
        # outer call takes part in the exchange of gradients.
        inner = _Step(model, objective)
        if self.world == 1:
            return inner
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(inner, device_ids=ids)

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's part of a batch's rows, equal in size for all."""
        size = len(rows) // self.world
        return rows[self.rank * size : (self.rank + 1) * size]

    def slice(self, rows: Tensor) -> Tensor:
        """Return this process's part of rows that need not divide evenly."""
        return rows[self.rank :: self.world]

    def mean(self, terms: Terms) -> dict[str, float]:
        """Return scalars averaged over all processes."""
        stacked = torch.stack([term.detach().double() for term in terms.values()])
        total = self.total(stacked) / self.world
        return dict(zip(terms, total.tolist(), strict=True))

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.world > 1:
            dist.barrier()


def averaged(values: Tensor) -> Tensor:
    """Return the mean of `values` over all processes that train together, for code that knows of no process."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / dist.get_world_size()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a "meta" device can be made but holds no numbers
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).partition(". ")[0]  # torch goes on with a list of all backends
        raise RunError(f"device {name!r} cannot be used here: {reason}; use --device cpu") from error
    return device


class _Step(nn.Module):
    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, rng: Stream) -> Terms:
        return self.objective(self.model, batch, rng=rng)
