"""Knowledge points of a network, layer by layer, in one call (arXiv:2111.03505)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.core import (
    PENULTIMATE,
    DataError,
    FeatureReader,
    Layer,
    ModelError,
    OnStep,
    Stream,
    called_layers,
    read_tensors,
    silent,
)

from ._knowledge_regions import RegionEmbedding, RegionImportance, RegionPoints
from ._knowledge_samples import SampleEmbedding, certainty, principal, soft_labels, turn_to

_MOST_LAYERS = 3
_CHANNELS_LAST = ("Linear", "LayerNorm")
_TRIED = 8  # samples on which the last linear layer is looked for
_EXTRA_TOKENS = 2  # a class token, and one more for distillation


@dataclass(frozen=True)
class KnowledgeSettings:
    """How knowledge points are found.

    Args:
        grid: regions per side at most; larger feature maps are averaged down to so many.
        sample_layer: whose features place samples: "penultimate" for the input of the last linear layer.
        tau: threshold of p(c|h); None for the same odds at any number of classes, 0.4 for ten.
        samples, importance, regions: the three fits.
    """

    grid: int = 8
    sample_layer: str = PENULTIMATE
    tau: float | None = None
    samples: SampleEmbedding = field(default_factory=SampleEmbedding)
    importance: RegionImportance = field(default_factory=RegionImportance)
    regions: RegionEmbedding = field(default_factory=RegionEmbedding)

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ValueError(f"grid must be at least 1, got {self.grid}")
        if self.tau is not None and not 0 <= self.tau <= 1:
            raise ValueError(f"tau must be from 0 to 1, got {self.tau}")


@dataclass(frozen=True)
class LayerKnowledge:
    """What one layer's regions know.

    Args:
        name: of the layer.
        grid: its regions, rows and columns.
        embedding: places its regions.
        importance: what regions and channels matter to which samples are alike.
        points: its knowledge points on the fitted samples.
    """

    name: str
    grid: tuple[int, int]
    embedding: RegionEmbedding
    importance: RegionImportance
    points: RegionPoints


@dataclass(frozen=True)
class KnowledgePoints:
    """Where a network's discriminative patterns are.

    Args:
        samples: places samples; its `embedding_` holds g of each.
        layers: one per layer, in the order of the forward pass.
        labels: true classes `(N,)`.
        predicted: the network's answers `(N,)`.
        certainty: correlation between length and entropy of the answers; -1 is best.
        certainty_pca: the same of the first three principal components.
        settings: how they were found.
        evaluations: model evaluations spent: one per sample, and at most twelve to find the layers.
        note: what the reader must be told; empty if nothing.
    """

    samples: SampleEmbedding
    layers: tuple[LayerKnowledge, ...]
    labels: Int[Tensor, " n"]
    predicted: Int[Tensor, " n"]
    certainty: float
    certainty_pca: float
    settings: KnowledgeSettings
    evaluations: int
    note: str = ""

    def at(self, layer: str) -> LayerKnowledge:
        """Return what a layer knows, by its name."""
        for found in self.layers:
            if found.name == layer:
                return found
        raise ValueError(f"{layer} was not asked; there are {', '.join(found.name for found in self.layers)}")


@dataclass(frozen=True)
class _Watched:
    """Features of the samples: of the sample layer `(N, D)`, of layers `(N, K, H, W)` by name, and logits."""

    samples: Tensor
    maps: Mapping[str, Tensor]
    logits: Tensor


def knowledge_points(
    model: nn.Module,
    x: Tensor,
    y: Int[Tensor, " n"],
    *,
    layers: Sequence[str] | None = None,
    settings: KnowledgeSettings | None = None,
    beside: KnowledgePoints | None = None,
    batch_size: int = 256,
    rng: Stream,
    on_step: OnStep = silent,
) -> KnowledgePoints:
    """Where does a network see what tells classes apart, and how much of it points to the true class?

    Samples are placed so that direction is class and length is certainty; then regions of each layer are placed among
    them. A region that points to some class with more than the threshold is a knowledge point; it is reliable where
    that is the true class. One forward per sample; memory holds the feature maps of the layers.

    Args:
        model: a classifier; it is run in eval mode on its own device and given back as it was.
        x: inputs `(N, ...)`, at least two samples; some hundreds give a stable picture.
        y: true classes.
        layers: names as in `core.called_layers`; `region_layers` chooses if not given. Feature maps of convolutions, or
            tokens of transformers, whose class token is left out.
        settings: grid, threshold and the three fits.
        beside: what was found for another checkpoint or network on the same samples: the picture is turned to look as
            much like that one as it can.
        batch_size: samples per forward.
        rng: where all chance comes from.
        on_step: progress of the whole.

    Raises:
        DataError: fewer than two samples, labels that do not fit, probabilities in place of logits.
        ModelError: a layer has no regions, or features are NaN or zero.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> x, y = Stream(0).uniform((12, 1, 8, 8)), torch.arange(12) % 3
        >>> found = knowledge_points(net, x, y, rng=Stream(0))
        >>> [(layer.name, layer.grid) for layer in found.layers]
        [('1', (6, 6))]
    """
    settings = settings or KnowledgeSettings()
    if beside is not None and len(beside.labels) != len(x):
        raise DataError(f"beside is about {len(beside.labels)} samples, not these {len(x)}; give the same samples")
    if len(x) < 2 or len(y) != len(x):
        raise DataError(f"knowledge points need two samples and a label for each, got {len(x)} and {len(y)} labels")
    names = tuple(layers) if layers is not None else region_layers(model, x)
    if not names:
        raise DataError("name at least one layer")
    share = _Shares(on_step, 3 * len(names) + 2)
    watch = Watcher(model, x, names, settings)
    seen = watch(x, batch_size=batch_size, on_step=share.next())
    if int(y.min()) < 0 or int(y.max()) >= seen.logits.shape[1]:
        raise DataError(f"labels must be from 0 to {seen.logits.shape[1] - 1}, got {int(y.min())} to {int(y.max())}")
    samples = replace(settings.samples).fit(seen.samples, seen.logits, rng=rng.child("samples"), on_step=share.next())
    if beside is not None:
        turn_to(samples, samples.embedding_, beside.samples.embedding_)
    found = []
    for k, (name, maps) in enumerate(seen.maps.items()):
        fits = rng.child("layer", k)
        importance = replace(settings.importance).fit(
            maps, seen.logits, rng=fits.child("importance"), temperature=samples.temperature, on_step=share.next()
        )
        regions = replace(settings.regions).fit(
            maps, seen.logits, samples, importance, rng=fits.child("regions"), on_step=share.next()
        )
        points = regions.points(maps, y, tau=settings.tau)
        share.next()(1, 1)
        found.append(LayerKnowledge(name, (maps.shape[2], maps.shape[3]), regions, importance, _on_cpu(points)))
    p = soft_labels(seen.logits, samples.temperature)
    return KnowledgePoints(
        samples=samples,
        layers=tuple(found),
        labels=y.cpu(),
        predicted=seen.logits.argmax(1).cpu(),
        certainty=certainty(samples.embedding_, p),
        certainty_pca=certainty(principal(seen.samples), p),
        settings=settings,
        evaluations=watch.evaluations + (min(2, len(x)) if layers is None else 0),
        note=samples.note_,
    )


def knowledge_over_training(
    model: nn.Module,
    x: Tensor,
    y: Int[Tensor, " n"],
    checkpoints: Mapping[str, str | Path | Mapping[str, Tensor]],
    *,
    layers: Sequence[str] | None = None,
    settings: KnowledgeSettings | None = None,
    batch_size: int = 256,
    rng: Stream,
    on_step: OnStep = silent,
) -> dict[str, KnowledgePoints]:
    """When in training do patterns that tell classes apart appear? Knowledge points of each checkpoint.

    All are asked about the same samples, and all fits start from the same draws. The last checkpoint comes first: the
    pictures of the others are turned to look like its own.

    Args:
        model: a network of the same architecture; a copy of it is used.
        checkpoints: weights by name, in the order of training: a state dictionary or a `.safetensors` file of one.
        x, y, layers, settings, batch_size, rng, on_step: as for `knowledge_points`.

    Returns:
        What was found, by the same names in the same order.

    Raises:
        DataError: no checkpoints, a file that cannot be read, or weights that do not fit the model.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> x, y = Stream(0).uniform((12, 1, 8, 8)), torch.arange(12) % 3
        >>> list(knowledge_over_training(net, x, y, {"start": net.state_dict()}, rng=Stream(0)))
        ['start']
    """
    if not checkpoints:
        raise DataError("there are no checkpoints to look at")
    own = copy.deepcopy(model)
    names = tuple(layers) if layers is not None else region_layers(model, x)
    share, found = _Shares(on_step, len(checkpoints)), dict[str, KnowledgePoints]()
    last: KnowledgePoints | None = None
    for name in list(checkpoints)[::-1]:
        state = checkpoints[name]
        tensors = dict(state) if isinstance(state, Mapping) else read_tensors(Path(state))
        try:
            own.load_state_dict(tensors)
        except RuntimeError as error:
            raise DataError(f"the checkpoint {name} does not fit the model: {error}") from error
        found[name] = knowledge_points(
            own,
            x,
            y,
            layers=names,
            settings=settings,
            beside=last,
            batch_size=batch_size,
            rng=rng,
            on_step=share.next(),
        )
        last = last or found[name]
    return {name: found[name] for name in checkpoints}


def region_layers(model: nn.Module, x: Tensor, *, most: int = _MOST_LAYERS) -> tuple[str, ...]:
    """Which layers have regions worth looking at? At most three that lie apart, the last one among them.

    Of layers whose output has places, activations if there are any, the last one of each size of maps is taken; where
    all maps have one size, as in transformers, layers at even distances.

    Args:
        model: any network.
        x: some inputs; the first two are used.
        most: number of layers.

    Raises:
        ModelError: no layer's output has places.
    """
    known = [layer for layer in called_layers(model, x) if math.prod(_sides(layer)) > 1]
    if not known:
        raise ModelError("no layer has feature maps or tokens, so there are no regions; knowledge points need them")
    known = [layer for layer in known if _is_activation(model, layer)] or known
    last = tuple({_sides(layer): layer for layer in known}.values())
    if len(last) > 1:
        return tuple(layer.name for layer in last[-most:])
    # At the ends of equal parts: the first layers of many equal ones are skipped, the last is always there.
    count = min(most, len(known))
    return tuple(known[math.ceil((k + 1) * len(known) / count) - 1].name for k in range(count))


class Watcher:
    """Reads what the fits need from a network; looks for its layers once.

    Args:
        model: any classifier.
        x: some inputs; the first eight are used.
        names: layers whose regions are read.
        settings: grid and sample layer.
    """

    def __init__(self, model: nn.Module, x: Tensor, names: Sequence[str], settings: KnowledgeSettings) -> None:
        self.names, self.settings, self.images = tuple(names), settings, x.ndim == 4
        self.kinds = {layer.name: layer.kind for layer in called_layers(model, x)}
        wanted = tuple(dict.fromkeys((*names, settings.sample_layer)))
        self.read = FeatureReader(model, wanted, example=x[:_TRIED])
        self.evaluations = min(2, len(x)) + (min(_TRIED, len(x)) if PENULTIMATE in wanted else 0)

    def __call__(self, x: Tensor, *, batch_size: int = 256, on_step: OnStep = silent) -> _Watched:
        """Run the model once over inputs; all that is kept stays on its device."""
        samples, logits = [], []
        maps: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for _, seen in self.read.batches(x, batch_size=batch_size, on_step=on_step):
            late = seen.features[self.settings.sample_layer]
            samples.append(_pooled(late, self.kinds.get(self.settings.sample_layer, "")).float())
            logits.append(seen.output.float())
            for name in self.names:
                kind = self.kinds.get(name, "")
                maps[name].append(as_map(seen.features[name], self.settings.grid, kind=kind, images=self.images))
        self.evaluations += len(x)
        return _Watched(torch.cat(samples), {name: torch.cat(part) for name, part in maps.items()}, torch.cat(logits))


def _pooled(h: Tensor, kind: str) -> Tensor:
    """Return one row per sample: maps and tokens are averaged over their places."""
    if h.ndim < 3:
        return h
    if h.ndim == 3:
        return h.mean(2 if _channels_second(kind) else 1)
    return h.mean((1, 2) if kind in _CHANNELS_LAST else (2, 3))


def as_map(h: Tensor, grid: int, *, kind: str = "", images: bool = True) -> Float[Tensor, "n k h w"]:
    """Return a layer's output as feature maps `(N, K, H, W)` with at most `grid` regions per side.

    Tokens `(N, T, K)` of images are laid out as the square that they are, without the class token before it; other
    tokens are positions in one row, at most grid^2 of them.

    Raises:
        ModelError: the output has no places.
    """
    if h.ndim == 3:
        h = h if _channels_second(kind) else h.transpose(1, 2)  # (N, K, T)
        places = h.shape[2]
        extra = next((e for e in range(_EXTRA_TOKENS + 1) if _is_square(places - e)), None)
        if not images or extra is None:
            return F.adaptive_avg_pool1d(h.float(), min(places, grid * grid))[:, :, None]
        h = h[:, :, extra:].reshape(*h.shape[:2], math.isqrt(places - extra), -1)
    elif h.ndim == 4 and kind in _CHANNELS_LAST:
        h = h.permute(0, 3, 1, 2)
    if h.ndim != 4 or h.shape[2] * h.shape[3] < 2:
        raise ModelError(f"the layer's output {tuple(h.shape)} has no regions; choose one with feature maps or tokens")
    return F.adaptive_avg_pool2d(h.float(), (min(grid, h.shape[2]), min(grid, h.shape[3])))


def _is_square(n: int) -> bool:
    return n > 1 and math.isqrt(n) ** 2 == n


def _channels_second(kind: str) -> bool:
    return kind.endswith("1d")


def _sides(layer: Layer) -> tuple[int, ...]:
    """Return how many places a layer's output has along each side; none for plain features."""
    shape = layer.shape
    if len(shape) == 3:
        return shape[:2] if layer.kind in _CHANNELS_LAST else shape[1:]
    if len(shape) == 2:
        return shape[1:] if _channels_second(layer.kind) else shape[:1]
    return ()


def _is_activation(model: nn.Module, layer: Layer) -> bool:
    module = model.get_submodule(layer.name)
    return type(module).__module__ == "torch.nn.modules.activation" and layer.kind != "MultiheadAttention"


def _on_cpu(points: RegionPoints) -> RegionPoints:
    parts = {name: getattr(points, name).cpu() for name in ("vectors", "strength", "label", "mask", "reliable")}
    return replace(points, **parts)


class _Shares:
    """Watchers of the parts of a whole, in their order."""

    def __init__(self, on_step: OnStep, parts: int) -> None:
        self.on_step, self.parts, self.done = on_step, parts, 0

    def next(self) -> OnStep:
        start, self.done = self.done, self.done + 1

        def step(done: int, total: int) -> None:
            self.on_step(round(1000 * (start + done / max(1, total))), 1000 * self.parts)

        return step
