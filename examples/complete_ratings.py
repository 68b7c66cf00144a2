"""Complete MovieLens 100K, stars and thumbs; the ratings are fetched by `pellucid data get movielens-100k`."""

import torch

from pellucid.core import DataMissing, Stream
from pellucid.data import MovieLens
from pellucid.optim import Completion, minimize

try:
    ratings = MovieLens().load()
except DataMissing as missing:
    raise SystemExit(print(missing)) from None

kept, held = ratings.split(0.1, rng=Stream(0))
mean = kept.values.mean()

known = Completion(kept.users, kept.items, kept.values - mean, kept.shape, rank=3)
found = minimize(known, known.start(), method="ragd", tol=1e-4, max_gradients=150)
guess = (known.predict(found.x, held.users, held.items) + mean).clamp(1, 5)
print(f"stars: {found.message}")
print(f"  error on held-out ratings {float((guess - held.values).square().mean().sqrt()):.3f} stars", end="")
print(f", of the mean alone {float((mean - held.values).square().mean().sqrt()):.3f}")

liked = torch.where(kept.values > mean, 1.0, -1.0)
thumbs = Completion(kept.users, kept.items, liked, kept.shape, rank=3, loss="logistic")
found = minimize(thumbs, thumbs.start(), method="ragd", tol=1e-4, max_gradients=150)
right = (thumbs.predict(found.x, held.users, held.items) > 0) == (held.values > mean)
print(f"thumbs: {found.message}")
print(f"  right on {float(right.float().mean()):.1%} of held-out ratings", end="")
print(f", always the commoner answer on {float((held.values > mean).float().mean()):.1%}")
