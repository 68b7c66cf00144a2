"""Adversarial training: lower the loss at the worst input an attack finds (Madry et al. 2018, arXiv:1706.06083)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import Batch, Stream

from .._attack import AttackSettings, trainable


class Adversarial(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="adversarial"
):
    """Cross entropy at attacked samples: the term `adversarial`, with the accuracy under the attack logged.

    Args:
        attack: the attack that is run on each batch, with the model in eval mode.
        label_smoothing: share of the label that is spread evenly over all classes.
    """

    attack: AttackSettings
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        trainable(self.attack)

    def __call__(self, model: nn.Module, batch: Batch, *, rng: Stream) -> Mapping[str, Tensor]:
        """Return the terms of one batch; `rng` is bound to the batch's ids."""
        found = self.attack.build()(model, batch.inputs, batch.labels, rng=rng.child("attack"))
        logits = model(found.inputs.detach())
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
        return {"adversarial": loss, "accuracy": (logits.detach().argmax(1) == batch.labels).float().mean()}
