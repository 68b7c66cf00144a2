"""Low-rank completion of a table of which some entries are known, as a loss for whole-data descent."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class Completion:
    """Which low-rank table has these entries? A smooth nonconvex loss over its two factors.

    f(U, V) = (1 / N) sum over known (i, j) of loss((U V^T)_ij, x_ij) + (1 / 2N) |U^T U - V^T V|_F^2, where the loss is
    half the square, or log(1 + exp(-x (U V^T)_ij)) for entries of +-1. The second term balances the factors. The table
    itself is never formed: a gradient costs O(N rank + (m + n) rank^2).

    Args:
        rows: of the known entries.
        columns: of the known entries.
        values: of the known entries; +-1 for "logistic".
        shape: rows and columns of the table.
        rank: columns of each factor.
        loss: "squared", or "logistic" for one-bit completion.

    Raises:
        ValueError: no entries, places outside the table, values that are not finite or not +-1, or a rank that is not
            between 1 and the smaller side.

    Example:
        >>> table = torch.outer(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
        >>> rows, columns = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
        >>> known = Completion(rows, columns, table[rows, columns], (2, 2), rank=1)
        >>> from pellucid.optim import minimize
        >>> u, v = minimize(known, known.start(), tol=1e-8).x
        >>> round(float((u @ v.T)[1, 1]), 3)
        6.0

    Source: the test problems of arXiv:2201.11411, with the true gradient of the balancing term.
    """

    def __init__(
        self,
        rows: Int[Tensor, " n"],
        columns: Int[Tensor, " n"],
        values: Float[Tensor, " n"],
        shape: tuple[int, int],
        *,
        rank: int = 10,
        loss: str = "squared",
    ) -> None:
        if loss not in ("squared", "logistic"):
            raise ValueError(f"loss must be 'squared' or 'logistic', got {loss!r}")
        if not len(values):
            raise ValueError("there are no known entries")
        for name, places, size in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
            if int(places.min()) < 0 or int(places.max()) >= size:
                raise ValueError(f"{name} must be in 0 to {size - 1}, got {int(places.min())} to {int(places.max())}")
        if not bool(values.isfinite().all()):
            raise ValueError(f"{int((~values.isfinite()).sum())} of {len(values)} values are not finite")
        if loss == "logistic" and not bool((values.abs() == 1).all()):
            raise ValueError("values must be +1 or -1 for the logistic loss")
        if not 1 <= rank <= min(shape):
            raise ValueError(f"rank must be between 1 and {min(shape)}, the smaller side of the table, got {rank}")
        self.rows, self.columns, self.values = rows, columns, values
        self.shape, self.rank, self.loss = shape, rank, loss

    def start(self) -> tuple[Float[Tensor, "m r"], Float[Tensor, "n r"]]:
        """Return the factors of the best table of this rank where unknown entries count as zero."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.linalg import svds

        places = (self.rows.cpu().numpy(), self.columns.cpu().numpy())
        table = coo_matrix((self.values.double().cpu().numpy(), places), shape=self.shape)
        if self.rank < min(self.shape):
            left, size, right = svds(table.tocsr(), k=self.rank, v0=np.ones(min(self.shape)))
        else:
            left, size, right = np.linalg.svd(table.toarray(), full_matrices=False)
            left, size, right = left[:, : self.rank], size[: self.rank], right[: self.rank]
        root = np.sqrt(size)
        u, v = (torch.as_tensor(factor.copy()).to(self.values) for factor in (left * root, right.T * root))
        return u, v

    def predict(
        self, factors: tuple[Tensor, Tensor], rows: Int[Tensor, " k"], columns: Int[Tensor, " k"]
    ) -> Float[Tensor, " k"]:
        """Return the entries of the table at some places."""
        u, v = factors
        # Gathering by `embedding` has a dense, parallel backward; that of indexing sorts.
        return (F.embedding(rows, u) * F.embedding(columns, v)).sum(1)

    def __call__(self, factors: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
        """Return the loss of `factors`, `(m, rank)` and `(n, rank)`."""
        u, v = factors
        found = self.predict(factors, self.rows, self.columns)
        if self.loss == "squared":
            fit = (found - self.values).square().sum() / 2
        else:
            fit = F.softplus(-self.values * found).sum()
        return (fit + (u.T @ u - v.T @ v).square().sum() / 2) / len(self.values)
