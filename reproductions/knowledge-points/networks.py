"""Small networks on CIFAR-10, trained on labels or taught by another network; weights at chosen epochs are kept."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.core import Stream
from pellucid.data import unit

TEMPERATURE = 4.0


def vgg(widths: Sequence[int] = (16, 32, 64), *, rng: Stream) -> nn.Module:
    """Two convolutions with batch normalization at each of three sizes; `conv1` to `conv3` end a size each."""
    with rng.forked():
        net, channels = nn.Sequential(), 3
        for k, width in enumerate(widths, 1):
            net.add_module(f"stem{k}", nn.Conv2d(channels, width, 3, padding=1, bias=False))
            net.add_module(f"stem{k}-norm", nn.BatchNorm2d(width))
            net.add_module(f"stem{k}-relu", nn.ReLU())
            net.add_module(f"main{k}", nn.Conv2d(width, width, 3, padding=1, bias=False))
            net.add_module(f"norm{k}", nn.BatchNorm2d(width))
            net.add_module(f"conv{k}", nn.ReLU())
            if k < len(widths):
                net.add_module(f"pool{k}", nn.MaxPool2d(2))
            channels = width
        net.add_module("mean", nn.AdaptiveAvgPool2d(1))
        net.add_module("flat", nn.Flatten())
        net.add_module("head", nn.Linear(channels, 10))
    return net


def train(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    rng: Stream,
    lr: float = 0.1,
    teacher: nn.Module | None = None,
    keep: Sequence[int] = (),
    size: int | None = None,
) -> dict[int, dict[str, Tensor]]:
    """Train in place by SGD with a cosine schedule; return the weights after the epochs of `keep`, 0 being none."""
    device = next(net.parameters()).device
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = len(inputs) // 128
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    kept = {}
    for epoch in range(epochs + 1):
        if epoch in keep:
            kept[epoch] = {name: value.clone() for name, value in net.state_dict().items()}
        if epoch == epochs:
            break
        net.train()
        order = rng.child("order", epoch).permutations(len(inputs), 1)[0]
        for step in range(steps):
            rows = order[step * 128 : (step + 1) * 128]
            x = unit(inputs[rows]).to(device)
            mirrored = rng.child("mirror", epoch, step).uniform((len(x),)) < 0.5
            x = resized(torch.where(mirrored.to(device)[:, None, None, None], x.flip(3), x), size)
            logits = net(x)
            loss = F.cross_entropy(logits, labels[rows].to(device))
            if teacher is not None:
                loss = 0.1 * loss + 0.9 * softened(logits, teacher, x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            plan.step()
    net.eval()
    return kept


def softened(logits: Tensor, teacher: nn.Module, x: Tensor) -> Tensor:
    """T^2 KL(teacher || student) at temperature 4 (Hinton et al. 2015)."""
    with torch.no_grad():
        target = (teacher(x) / TEMPERATURE).log_softmax(1)
    found = (logits / TEMPERATURE).log_softmax(1)
    return TEMPERATURE**2 * F.kl_div(found, target, reduction="batchmean", log_target=True)


def resized(x: Tensor, size: int | None) -> Tensor:
    """Return images at another size, where one is asked for."""
    return x if size is None else F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers."""
    with torch.no_grad():
        right = torch.cat([net(part).argmax(1).cpu() for part in x.split(256)]) == y.cpu()
    return float(right.double().mean())
