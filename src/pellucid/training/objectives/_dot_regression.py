"""Training toward fixed prototypes: the dot-regression loss of a simplex ETF head (arXiv:2203.09081)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta
from torch import Tensor, nn

from pellucid.core import Batch, Dataset, Stream
from pellucid.nn import Balance, ETFHead, class_weights, dot_regression_loss, etf_head

from ._mixed import check_counts, counts_of, mixed, on

Count = Annotated[int, Meta(ge=1)]


class DotRegression(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="dot-regression"
):
    """Pulls features to the fixed prototype of their class: the term `dot_regression`.

    For a network with an `nn.ETFHead`. Only the product with the own prototype is computed, never all logits; so
    `alignment`, the mean cosine of features and their prototype, is logged in place of an accuracy.

    Args:
        class_balance: "batch" makes the loss the mean over the classes in the batch of their own means, as the authors'
            code does (each process by its own part of a batch); "counts" weights by the whole training set; "none".
        counts: training samples per class, for "counts"; counted if not given.
    """

    class_balance: Balance = "batch"
    counts: tuple[Count, ...] = ()

    mixes: ClassVar[bool] = True

    def fitted(self, data: Dataset) -> DotRegression:
        """Return the objective with the numbers of this training set, where it needs them.

        Raises:
            ValueError: a class has no samples, or the counts given are not one per class.
        """
        check_counts(self.counts, data)
        if self.counts or self.class_balance != "counts":
            return self
        return msgspec.structs.replace(self, counts=counts_of(data))

    def check(self, model: nn.Module) -> None:
        """Refuse a network without fixed prototypes.

        Raises:
            ValueError: there is no `nn.ETFHead` in it.
        """
        _head(model)

    def __call__(self, model: nn.Module, batch: Batch, *, rng: Stream) -> Mapping[str, Tensor]:
        """Return the terms of one batch."""
        head = _head(model)
        with head.exposed():
            features = model(batch.inputs)
        counts = on(self.counts, features) if self.counts else None
        weights = class_weights(batch.labels, self.class_balance, n_classes=head.n_classes, counts=counts)

        def loss(labels: Tensor) -> Tensor:
            return dot_regression_loss(
                features,
                labels,
                head.prototypes,
                feature_norm=head.feature_norm,
                weights=weights[labels],
                reduction="none",
            )

        h = features.detach()
        cosines = (h * head.prototypes.T[batch.labels].to(h.dtype)).sum(1) / h.norm(dim=1).clamp_min(1e-8)
        return {"dot_regression": mixed(loss, batch).mean(), "alignment": cosines.float().mean()}


def _head(model: nn.Module) -> ETFHead:
    head = etf_head(model)
    if head is None:
        raise ValueError('dot-regression needs a network with fixed prototypes; set model.head = "etf"')
    return head
