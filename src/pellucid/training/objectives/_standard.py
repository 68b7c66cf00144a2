"""Plain supervised training, and its two usual corrections for long-tailed classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import IGNORED, Batch, Dataset, Stream
from pellucid.nn import Balance, class_weights

from .._parallel import averaged
from ._mixed import accuracy, along, check_counts, counts_of, mixed, on

Count = Annotated[int, Meta(ge=1)]


class Standard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="standard"):
    """Cross entropy on the samples as they are: the term `clean`, with `accuracy` logged.

    Where every pixel has a class, the mean is over all pixels that have one, and numbers of samples are numbers of
    pixels; pixels without a label (`core.IGNORED`) have no gradient.

    Args:
        label_smoothing: share of the label that is spread evenly over all classes.
        class_balance: "counts" weights samples by 1 / n_c, n_c the training samples of their class; "batch" by the
            numbers in the batch; see `nn.class_weights`.
        logit_adjustment: t, trains with logits z_k + t log(n_k / N), so that frequent classes have no head start when
            the answer is taken from z (Menon et al. 2021, arXiv:2007.07314); 1 is usual, 0 for none.
        counts: training samples per class; counted if not given.
    """

    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    class_balance: Balance = "none"
    logit_adjustment: Annotated[float, Meta(ge=0)] = 0.0
    counts: tuple[Count, ...] = ()

    mixes: ClassVar[bool] = True
    dense: ClassVar[bool] = True

    def fitted(self, data: Dataset) -> Standard:
        """Return the objective with the numbers of this training set, where it needs them.

        Raises:
            ValueError: a class has no samples, or the counts given are not one per class.
        """
        check_counts(self.counts, data)
        if self.counts or not (self.class_balance == "counts" or self.logit_adjustment):
            return self
        return msgspec.structs.replace(self, counts=counts_of(data))

    def __call__(self, model: nn.Module, batch: Batch, *, rng: Stream) -> Mapping[str, Tensor]:
        """Return the terms of one batch."""
        logits = model(batch.inputs)
        return {"clean": self._loss(logits.float(), batch), "accuracy": accuracy(logits, batch)}

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        counts = on(self.counts, logits) if self.counts else None
        if self.logit_adjustment:
            if counts is None:
                raise ValueError("logit_adjustment needs the training data: call fitted(dataset) first, or give counts")
            logits = logits + self.logit_adjustment * along(counts / counts.sum(), logits).log()
        if batch.labels.ndim == 3:
            return self._of_pixels(logits, batch.labels, counts)
        if self.class_balance == "none" and batch.others is None:
            return F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        weights = class_weights(batch.labels, self.class_balance, n_classes=logits.shape[1], counts=counts)

        def loss(labels: Tensor) -> Tensor:
            each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
            return each * weights[labels]

        return mixed(loss, batch).mean()

    def _of_pixels(self, logits: Tensor, labels: Tensor, counts: Tensor | None) -> Tensor:
        """Return the mean over the pixels that have a label; among several processes, over those of all together."""
        known = labels != IGNORED
        each = F.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.label_smoothing, ignore_index=IGNORED
        )
        if self.class_balance != "none":
            weights = class_weights(labels[known], self.class_balance, n_classes=logits.shape[1], counts=counts)
            each = each * weights[labels.where(known, 0)]
        # The mean of the parts' means, which gradients are, is the mean of all only with one divisor for all parts.
        return each.sum() / averaged(known.sum().float()).clamp_min(1)
