"""Small networks: perceptrons of five layers, plain or residual, trained as they are or against an attack."""

import torch
from sklearn.datasets import load_breast_cancer, load_wine
from torch import Tensor, nn

from pellucid.attacks import PGD, Linf
from pellucid.core import Stream

WIDTH = 100


class Perceptron(nn.Module):
    """Five layers; in a residual one the hidden layers add to what they get."""

    def __init__(self, inputs: int, classes: int, *, residual: bool = False, seed: int = 0) -> None:
        super().__init__()
        with Stream(seed).child("weights").forked():
            self.first = nn.Linear(inputs, WIDTH)
            self.hidden = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.last = nn.Linear(WIDTH, classes)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        h = self.first(x).relu()
        for layer in self.hidden:
            h = h + layer(h).relu() if self.residual else layer(h).relu()
        return self.last(h)


def fit(
    model: nn.Module, x: Tensor, y: Tensor, *, steps: int, rate: float = 1e-3, attack: PGD | None = None, seed: int = 0
) -> None:
    """Train on all samples at once by Adam; on the attacked samples where there is an attack."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        seen = x if attack is None else attack(model, x, y, rng=Stream(seed).child("attack", step)).inputs
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(seen), y).backward()
        optimizer.step()


def tabular(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...]]:
    """Return training inputs (each feature of mean 0 and variance 1) and labels, test ones, and the features' names.

    Breast cancer: its first ten features, the means over a picture. Wine: all thirteen.
    """
    data = {"breast-cancer": load_breast_cancer, "wine": load_wine}[name]()
    used = 10 if name == "breast-cancer" else 13
    x, y = torch.tensor(data.data[:, :used]).float(), torch.tensor(data.target)
    order = Stream(0).child(name).uniform((len(x), 1))[:, 0].argsort()
    x, y, cut = x[order], y[order], int(0.8 * len(x))
    x = (x - x[:cut].mean(0)) / x[:cut].std(0)
    return x[:cut], y[:cut], x[cut:], y[cut:], tuple(map(str, data.feature_names[:used]))


def tabular_network(name: str, seed: int, *, robust: bool, steps: int = 150) -> nn.Module:
    """Return a perceptron on a table; a robust one met PGD (linf 0.1, 20 steps of 0.01) at every step."""
    x, y, *_ = tabular(name)
    model = Perceptron(x.shape[1], int(y.max()) + 1, seed=seed)
    attack = PGD(Linf(0.1, bounds=None), steps=20, step_size=0.1) if robust else None
    fit(model, x, y, steps=steps, attack=attack, seed=seed)
    return model.eval()
