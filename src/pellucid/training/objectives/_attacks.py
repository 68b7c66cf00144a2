"""Training against several attacks at once, each with a term of its own (arXiv:2111.01996)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import Batch, Stream

from .._attack import AttackSettings, trainable

NATURAL = "natural"


class Attacks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="attacks"):
    """The loss at the samples, the term `natural`, and at what each attack makes of them, a term by the attack's name.

    The recipe's weighting says how much each counts. Attacks run with the model in eval mode, so they leave batch
    statistics alone; then all batches go through the model being trained. `accuracy` and one `accuracy_NAME` per attack
    are logged.

    Args:
        attacks: attack by name.
        form: "ce": the cross entropy at the attacked inputs. "trades": the Kullback-Leibler divergence of the answer
            there from the answer at the sample; `natural` then always counts once, beside what the weighting shares
            out, because a constant answer would bring all divergences to zero.
        statistics: "shared": one pass, in which batch normalization sees all batches as one; "separate": a pass for
            each, normalized by itself.
        label_smoothing: share of the label that is spread evenly over all classes.

    Example:
        >>> Attacks(attacks={"linf": AttackSettings(eps=0.1)}).terms
        ('natural', 'linf')
    """

    attacks: dict[str, AttackSettings]
    form: Literal["ce", "trades"] = "ce"
    statistics: Literal["shared", "separate"] = "shared"
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ValueError("attacks needs one attack at least, such as [objective.attacks.linf]")
        taken = [name for name in self.attacks if name in (NATURAL, "accuracy", "loss", "rate") or "." in name]
        if taken:
            raise ValueError(f"an attack cannot be called {taken[0]!r}; choose another name")
        for attack in self.attacks.values():
            trainable(attack)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms that can be trained with."""
        return (NATURAL, *self.attacks)

    @property
    def anchored(self) -> tuple[str, ...]:
        """Terms that always count once, whatever the weighting."""
        return (NATURAL,) if self.form == "trades" else ()

    def __call__(self, model: nn.Module, batch: Batch, *, rng: Stream) -> Mapping[str, Tensor]:
        """Return the terms of one batch; `rng` is bound to the batch's ids."""
        x, y = batch.inputs, batch.labels
        inputs = {NATURAL: x}
        for name, settings in self.attacks.items():
            inputs[name] = settings.build()(model, x, y, rng=rng.child("attack", name)).inputs.detach()
        logits = self._logits(model, inputs)
        natural = logits[NATURAL]
        terms = {}
        for name, z in logits.items():
            if name == NATURAL or self.form == "ce":
                terms[name] = F.cross_entropy(z, y, label_smoothing=self.label_smoothing)
            else:
                terms[name] = F.kl_div(z.log_softmax(1), natural.log_softmax(1), log_target=True, reduction="batchmean")
        for name, z in logits.items():
            right = (z.detach().argmax(1) == y).float().mean()
            terms["accuracy" if name == NATURAL else f"accuracy_{name}"] = right
        return terms

    def _logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits of every batch."""
        if self.statistics == "separate":
            return {name: model(part).float() for name, part in inputs.items()}
        parts = model(torch.cat(list(inputs.values()))).float().chunk(len(inputs))
        return dict(zip(inputs, parts, strict=True))
