"""The temperature of a network whose logits are products with fixed prototypes, fitted on samples held out."""

from __future__ import annotations

import torch
from torch import nn

from pellucid.core import Dataset, RecipeError, evaluating
from pellucid.data import unit
from pellucid.metrics import fit_temperature
from pellucid.nn import class_weights, etf_head


def check(model: nn.Module) -> None:
    """Refuse a network that has no temperature to fit.

    Raises:
        RecipeError: see above.
    """
    if etf_head(model) is None:
        raise RecipeError('held_out is for fitting a temperature, which only model.head = "etf" has; leave it out')


def fit(model: nn.Module, held: Dataset | None, *, batch_size: int) -> str:
    """Fit the temperature of a network's `nn.ETFHead` in place; return what a report must say about it.

    Each class of the held-out samples counts the same. Without samples the temperature stays what it is.

    Returns:
        One sentence; nothing for a network without such a head.
    """
    head = etf_head(model)
    if head is None:
        return ""
    if held is None:
        return (
            f"Probabilities use the temperature {float(head.temperature):g} as it comes, which was not fitted; "
            "confidences mean little."
        )
    with evaluating(model), torch.no_grad():
        parts = torch.split(torch.arange(len(held)), batch_size)
        logits = torch.cat([model(unit(held.inputs[rows.to(held.inputs.device)])) for rows in parts])
    weights = class_weights(held.labels, "batch", n_classes=head.n_classes)[held.labels]
    head.temperature.mul_(fit_temperature(logits, held.labels, weights=weights))
    return (
        f"Probabilities use the temperature {float(head.temperature):.3g}, fitted on {len(held):,} held-out training "
        "samples, each class counting the same."
    )
