"""The `autoattack` package of Croce and Hein (2020, arXiv:2003.01690), where it is installed."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from pellucid.core import DataError, MissingExtra, Model, Perturbed, Stream, evaluating

from ._balls import L2, Linf
from ._candidates import Candidates, attackable, borrowed
from ._losses import margin_loss

_OURS = "use standard_ensemble"
_INSTALL = "AutoAttack needs the package autoattack: pip install git+https://github.com/fra31/auto-attack"


@final
@dataclass(frozen=True)
class AutoAttack:
    """What does the published AutoAttack find? An adaptor that runs the package itself and reports as all attacks do.

    For comparison with published numbers; `standard_ensemble` is the same recipe without the package. The package draws
    for a whole batch, so a sample's result depends on its batch, unlike everywhere else here. Inputs are scaled to the
    [0, 1] that it takes for granted. What it warns of is warned of.

    Args:
        space: a `Linf` or `L2` ball with bounds and without a scale.
        version: "standard", "plus" or, for models that answer at random, "rand".
        batch_size: samples per forward.

    Raises:
        TypeError: the space is neither `Linf` nor `L2`.
        ValueError: the space has no bounds or has a scale; the model has fewer than four classes.
    """

    space: Linf | L2
    version: Literal["standard", "plus", "rand"] = field(default="standard", kw_only=True)
    batch_size: int = field(default=250, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.space, Linf | L2):
            raise TypeError(f"space must be a Linf or L2 ball, got {type(self.space).__name__}")
        if self.space.bounds is None or self.space.scale is not None:
            raise ValueError(f"the package autoattack takes bounded inputs without a scale; {_OURS}")
        if self.version not in ("standard", "plus", "rand"):
            raise ValueError(f"version must be 'standard', 'plus' or 'rand', got {self.version!r}")

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        rng: Stream,
        start: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Perturbed:
        """Attack a batch of images.

        Args:
            model: maps `(b, c, h, w)` to logits `(b, k)`.
            x: images `(b, c, h, w)` inside the space's bounds.
            y: true labels `(b,)` int64.
            rng: gives the package its seed.
            start: not supported by the package.
            target: not supported by the package.

        Raises:
            MissingExtra: the package is not installed; the text is the install line.
            ModelError: logits are NaN or infinite.
            DataError: inputs are no images, or lie outside the space's bounds.
            ValueError: a start or a target is given.
        """
        if start is not None or target is not None:
            raise ValueError("the package autoattack takes neither a start nor a target; use APGD or PGD")
        package = _package()
        with borrowed(model):
            x, y = attackable(x, y)
            if x.ndim != 4:
                raise DataError(f"the package autoattack takes images (b, c, h, w), got {tuple(x.shape)}")
            asked = Candidates(model, self.space, margin_loss, x, y, rng)
            zeros = self.space.zeros(x)
            asked.offer(zeros)
            if self.space.eps > 0:
                low, high = self.space.bounds or (0.0, 1.0)
                wrapped = _Counted(asked, low, high - low)
                unit = ((x.float() - low) / (high - low)).clamp(0, 1)
                found = low + (high - low) * self._run(package, wrapped, unit, y, rng)
                asked.offer(self.space.project(x, (found - x.float()).to(zeros)))
            return asked.result()

    def _run(self, package: Callable[..., Any], model: nn.Module, unit: Tensor, y: Tensor, rng: Stream) -> Tensor:
        """Return the package's distorted inputs in [0, 1]; what it prints becomes warnings."""
        low, high = self.space.bounds or (0.0, 1.0)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), evaluating(model, precise=False):
            attack = package(
                model,
                norm="Linf" if isinstance(self.space, Linf) else "L2",
                eps=self.space.eps / (high - low),
                seed=rng.seed % 2**31,
                version=self.version,
                device=unit.device,
                verbose=False,
            )
            with torch.no_grad():
                targets = model(unit[:1]).shape[1] - 1
            if targets < 3:
                raise ValueError(f"the package autoattack needs at least 4 classes, got {targets + 1}; {_OURS}")
            # It takes ten classes for granted and would look for the tenth where there are fewer.
            for part in (attack.apgd_targeted, attack.fab):
                part.n_target_classes = min(part.n_target_classes, targets)
            found: Tensor = attack.run_standard_evaluation(unit, y, bs=self.batch_size)
        for line in said.getvalue().splitlines():
            if line.strip():
                warnings.warn(f"autoattack: {line.strip().removeprefix('Warning: ')}", RuntimeWarning, stacklevel=4)
        return found.detach()


@final
class _Counted(nn.Module):
    """The model as the package sees it: inputs in [0, 1], and every forward and backward counted."""

    def __init__(self, asked: Candidates, low: float, width: float) -> None:
        super().__init__()
        self.asked, self.low, self.width = asked, low, width

    def forward(self, unit: Tensor) -> Tensor:
        logits = self.asked.answer((self.low + self.width * unit).to(self.asked.x.dtype)).float()
        if logits.requires_grad:
            self.asked.evaluations += len(unit)  # a gradient counts two
        return logits


def _package() -> Callable[..., Any]:
    try:
        from autoattack import AutoAttack as Package
    except ImportError:
        raise MissingExtra(_INSTALL) from None
    return Package  # type: ignore[no-any-return]
