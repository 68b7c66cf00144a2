"""Smooth nonconvex losses to compare descents on, and a chain on which no first-order method is fast."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.core import Stream
from pellucid.data import MovieLens
from pellucid.optim import Completion


@dataclass(frozen=True)
class Problem:
    """A loss, a start, and what it is."""

    about: str
    fun: Callable[[Any], Tensor]
    start: Any


def cosines() -> Problem:
    """Gradient and Hessian are 1-Lipschitz."""
    a = torch.tensor([1, 0.5, 0.1, 0.01, 0.001], dtype=torch.float64)
    return Problem(
        "sum of 5 weighted cosines", lambda x: (a * (1 - torch.cos(x))).sum(), torch.full((5,), 3.0).double()
    )


def rosenbrock() -> Problem:
    """A curved valley."""

    def fun(x: Tensor) -> Tensor:
        return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()

    return Problem("Rosenbrock's valley, 10 variables", fun, torch.tensor([-1.2, 1.0]).double().repeat(5))


def planted() -> Problem:
    """A table whose rank is known."""
    rng = Stream(0).child("planted")
    table = rng.child("u").normal((60, 3)).double() @ rng.child("v").normal((80, 3)).double().T
    rows, columns = (rng.child("known").uniform((60, 80)) < 0.4).nonzero().T
    known = Completion(rows, columns, table[rows, columns], (60, 80), rank=3)
    return Problem("completion of a planted 60 x 80 table of rank 3, 40 % known", known, known.start())


def image() -> Problem:
    """A real picture of which few pixels are known."""
    from skimage.data import camera
    from skimage.transform import resize

    table = torch.as_tensor(resize(camera(), (128, 128), anti_aliasing=True)).double()
    rows, columns = (Stream(0).child("pixels").uniform((128, 128)) < 0.3).nonzero().T
    known = Completion(rows, columns, table[rows, columns], (128, 128), rank=10)
    return Problem("completion of the cameraman, 128 x 128, 30 % of the pixels, rank 10", known, known.start())


def movielens() -> Problem:
    """Real ratings."""
    ratings = MovieLens().load()
    known = Completion(ratings.users, ratings.items, ratings.values.double(), ratings.shape, rank=10)
    return Problem("completion of MovieLens 100K, 943 x 1,682, rank 10", known, known.start())


def one_bit() -> Problem:
    """Real ratings of which only the sign is kept."""
    ratings = MovieLens().load()
    liked = torch.where(ratings.values > ratings.values.mean(), 1.0, -1.0).double()
    known = Completion(ratings.users, ratings.items, liked, ratings.shape, rank=10, loss="logistic")
    return Problem("one-bit completion of MovieLens 100K (above the mean or not), rank 10", known, known.start())


def phases() -> Problem:
    """A signal from squared measurements."""
    rng = Stream(0).child("phases")
    a, truth = rng.child("a").normal((300, 50)).double(), rng.child("x").normal((50,)).double()
    b = (a @ truth) ** 2

    def fun(x: Tensor) -> Tensor:
        return ((a @ x) ** 2 - b).square().mean() / 4

    return Problem("phase retrieval, 50 variables from 300 intensities", fun, rng.child("start").normal((50,)).double())


def network() -> Problem:
    """A small network on all of its data."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.as_tensor(data.data / 16).double(), torch.as_tensor(data.target)
    rng = Stream(0).child("network")
    start = {
        "w": rng.child("w").normal((64, 16)).double() / 8,
        "b": torch.zeros(16).double(),
        "v": rng.child("v").normal((16, 10)).double() / 4,
    }

    def fun(p: dict[str, Tensor]) -> Tensor:
        decay = sum(part.square().sum() for part in p.values())
        return F.cross_entropy(torch.tanh(x @ p["w"] + p["b"]) @ p["v"], y) + 1e-4 * decay

    return Problem("a network 64-16-10 on all 1,797 digits of scikit-learn, weight decay", fun, start)


PROBLEMS = {
    "cosines": cosines,
    "rosenbrock": rosenbrock,
    "planted": planted,
    "image": image,
    "phases": phases,
    "network": network,
    "movielens": movielens,
    "one-bit": one_bit,
}


def hard_chain(mu: float, drop: float = 1.0) -> tuple[Problem, float]:
    """Return the chain of Carmon et al. for gradient and Hessian 1-Lipschitz, and the gradient norm it is hard for.

    f(x) = s t^2 g(x / t), g(x) = sqrt(mu)/2 (x_1 - 1)^2 + 1/2 sum (x_{i+1} - x_i)^2 + mu sum u(x_i), with s and t such
    that both Lipschitz constants are 1, and as many links as a fall of `drop` allows. From zero, a first-order
    method reaches one more link per gradient, and the gradient norm stays above s t mu^(3/4) / 4 until it has
    reached them all.

    Source: Carmon, Duchi, Hinder and Sidford, Lower bounds for finding stationary points II, arXiv:1711.00841.
    """
    grid = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    slope = 120 * grid**2 * (grid - 1) / (1 + grid**2)
    step = float(grid[1] - grid[0])
    bend = (slope[2:] - slope[:-2]) / (2 * step)
    turn = (bend[2:] - bend[:-2]) / (2 * step)
    lipschitz = 4 + math.sqrt(mu) + mu * float(bend.abs().max())
    s = 1 / lipschitz
    t = mu * float(turn.abs().max()) * s
    links = max(2, int((drop / (s * t * t) - math.sqrt(mu) / 2) / (10 * mu)))

    def u(x: Tensor) -> Tensor:
        part = x.square() / 2 - torch.log1p(x.square()) / 2 - x + torch.arctan(x)
        return 120 * (part - (0.5 - math.log(2) / 2 - 1 + math.pi / 4))

    def fun(x: Tensor) -> Tensor:
        z = x / t
        chain = math.sqrt(mu) / 2 * (z[0] - 1) ** 2 + (z[1:] - z[:-1]).square().sum() / 2 + mu * u(z[:-1]).sum()
        return s * t * t * chain

    problem = Problem(f"hard chain, mu = {mu:g}, {links + 1:,} variables", fun, torch.zeros(links + 1).double())
    return problem, s * t * mu**0.75 / 4
