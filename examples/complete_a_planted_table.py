"""Complete a table made of three factors from 40 % of its numbers, then from nothing but their signs."""

from pellucid.core import Stream
from pellucid.optim import Completion, minimize

rng, shape, rank = Stream(0), (60, 80), 3
table = rng.child("left").normal((60, rank)).double() @ rng.child("right").normal((rank, 80)).double()
seen = rng.child("seen").uniform(shape) < 0.4
rows, columns = seen.nonzero(as_tuple=True)
hidden_rows, hidden_columns = (~seen).nonzero(as_tuple=True)
truth = table[hidden_rows, hidden_columns]

known = Completion(rows, columns, table[rows, columns], shape, rank=rank)
found = minimize(known, known.start(), method="ragd", tol=1e-5, max_gradients=2000)
guess = known.predict(found.x, hidden_rows, hidden_columns)
print(f"numbers: {found.message}")
print(f"  error on what was hidden: {float((guess - truth).norm() / truth.norm()):.4f} of its length")

signs = Completion(rows, columns, table[rows, columns].sign(), shape, rank=rank, loss="logistic")
found = minimize(signs, signs.start(), method="ragd", tol=1e-3, max_gradients=300)
right = signs.predict(found.x, hidden_rows, hidden_columns).sign() == truth.sign()
print(f"signs: {found.message}")
print(f"  right on {float(right.double().mean()):.1%} of the hidden signs")
