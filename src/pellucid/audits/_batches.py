"""How many samples go through the model at once, so that photographs need no more memory than small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.core import OnStep, Subject, Work, evaluating

MOST = 256
MEMORY = 384 * 2**20
"""Bytes that one batch may keep alive."""

_ELEMENTS = 2**20
"""Larger batches of photographs are slower per sample on a CPU, not faster: their layers leave the caches."""

_SLACK = 1.25
"""What functions between the modules keep is not seen; EfficientNet-lite0 keeps 100 MB for an image."""


def forwards(subject: Subject) -> int:
    """Return how many samples go through at once without gradients: only a few layers are alive at a time."""
    return max(4, min(MOST, _ELEMENTS // subject.inputs[0].numel()))


def logits_of(subject: Subject, work: Work) -> Tensor:
    """Return the logits of all samples, shared out batch by batch; probes that need them find each other's."""

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        return {"logits": subject.take(rows).logits(batch_size=len(rows))}

    return work.map("logits", subject.ids, compute, chunk=forwards(subject))["logits"]


def kept(subject: Subject) -> int:
    """Return how many samples go through at once where all layers stay alive; costs one evaluation.

    Measured on one sample, so that it depends on the model and the size of the inputs alone, never on the machine.
    """
    alive = 0

    def count(module: nn.Module, arguments: object, output: object) -> None:
        nonlocal alive
        if isinstance(output, Tensor):
            alive += output.numel() * output.element_size()

    leaves = [m for m in subject.model.modules() if not any(m.children()) and not isinstance(m, torch.jit.ScriptModule)]
    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    x = subject.inputs[:1].to(subject.device)
    try:
        with evaluating(subject.model), torch.no_grad():
            subject.model(x)
    finally:
        for handle in handles:
            handle.remove()
    each = _SLACK * (alive + x.numel() * x.element_size())
    return max(1, min(MOST, int(MEMORY / each)))
