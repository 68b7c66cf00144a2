"""Newton's method for h = F(h), its linear systems solved by GMRES on products with the Jacobian."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from ._iterate import Call, Found, Grain, Stop, exact, iterate
from ._solvers import Anderson, Broyden, Picard, check_solver, dots, limits


@dataclass(frozen=True, kw_only=True)
class NewtonKrylov:
    """Newton's method: each step solves (1 - J) step = F(h) - h by GMRES, row by row.

    Few steps, each of `krylov` products of the Jacobian J with a vector by forward-mode differentiation, and one
    evaluation. It pays where other solvers need very many steps or do not converge; it needs a start that is close
    enough, and a cell whose operations all have forward derivatives (compiled cells do not).

    Args:
        max_iter: Newton steps at most.
        tol: a sample is done when its residual is below.
        stop: "relative": |F(h) - h| / |F(h)|; "absolute": |F(h) - h|.
        krylov: products with the Jacobian in each step; a state of that many numbers is solved exactly.

    Example:
        >>> from pellucid.nn import fixed_point
        >>> solution = fixed_point(torch.cos, torch.zeros(1, 1), NewtonKrylov(tol=1e-6))
        >>> round(solution.value.item(), 4), solution.steps.item() < 6
        (0.7391, True)
    """

    max_iter: int = 10
    tol: float = 1e-3
    stop: Stop = "relative"
    krylov: int = 10

    def __post_init__(self) -> None:
        check_solver(self)
        if self.krylov < 1:
            raise ValueError(f"krylov must be at least 1, got {self.krylov}")

    def solve(self, call: Call, x: Float[Tensor, "b d"], *, drop: bool = False, grain: Grain = exact) -> Found:
        """Return where the rows of `x` end; see `Solver`."""
        method = _Newton(call, min(self.krylov, max(1, x.shape[1])))
        return iterate(call, x, method, **limits(self), drop=drop, grain=grain)


SOLVERS: Mapping[str, type[Picard | Anderson | Broyden | NewtonKrylov]] = MappingProxyType(
    {"anderson": Anderson, "broyden": Broyden, "newton-krylov": NewtonKrylov, "picard": Picard}
)
"""Solvers by name, as settings write them; `SOLVERS[name](...)` makes one."""


class _Newton:
    def __init__(self, call: Call, krylov: int) -> None:
        self.call, self.krylov = call, krylov

    def propose(self, x: Tensor, fx: Tensor, rows: Tensor | None) -> Tensor:
        gap = fx - x

        def system(v: Tensor) -> Tensor:
            return v - jacobian_product(self.call, x, v, rows)

        step = gmres(system, gap, self.krylov)
        return x + torch.where(torch.isfinite(step).all(1, keepdim=True), step, gap)

    def keep(self, chosen: Tensor) -> None:
        pass


def jacobian_product(call: Call, x: Tensor, v: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return J v for each row, (b, d)."""
    if torch.is_inference_mode_enabled():  # every derivative would silently be zero
        raise RuntimeError("products with the Jacobian need derivatives; use torch.no_grad, not torch.inference_mode")
    _load_forward_mode()
    with forward_ad.dual_level():
        # Rows that share memory, as those of `expand` do, cannot carry directions of their own.
        out = call(forward_ad.make_dual(x.contiguous(), v), rows)  # type: ignore[no-untyped-call]
        tangent: Tensor | None = forward_ad.unpack_dual(out).tangent  # type: ignore[no-untyped-call]
        return torch.zeros_like(v) if tangent is None else tangent.clone()


@cache
def _load_forward_mode() -> None:
    """Load what torch's forward mode needs: it warns of parts of its own when it does."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


def gmres(system: Callable[[Tensor], Tensor], y: Tensor, krylov: int) -> Tensor:
    """Return s with least |system(s) - y| in the Krylov space of y, row by row, (b, d)."""
    basis, hessenberg = arnoldi(system, y, krylov)
    size = torch.linalg.vector_norm(y, dim=1).to(torch.float64)
    # Least squares by normal equations: the small matrix is in float64, so squaring its condition does no harm.
    gram = hessenberg.transpose(1, 2) @ hessenberg
    ridge = 1e-15 * gram.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-300)
    gram = gram + ridge[:, None, None] * torch.eye(krylov, dtype=gram.dtype, device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(gram)
    weights = torch.cholesky_solve(hessenberg[:, 0, :, None] * size[:, None, None], factor)[:, :, 0]
    return torch.bmm(weights.to(y.dtype)[:, None], basis[:, :krylov])[:, 0]


def arnoldi(system: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis (b, steps + 1, d) and the Hessenberg matrix (b, steps + 1, steps), in float64.

    Where the space is exhausted early, the rest of the basis and of the matrix is zero.
    """
    b, d = start.shape
    basis = start.new_zeros(b, steps + 1, d)
    hessenberg = torch.zeros(b, steps + 1, steps, dtype=torch.float64, device=start.device)
    basis[:, 0] = _normal(start, torch.linalg.vector_norm(start, dim=1), 0.0)
    for k in range(steps):
        image = system(basis[:, k])
        length = torch.linalg.vector_norm(image, dim=1)
        known = basis[:, : k + 1]
        for _ in range(2):  # the second pass removes what rounding left of the first
            inner = dots(known, image)
            image = image - torch.bmm(inner[:, None], known)[:, 0]
            hessenberg[:, : k + 1, k] += inner
        rest = torch.linalg.vector_norm(image, dim=1)
        floor = 10 * torch.finfo(start.dtype).eps * length
        hessenberg[:, k + 1, k] = torch.where(rest > floor, rest, 0.0)
        basis[:, k + 1] = _normal(image, rest, floor)
    return basis, hessenberg


def _normal(v: Tensor, size: Tensor, floor: Tensor | float) -> Tensor:
    return torch.where((size > floor)[:, None], v / size.clamp_min(torch.finfo(v.dtype).tiny)[:, None], 0.0)
