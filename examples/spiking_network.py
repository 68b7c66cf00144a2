"""A spiking layer with feedback in a network of your own: trained in the same memory for 10 and for 100 time steps.

    python examples/spiking_network.py

The digits are 8 x 8 bars made by a formula, so nothing is downloaded.
"""

import torch

import pellucid
from pellucid import nn
from pellucid.core import Stream, Subject
from pellucid.data import synthetic_images

torch.manual_seed(0)
train, test = (synthetic_images(400, rng=Stream(seed), size=8) for seed in (0, 1))
hidden = nn.FeedbackSpiking(
    torch.nn.Linear(64, 32), nn.SpectralBound(torch.nn.Linear(32, 32, bias=False)), neuron=nn.LIF(), time_steps=10
)
model = torch.nn.Sequential(torch.nn.Flatten(), hidden, torch.nn.Linear(32, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)


def kept(steps: int) -> int:
    """Bytes that a forward pass keeps for the backward pass."""
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hidden.time_steps = steps
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(train.inputs).sum().backward()
    return sum(sizes.values())


print(f"kept for the backward pass: {kept(10):,} bytes with 10 steps, {kept(100):,} with 100")
hidden.time_steps = 10
for _ in range(60):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(train.inputs), train.labels)
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}, residual {hidden.last_info.residual.mean():.3f}")

subject = Subject(model.eval(), test.inputs, test.labels, name="spiking", data_name="bars")
(finding,) = pellucid.audit(subject, probes="spiking", budget=2000).findings
print(finding.level, finding.answer, sep="\n")
