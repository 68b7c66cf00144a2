"""SmoothGrad: which pixels would change the score of a class, averaged over noisy copies of the image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import DataError, Model, ModelError, Stream, check_pictures, device_of, evaluating, logit

SAMPLES = 50
NOISE = 0.15


def cost_smooth_grad(images: int, *, samples: int = SAMPLES) -> int:
    """Return the evaluations that `smooth_grad` spends: two for each noisy copy of each image."""
    return 2 * images * samples


def smooth_grad(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    samples: int = SAMPLES,
    noise: float = NOISE,
    rng: Stream,
    batch_size: int = 256,
) -> Float[Tensor, "images height width"]:
    """Which pixels would change the score of a class most?

    The gradient of the logit of class y, averaged over copies of the image with Gaussian noise of `noise` times its
    range; then the sum over channels of its absolute value. One gradient jumps from pixel to pixel, the mean of many
    does not (Smilkov et al. 2017, arXiv:1706.03825). A large value says that the score is sensitive there, not that the
    pixel was needed for it. `cost_smooth_grad` says what it costs.

    Args:
        model: maps `(b, C, H, W)` to logits `(b, K)`; its own device is used.
        x: images `(N, C, H, W)`.
        y: `(N,)`, the class whose logit is followed.
        samples: noisy copies of each image.
        noise: standard deviation of the noise, as a share of each image's range.
        rng: bind it to sample ids with `rng.at(ids)`.
        batch_size: images per forward.

    Returns:
        Maps of numbers from 0 on, in logits per unit of the inputs, on the CPU.

    Raises:
        DataError: no images, or labels that do not fit.
        ModelError: the logits do not follow the inputs by autograd, or the gradient is not finite.
        ValueError: fewer than one copy, or noise that is not a number from 0 on.

    Example:
        >>> slope = torch.tensor([1.0, -2.0, 0.0, 0.5])
        >>> model = lambda x: torch.stack((x.flatten(1) @ slope, x.new_zeros(len(x))), 1)
        >>> smooth_grad(model, torch.rand(1, 1, 2, 2), torch.tensor([0]), samples=3, rng=Stream(0))
        tensor([[[1.0000, 2.0000],
                 [0.0000, 0.5000]]])
    """
    check_pictures(x)
    if y.shape != (len(x),) or y.dtype != torch.int64:
        raise DataError(f"y must be int64 of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be a share of each image's range from 0 on, got {noise!r}")
    ids = torch.arange(len(x)) if rng.ids is None else rng.ids.cpu()
    if len(ids) != len(x):
        raise ValueError(f"rng is bound to {len(ids)} samples but x holds {len(x)}")
    device = device_of(model)
    maps = [
        _mean_gradient(model, x[rows].to(device), y[rows].to(device), samples, noise, rng.at(ids[rows]))
        for rows in torch.split(torch.arange(len(x)), batch_size)
    ]
    mean = torch.cat([one.abs().sum(1).cpu() for one in maps])
    broken = (~mean.isfinite()).flatten(1).any(1).nonzero()
    if len(broken):
        raise ModelError(f"the gradient for sample {int(ids[int(broken[0])])} holds NaN or infinity")
    return mean.to(x.dtype)


def _mean_gradient(model: Model, x: Tensor, y: Tensor, samples: int, noise: float, rng: Stream) -> Tensor:
    x = x.detach().clone()
    deviation = noise * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]
    total = torch.zeros_like(x, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    with evaluating(model, precise=False), torch.enable_grad():
        for copy in range(samples):
            drawn = rng.child("smooth-grad", copy).normal(x.shape, device=x.device, dtype=x.dtype)
            noisy = (x + deviation * drawn).requires_grad_()
            logits = model(noisy)
            if not (isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(x)):
                raise ModelError(f"the model must return logits of shape ({len(x)}, K)")
            if not logits.requires_grad:
                raise ModelError("the logits do not follow the inputs by autograd: there is no gradient to show")
            if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
                raise DataError(f"y must name classes 0 to {logits.shape[1] - 1}, got {int(y.min())} to {int(y.max())}")
            (slope,) = torch.autograd.grad(logit(logits, y).sum(), noisy)
            total += slope
    return total / samples
