"""Features without a network: what do the losses themselves ask for, when classes are unequal?

Every sample's features are free numbers of length 1, moved by projected gradient descent. With fixed prototypes they
should end on them, whatever the class counts; with learned class vectors those of rare classes should fall together.

python reproductions/etf/free.py --seed 0
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from pellucid.core import Stream, write_json
from pellucid.data import long_tail_counts
from pellucid.nn import dot_regression_loss, simplex_etf

K, DIM, STEPS = 10, 16, 3000


def fixed(loss: str, seed: int) -> float:
    """Return the least cosine of any feature and its prototype at the end; exponential tail, ratio 0.01."""
    counts = torch.tensor(long_tail_counts(500, K, 0.01))
    labels = torch.repeat_interleave(torch.arange(K), counts)
    rng = Stream(seed)
    m = simplex_etf(K, DIM, rng=rng, dtype=torch.float64)
    h = F.normalize(rng.child("features").normal((len(labels), DIM), dtype=torch.float64), dim=1).requires_grad_()
    for _ in range(STEPS):
        value = dot_regression_loss(h, labels, m) if loss == "dot regression" else F.cross_entropy(h @ m, labels)
        (grad,) = torch.autograd.grad(value, h)
        with torch.no_grad():  # the mean divides each sample's gradient by N
            h.copy_(F.normalize(h - 0.5 * len(labels) * grad, dim=1))
    return float((h.detach() * m.T[labels]).sum(1).min())


def learned(ratio: int, seed: int) -> float:
    """Return the mean cosine of two rare classes' learned vectors; five frequent classes, five `ratio` times rarer.

    All samples of a class end at one point, so a class has one feature that counts n_k times. Lengths are bounded on
    average, E_W = E_H = 5.
    """
    weight = torch.tensor([ratio] * 5 + [1] * 5, dtype=torch.float64)
    rng, labels = Stream(seed), torch.arange(K)
    w, h = (rng.child(name).normal((K, DIM), dtype=torch.float64).requires_grad_() for name in ("w", "h"))
    optimizer = torch.optim.Adam([w, h], lr=0.01)
    for _ in range(STEPS):
        with torch.no_grad():
            for part in (w, h):
                part.mul_((5**0.5) / part.square().sum(1).mean().sqrt().clamp_min(5**0.5))
        loss = (weight * F.cross_entropy(h @ w.T, labels, reduction="none")).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rare = F.normalize(w.detach()[5:], dim=1)
    return float((rare @ rare.T)[~torch.eye(5, dtype=torch.bool)].mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    numbers = {
        f"least cosine, fixed prototypes, {loss}": fixed(loss, seed) for loss in ("cross entropy", "dot regression")
    }
    numbers |= {f"rare vectors' mean cosine, {ratio} : 1": learned(ratio, seed) for ratio in (1, 10, 100, 1000)}
    numbers |= {"mean cosine in a simplex": -1 / (K - 1)}
    write_json(Path(__file__).resolve().parent / "results" / f"free-{seed}.json", numbers)
    for name, value in numbers.items():
        print(f"{name}: {value:.4f}")
