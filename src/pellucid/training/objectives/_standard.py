"""Plain supervised training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import Batch, Stream


class Standard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="standard"):
    """Cross entropy on the samples as they are: the term `clean`, with `accuracy` logged.

    Args:
        label_smoothing: share of the label that is spread evenly over all classes.
    """

    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def __call__(self, model: nn.Module, batch: Batch, *, rng: Stream) -> Mapping[str, Tensor]:
        """Return the terms of one batch."""
        logits = model(batch.inputs)
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
        return {"clean": loss, "accuracy": (logits.detach().argmax(1) == batch.labels).float().mean()}
