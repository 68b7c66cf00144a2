"""A layer that settles: an equilibrium layer in a network of your own, trained, and asked whether it really settled.

Run it: python examples/implicit_layer.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import Stream
from pellucid.data import synthetic_images
from pellucid.nn import (
    Anderson,
    Equilibrium,
    Implicit,
    Phantom,
    ascent_certificate,
    gradient_agreement,
    min_phantom_steps,
    spectral_radius,
)

WIDTH = 24


class Cell(nn.Module):
    """One step: it maps the state z and the features x of the image to the next state."""

    def __init__(self) -> None:
        super().__init__()
        # Spectral normalization keeps the cell a contraction; the layer computes it once per forward pass.
        self.linear = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the next state."""
        return torch.tanh(0.9 * self.linear(z) + x)


class Net(nn.Module):
    """Features of the image, the layer that settles, and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(144, WIDTH)
        self.layer = Equilibrium(Cell(), solver=Anderson(tol=1e-4), backward=Phantom(steps=5, damping=0.5))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.features(x.flatten(1))
        return self.head(self.layer(torch.zeros_like(x), x))


data = synthetic_images(256, rng=Stream(0))
with Stream(0).child("weights").forked():
    model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def loss() -> Tensor:
    """The loss on all samples."""
    return F.cross_entropy(model(data.inputs), data.labels)


before = loss().item()
for _ in range(40):
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
print(f"loss {before:.3f} -> {loss().item():.3f}")

layer, solution = model.layer, model.layer.last
assert solution is not None
settled, steps = solution.converged.float().mean(), solution.steps.float().mean()
print(f"settled: {settled:.0%} of the samples, after {steps:.1f} steps")

# The layer is a cell and its fixed point: diagnostics ask the cell, at the point, with the same inputs.
model.eval()
with torch.no_grad():
    x = model.features(data.inputs[:8].flatten(1))
    z = layer(torch.zeros_like(x), x)
radius = spectral_radius(layer.cell, z, inputs=(x,), rng=Stream(0))
print(f"spectral radius of the cell: {radius.max():.2f}; below 1 plain iteration settles too")

agreement = gradient_agreement(layer, loss)
print(f"phantom against exact gradient: cosine {agreement.cosine:.4f}, length {agreement.ratio:.2f} of it")

certificate = ascent_certificate(layer.cell, z, layer.backward, inputs=(x,))
needed = min_phantom_steps(float(certificate.norm.max()), float(certificate.condition.max()), damping=0.5)
certified = certificate.certified.float().mean()
print(f"provably uphill for any loss: {certified:.0%} of 8 samples; {needed} steps are enough")

# Another gradient is another argument.
layer.backward = Implicit()
loss().backward()

# A solution of yesterday's input is a good start for today's.
layer(z, x + 0.01 * torch.ones_like(x))
print(f"from a warm start: {layer.last.steps.float().mean():.1f} steps")
