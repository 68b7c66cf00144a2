"""A small network that really learned something, and models built to break attacks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import Stream


@dataclass(frozen=True)
class Task:
    """A trained network with samples it has not seen, four classes of 8 x 8 images."""

    model: nn.Module
    x: Tensor
    y: Tensor


@pytest.fixture(scope="session")
def task() -> Task:
    rng = Stream(1)
    centers = rng.child("centers").uniform((4, 1, 8, 8), low=0.3, high=0.7)
    y = rng.child("labels").integers(4, (600,))
    x = (centers[y] + 0.15 * rng.child("noise").normal((600, 1, 8, 8))).clamp(0, 1)
    with rng.child("weights").forked():
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(128, 4),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for step in range(60):
            rows = torch.arange(64) + 64 * (step % 6)
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert float((model(x[400:]).argmax(1) == y[400:]).double().mean()) > 0.9
    return Task(model, x[400:], y[400:])
