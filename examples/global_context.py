"""Global context in your own networks: a head on your backbone, what it found, and attention replaced.

Run it: python examples/global_context.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import Stream
from pellucid.nn import Hamburger, LightHamHead, MatrixDecomposition, replace_attention

# Pictures of two textures: which pixels belong to which? A pixel alone cannot tell, the whole picture can.
rng = Stream(0)
masks = torch.zeros(32, 16, 16, dtype=torch.long)
masks[:, :, 8:] = 1
masks = torch.where(rng.child("turn").uniform((32, 1, 1)) < 0.5, masks, masks.mT)
textures = rng.child("textures").uniform((32, 2, 6))  # other colors in every picture
pictures = textures[torch.arange(32)[:, None, None], masks].permute(0, 3, 1, 2)
pictures = pictures + 0.5 * rng.child("noise").uniform((32, 6, 16, 16))


class Backbone(nn.Module):
    """Your own network: maps of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(6, 16, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return both maps, the larger one first."""
        first = self.first(x)
        return [first, self.second(first)]


with rng.child("weights").forked():
    # 1. A head on your backbone: Light-Ham, here with 2 atoms.
    ham = MatrixDecomposition(32, rank=2)
    model = nn.Sequential(
        Backbone(), LightHamHead([16, 32], 32, num_classes=2, context=Hamburger(32, ham, norm="group"))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(pictures), masks)
        loss.backward()
        optimizer.step()
print(f"loss {loss.item():.3f}")

# 2. What did the layer find? Catch its input, and decompose it.
caught: list[Tensor] = []
handle = ham.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
model.eval()
with torch.no_grad():
    model(pictures[:4])
handle.remove()
factors = ham.decompose(caught[0])
print("maps of the atoms:", tuple(factors.maps.shape))
print("residual by steps:", [round(float(value), 2) for value in factors.residual.mean((0, 1))])
print(f"effective rank {float(factors.effective_rank.mean()):.1f}, usage {factors.usage.mean((0, 1)).tolist()}")

# 3. Attention replaced in a transformer: the copy has half of attention's weights, and must be trained again.
encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
done = replace_attention(encoder, lambda channels: MatrixDecomposition(channels, 8), rng=rng)
for part in done.replaced:
    print(f"{part.name}: {part.parameters_before:,} -> {part.parameters_after:,} parameters")
tokens = torch.randn(2, 50, 32)
padding = torch.zeros(2, 50, dtype=torch.bool)
padding[1, 40:] = True
print("answer:", tuple(done.model.eval()(tokens, src_key_padding_mask=padding).shape))
