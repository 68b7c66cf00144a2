"""The feedback spiking networks of arXiv:2109.14247, for images and for frames of events."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn

from .._backwards import Implicit, Neumann, OneStep
from .._neurons import IF, LIF, Surrogate
from .._solvers import Picard
from .._spectral_bound import SpectralBound
from .._spiking import FeedbackSpiking

Positive = Annotated[int, Meta(ge=1)]
Deviation = Annotated[float, Meta(gt=0)]


class FeedbackSpikingSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="feedback-spiking"
):
    """Settings of `FeedbackSpikingNet`; the defaults are the authors' network for MNIST, 64C5s.

    Args:
        in_channels: channels of an input image; polarities of a frame of events.
        image_size: height and width in pixels.
        events: inputs hold time steps one after the other among their channels, `(B, T in_channels, H, W)`, as the
            sources of events give them; otherwise an image stays the same in all steps.
        channels: filters of each population, or its neurons where `kernel` is 0.
        strides: of the convolution into each population.
        kernel: width of all convolutions, odd; 0 connects everything with everything.
        neuron: "if" or "lif".
        leak: share of a "lif" membrane that stays from step to step.
        threshold: at which neurons fire.
        time_steps: of the simulation; with events, at most as many as there are frames.
        gradient: "exact", "one-step", "neumann" (`gradient_steps` terms of the series), or "through-time": surrogate
            gradients through all steps, to compare with.
        gradient_steps: at most so many products with the Jacobian.
        gain: bound of the feedback's largest gain; below `threshold` one population surely settles.
        gain_of: "operator" bounds the feedback itself, "kernel" its reshaped kernel, as the authors' code does.
        normalize: batch normalization of all currents but the feedback's.
        dropout: share of spikes left out in training, the same ones in all steps.
        classes: number of logits.
        mean, std: of the training pixels, one per channel or one for all; images in [0, 1] are normalized inside the
            model, events are not. The defaults are MNIST's.
    """

    in_channels: Positive = 1
    image_size: Positive = 28
    events: bool = False
    channels: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (64,)
    strides: tuple[Positive, ...] = (2,)
    kernel: Annotated[int, Meta(ge=0)] = 5
    neuron: Literal["if", "lif"] = "lif"
    leak: Annotated[float, Meta(gt=0, lt=1)] = 0.95
    threshold: Annotated[float, Meta(gt=0)] = 2.0
    time_steps: Positive = 30
    gradient: Literal["exact", "one-step", "neumann", "through-time"] = "exact"
    gradient_steps: Positive = 30
    gain: Annotated[float, Meta(gt=0)] = 1.0
    gain_of: Literal["operator", "kernel"] = "operator"
    normalize: bool = True
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    classes: Annotated[int, Meta(ge=2)] = 10
    mean: tuple[float, ...] = (0.1307,)
    std: tuple[Deviation, ...] = (0.3081,)

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.in_channels):
                raise ValueError(f"{name} has {len(values)} numbers but images have {self.in_channels} channels")
        if self.kernel and self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, or 0 for full connections, got {self.kernel}")
        if self.kernel and len(self.strides) != len(self.channels):
            raise ValueError(f"strides has {len(self.strides)} numbers but there are {len(self.channels)} populations")
        if self.kernel and self.sizes[0] != self.sizes[-1] * self._up:
            raise ValueError(
                f"image_size {self.image_size} gives populations of {self.sizes[0]} and {self.sizes[-1]} pixels on a "
                f"side; the feedback, which enlarges {self._up} times, needs a multiple"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Height and width of each population, 1 where everything is connected."""
        sizes, side = [], self.image_size
        for k, _ in enumerate(self.channels):
            side = -(-side // self.strides[k]) if self.kernel else 1
            sizes.append(side)
        return tuple(sizes)

    @property
    def _up(self) -> int:
        return math.prod(self.strides[1:])

    def build(self) -> FeedbackSpikingNet:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return FeedbackSpikingNet(self)


class FeedbackSpikingNet(nn.Module):
    """Populations of spiking neurons of which the last feeds the first, and a linear readout of its rates.

    229,642 parameters as it comes, and the scale of the feedback. Weights start with rows of length 1, biases at 0.

    Args:
        settings: sizes, neurons and gradient.

    Example:
        >>> model = FeedbackSpikingNet(FeedbackSpikingSettings(image_size=8, channels=(2,), time_steps=5))
        >>> tuple(model(torch.rand(3, 1, 8, 8)).shape)
        (3, 10)

    Source: arXiv:2109.14247.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: FeedbackSpikingSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or FeedbackSpikingSettings()
        # Settings, not weights: they stay out of the weights file but follow the model's device.
        self.register_buffer("mean", torch.tensor(settings.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(-1, 1, 1), persistent=False)
        first, *rest = (_current(settings, k) for k in range(len(settings.channels)))
        side = settings.sizes[-1]
        self.hidden = FeedbackSpiking(
            first,
            SpectralBound(_feedback(settings), bound=settings.gain, of=settings.gain_of, size=(side, side)),
            layers=rest,
            neuron=IF(settings.threshold) if settings.neuron == "if" else LIF(settings.leak, settings.threshold),
            time_steps=settings.time_steps,
            backward=_gradient(settings),
            dropout=settings.dropout,
        )
        self.classifier = nn.Linear(settings.channels[-1] * side * side, settings.classes)
        _rows(self.classifier)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits for images in [0, 1], or for frames of events."""
        settings = self.settings
        if settings.events:
            frames = x.reshape(len(x), -1, settings.in_channels, *x.shape[2:])
            rates = self.hidden(frames, layout="batch-first")
        else:
            rates = self.hidden((x - self.mean) / self.std)
        return self.classifier(rates.flatten(1))  # type: ignore[no-any-return]


def _current(settings: FeedbackSpikingSettings, k: int) -> nn.Sequential:
    """Return the map into population k."""
    out = settings.channels[k]
    if settings.kernel:
        before = settings.channels[k - 1] if k else settings.in_channels
        map: nn.Linear | nn.Conv2d = nn.Conv2d(
            before, out, settings.kernel, settings.strides[k], padding=settings.kernel // 2
        )
        norm: nn.Module = nn.BatchNorm2d(out)
    else:
        before = settings.channels[k - 1] if k else settings.in_channels * settings.image_size**2
        map, norm = nn.Linear(before, out), nn.BatchNorm1d(out)
    _rows(map)
    start = () if settings.kernel or k else (nn.Flatten(),)
    return nn.Sequential(*start, map, *((norm,) if settings.normalize else ()))


def _feedback(settings: FeedbackSpikingSettings) -> nn.Linear | nn.Conv2d | nn.ConvTranspose2d:
    first, last, kernel = settings.channels[0], settings.channels[-1], settings.kernel
    up, pad = math.prod(settings.strides[1:]), kernel // 2
    map: nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    if not kernel:
        map = nn.Linear(last, first, bias=False)
    elif up == 1:
        map = nn.Conv2d(last, first, kernel, padding=pad, bias=False)
    else:
        map = nn.ConvTranspose2d(last, first, kernel, up, padding=pad, output_padding=up - 1, bias=False)
    _rows(map)
    return map


@torch.no_grad()
def _rows(map: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Draw weights evenly, then scale what goes into each neuron to length 1; biases are 0."""
    weight = nn.init.uniform_(map.weight, -1, 1)
    axes = tuple(axis for axis in range(weight.ndim) if axis != (1 if isinstance(map, nn.ConvTranspose2d) else 0))
    weight.div_(torch.linalg.vector_norm(weight, dim=axes, keepdim=True))
    if map.bias is not None:
        nn.init.zeros_(map.bias)


def _gradient(settings: FeedbackSpikingSettings) -> Implicit | Neumann | OneStep | Surrogate:
    if settings.gradient == "exact":
        return Implicit(Picard(max_iter=settings.gradient_steps, tol=1e-6))
    if settings.gradient == "neumann":
        return Neumann(steps=settings.gradient_steps, damping=1.0)
    return OneStep() if settings.gradient == "one-step" else Surrogate()
