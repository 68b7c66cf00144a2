"""Models that answer in another form than logits `(B, K)`, read as if they did."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TwoLogits(nn.Module):
    """Reads a one-logit model as a two-class one: logits (0, z)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        return torch.cat([torch.zeros_like(z), z], dim=1)
