"""Never changed: after every public call the user's model and the global random states are as they were.

One table says how each public function that takes a model is called. The model makes it hard: it counts its calls in a
buffer, draws from all global generators, mixes train and eval flags and frozen and trained parameters, holds gradients,
has hooks, and, in half of the tests, raises in the middle.
"""

from __future__ import annotations

import importlib
import inspect
import random
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid import attacks, audits, core, explain, games, metrics
from pellucid.core import Stream, Subject
from pellucid.nn import Equilibrium, MatrixDecomposition

PACKAGES = ("core", "games", "attacks", "metrics", "explain", "audits")


class Stubborn(nn.Module):
    """A classifier of `(b, 1, 12, 12)` images that leaves traces wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 3, 3, stride=3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(48, 4)
        )
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.zeros(()))
        self.calls, self.fails_at = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += len(x)  # changes a buffer in place
        self.last = x.detach().mean()  # puts another tensor in a buffer's place
        torch.rand(2), np.random.rand(2), random.random()  # noqa: NPY002 - moves every global generator
        if self.calls == self.fails_at:
            raise RuntimeError("the model failed on purpose")
        return self.body(x)


@dataclass
class Scene:
    """What a case needs: a model, samples and a stream."""

    model: Any
    other: Any
    x: Tensor
    y: Tensor
    rng: Stream

    @property
    def masker(self) -> games.Patches:
        return games.Patches((2, 2), fill="zero")

    @property
    def game(self) -> games.ModelGame:
        return games.ModelGame(self.model, self.x[0], self.masker, games.log_odds(int(self.y[0])), batch_size=4)

    @property
    def subject(self) -> Subject:
        """A subject whose checks do not count as calls."""
        fails_at, self.model.fails_at = self.model.fails_at, 0
        subject = Subject(self.model, self.x, self.y, surrogates={"other": self.other})
        self.model.calls, self.model.fails_at = 0, fails_at
        return subject


Case = Callable[[Scene], Any]


def _attack_at(radius: float) -> attacks.PGD:
    return attacks.PGD(attacks.Linf(radius), steps=3)


def _keep(scene: Scene) -> Tensor:
    return games.coalitions(scene.game.n_players)


class OfIds(nn.Module):
    """The model behind a table of embeddings: twelve ids make an image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.table, self.model = nn.Embedding.from_pretrained(torch.linspace(0, 1, 240).reshape(20, 12)), model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(self.table(ids)[:, None])


def _on_embeddings(scene: Scene) -> None:
    played = games.on_embeddings(OfIds(scene.model), torch.arange(12) + 3)
    words = games.Tokens("zero", words=[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    games.table(games.ModelGame(played, played.inputs, words, games.logit(0)))


class _Package:
    """What `attacks.AutoAttack` needs of the package of that name: it asks the model and moves the random state."""

    def __init__(self, model: Any, **settings: Any) -> None:
        self.model, self.apgd_targeted = model, ModuleType("part")
        self.fab = self.apgd_targeted
        self.fab.n_target_classes = 9

    def run_standard_evaluation(self, x: Tensor, y: Tensor, bs: int) -> Tensor:
        torch.manual_seed(3)
        self.model(x)
        return x


def _with_auto_attack(scene: Scene) -> Any:
    package = ModuleType("autoattack")
    package.AutoAttack = _Package
    with mock.patch.dict(sys.modules, {"autoattack": package}):
        return attacks.AutoAttack(attacks.Linf(0.1))(scene.model, scene.x, scene.y, rng=scene.rng)


CALLS: dict[str, Case] = {
    "core.Subject": lambda s: Subject(s.model, s.x, s.y, surrogates={"other": s.model}),
    "core.Subject.logit_batches": lambda s: list(s.subject.logit_batches(batch_size=2)),
    "core.Subject.logits": lambda s: s.subject.logits(batch_size=2),
    "core.Subject.take": lambda s: s.subject.take(torch.tensor([1])),
    "core.Subject.digest": lambda s: s.subject.digest(),
    "core.device_of": lambda s: core.device_of(s.model),
    "core.evaluating": lambda s: _borrow(s),
    "core.Call": lambda s: core.Call("body", 1, s.model),
    "core.FeatureReader": lambda s: [core.FeatureReader(s.model, core.layers(s.model)[:1])(x) for x in s.x.split(2)],
    "core.called_layers": lambda s: core.called_layers(s.model, s.x),
    "core.features": lambda s: core.features(s.model, s.x, (*core.layers(s.model)[:1], core.PENULTIMATE), batch_size=2),
    "core.has_linear": lambda s: core.has_linear(s.model),
    "core.last_linear": lambda s: core.last_linear(s.model, s.x),
    "core.layers": lambda s: core.layers(s.model),
    "core.reduced": lambda s: core.reduced(s.x, "mean", s.model),
    "core.watching": lambda s: _watch(s),
    "games.ModelGame": lambda s: [s.game(_keep(s)[:5]), s.game(_keep(s))],
    "games.OnEmbeddings": _on_embeddings,
    "games.on_embeddings": _on_embeddings,
    "games.Counted": lambda s: games.Counted(s.game)(_keep(s)),
    "games.Memoized": lambda s: games.Memoized(s.game)(_keep(s)),
    "games.table": lambda s: games.table(s.game),
    "games.and_or": lambda s: games.and_or(s.game),
    "games.harsanyi": lambda s: games.harsanyi(s.game),
    "games.index": lambda s: games.index(s.game, "FSII"),
    "games.restrict": lambda s: games.table(games.restrict(s.game, present=[1])),
    "games.Restricted": lambda s: games.table(games.Restricted(s.game, [0], [2])),
    "games.ShapiqGame": lambda s: games.ShapiqGame(s.game)(_keep(s).numpy()),
    "games.to_shapiq": lambda s: games.to_shapiq(s.game)(_keep(s).numpy()),
    "games.target_classes": lambda s: games.target_classes(s.model, s.x, "predicted"),
    "games.shapley": lambda s: games.shapley(s.game),
    "games.pair_interactions": lambda s: games.pair_interactions(s.game),
    "games.pair_orders": lambda s: games.pair_orders(s.game, [torch.arange(4)], [0, 1, 2], contexts=5, rng=s.rng),
    "games.interaction_strength": lambda s: games.interaction_strength(s.game, [0, 1, 2], budget=200, rng=s.rng),
    "games.size_curve": lambda s: games.size_curve(s.game, permutations=5, rng=s.rng),
    "games.noise_floor": lambda s: games.noise_floor(s.game, rng=s.rng, probes=8),
    "attacks.PGD": lambda s: attacks.PGD(attacks.Linf(0.1), steps=3)(s.model, s.x, s.y, rng=s.rng),
    "attacks.RandomSearch": lambda s: attacks.RandomSearch(attacks.L2(0.5), draws=3)(s.model, s.x, s.y, rng=s.rng),
    "attacks.GridSearch": lambda s: attacks.GridSearch(grid=(3, 1, 1))(s.model, s.x, s.y, rng=s.rng),
    "attacks.GridSearch, a sweep": lambda s: attacks.GridSearch(grid=(3, 1, 1)).sweep(s.model, s.x, s.y, rng=s.rng),
    "attacks.IntegratedSpatial": lambda s: attacks.IntegratedSpatial(steps=2, starts=2)(s.model, s.x, s.y, rng=s.rng),
    "attacks.FlowPenalty": lambda s: attacks.FlowPenalty(steps=3)(s.model, s.x, s.y, rng=s.rng),
    "attacks.APGD": lambda s: attacks.APGD(attacks.Linf(0.1), "dlr-targeted", steps=3)(s.model, s.x, s.y, rng=s.rng),
    "attacks.AutoAttack": lambda s: _with_auto_attack(s),
    "attacks.Ensemble": lambda s: attacks.standard_ensemble(attacks.L2(0.1), 4, steps=2, queries=2)(
        s.model, s.x, s.y, rng=s.rng
    ),
    "attacks.MinimumNorm": lambda s: attacks.MinimumNorm("l2", steps=3)(s.model, s.x, s.y, rng=s.rng),
    "attacks.FAB": lambda s: attacks.FAB(attacks.L2(0.5), steps=3)(s.model, s.x, s.y, rng=s.rng),
    "attacks.MinimumNormWithin": lambda s: attacks.MinimumNormWithin(attacks.L2(0.5), steps=3)(
        s.model, s.x, s.y, rng=s.rng
    ),
    "attacks.Square": lambda s: attacks.Square(attacks.Linf(0.1), queries=4)(s.model, s.x, s.y, rng=s.rng),
    "attacks.UntilUtility": lambda s: attacks.UntilUtility(_attack_at(0.1))(
        s.model, s.x, s.y, rng=s.rng, target=(s.y + 1) % 4
    ),
    "games.disentanglement": lambda s: games.disentanglement(
        s.game, torch.tensor([[0, 1]]), [0, 1], contexts=2, rng=s.rng
    ),
    "explain.attack_orders": lambda s: explain.attack_orders(
        s.model, s.x[:2], s.x[:2].flip(-1), s.y[:2], s.masker, pairs=explain.AttackPairs(1, 2), bounds=None, rng=s.rng
    ),
    "explain.pair_attack_orders": lambda s: explain.pair_attack_orders(
        s.model, s.x[:2], s.x[:2].flip(-1), s.y[:2], s.masker, bounds=None, rng=s.rng
    ),
    "explain.order_detector": lambda s: explain.order_detector(
        s.model, s.x, s.x.flip(-1), s.masker, bounds=None, rng=s.rng
    ),
    "explain.usable_pairs": lambda s: explain.usable_pairs(s.model, s.x, s.x.flip(-1), s.y),
    "explain.correction_rate": lambda s: explain.correction_rate(s.model, s.x, s.y, alpha=0.2, x=s.x, rng=s.rng),
    "explain.recoverability": lambda s: explain.recoverability(
        s.model, s.x, s.x.flip(-1), s.y, _attack_at(0.1), rng=s.rng
    ),
    "explain.equilibria": lambda s: explain.equilibria(_settling(s.model), s.x, s.y, few=2, batch_size=2, rng=s.rng),
    "explain.implicit_layers": lambda s: explain.implicit_layers(s.model),
    "explain.concept_maps": lambda s: explain.concept_maps(
        nn.Sequential(MatrixDecomposition(1, rank=1, init="ema"), s.model), s.x, batch_size=2
    ),
    "explain.atom_effects": lambda s: explain.atom_effects(
        nn.Sequential(MatrixDecomposition(1, rank=1, init="ema"), s.model), s.x, layer="0", batch_size=2
    ),
    "explain.decomposition_layers": lambda s: explain.decomposition_layers(s.model),
    "metrics.attacked": lambda s: metrics.attacked(s.model, s.x, s.y, _attack_at(0.1), rng=s.rng, batch_size=2),
    "metrics.feature_diversity": lambda s: metrics.feature_diversity(s.model, s.x, s.y, batch_size=2),
    "metrics.repeats": lambda s: metrics.repeats(s.model, s.x, batch_size=2),
    "metrics.trust": lambda s: metrics.trust(
        s.model, s.x, s.y, _attack_at(0.1), {"search": attacks.RandomSearch(attacks.Linf(0.1), draws=3)}, rng=s.rng
    ),
    "metrics.more_steps": lambda s: metrics.more_steps(
        s.model, s.x, s.y, lambda steps: attacks.PGD(attacks.Linf(0.1), steps=steps), [2, 4], rng=s.rng
    ),
    "metrics.random_search_beats": lambda s: metrics.random_search_beats(
        s.model, s.x, s.y, _attack_at(0.1), attacks.RandomSearch(attacks.Linf(0.1), draws=3), rng=s.rng
    ),
    "metrics.robustness_curve": lambda s: metrics.robustness_curve(
        s.model, s.x, s.y, _attack_at, [0.05, 0.1], rng=s.rng, bisections=1, batch_size=2
    ),
    "metrics.robustness_profile": lambda s: metrics.robustness_profile(
        s.model, s.x, s.y, {"linf": _attack_at(0.05)}, rng=s.rng, bisections=1, batch_size=2
    ),
    "metrics.watchable": lambda s: metrics.watchable(s.model),
    "metrics.corruption_accuracy": lambda s: metrics.corruption_accuracy(
        s.model, s.x, s.y, names=("contrast", "shot-noise"), severities=(1, 5), rng=s.rng, batch_size=2
    ),
    "metrics.DiversityMeter": lambda s: _layered(lambda: metrics.DiversityMeter(s.model, s.x, s.y).both()),
    "metrics.common_direction": lambda s: _layered(
        lambda: [
            metrics.common_direction(s.model, s.x, s.y, name)
            for name, module in s.model.named_modules()
            if isinstance(module, torch.nn.Linear)
        ]
    ),
    "metrics.neural_collapse": lambda s: metrics.neural_collapse(s.model, s.x, s.y, batch_size=2),
    "metrics.transfer_accuracy": lambda s: metrics.transfer_accuracy(s.model, s.x, s.y, batch_size=2),
    "explain.reliance": lambda s: explain.reliance(s.model, s.x, s.y, rng=s.rng, batch_size=2),
    "explain.smooth_grad": lambda s: explain.smooth_grad(s.model, s.x, s.y, samples=3, rng=s.rng),
    "explain.bottleneck": lambda s: explain.bottleneck(
        s.model,
        s.x[:2],
        s.y[:2],
        games.Patches(3, fill="zero"),
        settings=explain.SpectrumSettings(2, 1, 2, ratios=(0.0, 0.5, 1.0)),
        rng=s.rng,
    ),
    "explain.exact_bottleneck": lambda s: explain.exact_bottleneck(
        s.model, s.x[:2], s.y[:2], games.Patches(2, fill="zero"), rng=s.rng
    ),
    "explain.concept_table": lambda s: explain.concept_table(s.model, s.x[0], int(s.y[0]), s.masker, rng=s.rng),
    "explain.and_or_graph": lambda s: explain.and_or_graph(s.model, s.x[0], s.masker, rng=s.rng),
    "explain.and_or_graphs": lambda s: explain.and_or_graphs(s.model, s.x[:2], s.y[:2], s.masker, rng=s.rng),
    "explain.sparsity": lambda s: explain.sparsity(s.model, s.x[:2], s.y[:2], s.masker, rng=s.rng),
    "explain.concept_similarity": lambda s: explain.concept_similarity(
        s.model, s.model, s.x[:2], s.y[:2], s.masker, rng=s.rng
    ),
    "explain.learn_baseline": lambda s: explain.learn_baseline(
        s.model, s.x[0], s.masker, settings=explain.BaselineSettings(steps=2, scale=torch.ones(1))
    ),
    "explain.explanations": lambda s: explain.explanations(s.model, s.x[:2], s.y[:2], s.masker, rng=s.rng),
    "explain.attack_attribution": lambda s: explain.attack_attribution(
        s.model, *_one_is_right(s), regions=2, utility=_quick_cost(), permutations=2, rng=s.rng
    ),
    "explain.AttackGame": lambda s: _attack_game(s)(torch.tensor([[True, False], [True, True]])),
    "explain.coalition_interactions": lambda s: explain.coalition_interactions(s.game, [(0, 1)]),
    "explain.perturbation_components": lambda s: explain.perturbation_components(
        s.model, s.x[0], 0.1 * (s.x[1] - s.x[0]), 0, 1, contexts=4, rng=s.rng
    ),
    "explain.perturbation_game": lambda s: games.table(
        explain.perturbation_game(s.model, s.x[0], s.x[1] - s.x[0], explain.LogitGap(0, 1), grid=2)
    ),
    "explain.knowledge_over_training": lambda s: _regions(
        lambda: explain.knowledge_over_training(
            s.model, s.x, s.y, {"end": s.model.state_dict()}, settings=_QUICK_KNOWLEDGE, rng=s.rng
        )
    ),
    "explain.knowledge_under_attack": lambda s: _regions(lambda: _attacked_knowledge(s)),
    "explain.knowledge_points": lambda s: _regions(
        lambda: explain.knowledge_points(s.model, s.x, s.y, settings=_QUICK_KNOWLEDGE, rng=s.rng)
    ),
    "explain.region_layers": lambda s: _regions(lambda: explain.region_layers(s.model, s.x)),
    "explain.structure_test": lambda s: explain.structure_test(s.model, s.x[:2], s.y[:2], s.masker, rng=s.rng),
    "explain.gap_test": lambda s: explain.gap_test(s.model, (s.x[:2], s.y[:2]), (s.x, s.y), rng=s.rng),
    "explain.signed_order_curve": lambda s: explain.signed_order_curve(
        s.model, s.x[:2], s.y[:2], s.masker, permutations=4, bins=3, rng=s.rng
    ),
    "audits.usual_probes": lambda s: audits.usual_probes(s.subject),
    "audits.plan": lambda s: audits.plan(s.subject, budget=5000),
    "audits.seconds_per_evaluation": lambda s: audits.seconds_per_evaluation(s.subject, patience=0.01),
    "audits.audit": lambda s: _audit(s),
    "audits.Explain": lambda s: audits.Explain(players="grid:2", samples=2)(s.subject, 10_000, s.rng),
    "audits.explain": lambda s: audits.explain(s.subject, audits.Explain(players="grid:2", samples=2)),
    "audits.ExplainGraph": lambda s: audits.ExplainGraph(players="grid:2", samples=2)(s.subject, 10_000, s.rng),
    "audits.explain_graph": lambda s: audits.explain_graph(s.subject, audits.ExplainGraph(players="grid:2", samples=2)),
    "audits.check": lambda s: audits.check(s.subject, "accuracy >= 0", budget=5000),
}
PROBES: dict[str, Case] = {
    f"probe {name}": lambda s, probe=probe: probe(s.subject, 60_000, s.rng)
    for name, probe in (audits.PROBES | audits.MORE).items()
    if not isinstance(probe, core.Suited)  # made for a kind of model that this one is not
}


class _Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.scale * z + x)


class _Settled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Equilibrium(_Cell())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.zeros_like(x), x)


def _settling(model: nn.Module) -> nn.Module:
    """Return a network whose last layer settles on what the model answers."""
    return nn.Sequential(model, _Settled())


def _quick_cost() -> explain.MinimumCost:
    return explain.MinimumCost("l2", steps=2, end_steps=4)


_QUICK_KNOWLEDGE = explain.KnowledgeSettings(
    samples=explain.SampleEmbedding(steps=3), regions=explain.RegionEmbedding(epochs=2)
)


def _regions(call: Callable[[], Any]) -> None:
    """Call what needs feature maps; a model without them is refused after it was run."""
    with suppress(core.ModelError):
        call()


def _attacked_knowledge(scene: Scene) -> None:
    found = explain.knowledge_points(scene.model, scene.x, scene.y, settings=_QUICK_KNOWLEDGE, rng=scene.rng)
    space = attacks.Linf(0.1)
    explain.knowledge_under_attack(scene.model, scene.x, scene.y, found, space, steps=2, rng=scene.rng)


def _layered(call: Callable[[], Any]) -> None:
    """Call what needs layers to watch; a model without them is refused."""
    with suppress(core.ModelError, ValueError):
        call()


def _one_is_right(scene: Scene) -> tuple[Tensor, Tensor]:
    """One image with every label: the model is right once, whatever it answers."""
    return scene.x[:1].expand(4, -1, -1, -1), torch.arange(4)


def _attack_game(scene: Scene) -> explain.AttackGame:
    regions = explain.attack_regions(12, 12, (1, 2))
    return explain.AttackGame(scene.model, scene.x[0], 0, _quick_cost(), regions=regions, rng=scene.rng)


def _audit(scene: Scene) -> None:
    report = audits.audit(scene.subject, budget=60_000, quick=True)
    assert scene.model.fails_at or not report.failed


def _borrow(scene: Scene) -> None:
    with core.evaluating(scene.model):
        for _ in range(4):
            scene.model(scene.x)


def _ignore(call: core.Call, h: Tensor) -> None:
    pass


def _watch(scene: Scene) -> None:
    with core.evaluating(scene.model), core.watching(scene.model, core.layers(scene.model), _ignore):
        for _ in range(4):
            scene.model(scene.x)


# -- which public names take a model? -----------------------------------------------------------------------------

_NAMES = {"model", "subject", "game"}
_TYPES = re.compile(r"\b(Model|Module|Subject|Game)\b")


def _takes_model(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        (parameter.name in _NAMES and "str" not in str(parameter.annotation))
        or _TYPES.search(str(parameter.annotation))
        for parameter in parameters
    )


def _public() -> set[str]:
    """Every public name that is called with a model: functions, classes made from one, and classes called with one."""
    found = {f"core.Subject.{name}" for name, value in vars(Subject).items() if name[0] != "_" and callable(value)}
    for package in PACKAGES:
        module = importlib.import_module(f"pellucid.{package}")
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value) or getattr(value, "_is_protocol", False):
                continue
            if not getattr(value, "__module__", "").startswith("pellucid"):
                continue
            called = [value, value.__call__] if inspect.isclass(value) and "__call__" in vars(value) else [value]
            if any(map(_takes_model, called)):
                found.add(f"{package}.{name}")
    return found


def test_every_public_function_that_takes_a_model_is_tested_here():
    assert _public() == {name for name in CALLS if "," not in name}


# -- the contract -------------------------------------------------------------------------------------------------


@pytest.fixture
def scene(rng: Stream) -> Scene:
    with rng.child("weights").forked():
        model, other = Stubborn(), Stubborn()
        x = rng.child("x").uniform((5, 1, 12, 12))
        model(x).sum().backward()
    model.body[4].eval()
    model.body[0].weight.requires_grad_(False)
    model.body[1].eval()
    model.body[5].register_forward_hook(lambda *_: None)
    model.body[2].register_forward_pre_hook(lambda *_: None)
    model.body[5].register_full_backward_hook(lambda *_: None)
    model.calls = 0
    return Scene(model, other, x, rng.child("y").integers(4, (5,)), rng.child("case"))


_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # fmt: skip


def _look(scene: Scene) -> dict[str, Any]:
    """Everything that must not change, as comparable values."""
    seen: dict[str, Any] = {
        "inputs": scene.x.tolist(),
        "labels": scene.y.tolist(),
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": str(np.random.get_state(legacy=False)),  # noqa: NPY002
        "python generator": random.getstate(),
        "gradients enabled": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "threads": torch.get_num_threads(),
    }
    both = nn.ModuleDict({"model": scene.model, "other": scene.other})
    for name, tensor in (*both.named_parameters(), *both.named_buffers()):
        seen[f"{name} is the same object"] = id(tensor)
        seen[f"{name} values"] = tensor.tolist()
        seen[f"{name} requires_grad"] = tensor.requires_grad
        seen[f"{name} grad"] = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
    for name, module in [*scene.model.named_modules(), *scene.other.named_modules(prefix="other")]:
        seen[f"{name} training"] = module.training
        seen[f"{name} hooks"] = {kind: list(getattr(module, kind)) for kind in _HOOKS}
        seen[f"{name} attributes"] = sorted(set(vars(module)))
    return seen


def _assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = [key for key in before if before[key] != after.get(key)] + [key for key in after if key not in before]
    assert not changed


@pytest.mark.parametrize("name", [*CALLS, *PROBES])
def test_a_call_changes_nothing(scene: Scene, name: str) -> None:
    before = _look(scene)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        {**CALLS, **PROBES}[name](scene)
    _assert_same(before, _look(scene))


@pytest.mark.parametrize("fails_at", [1, 2, 3])
@pytest.mark.parametrize("name", [*CALLS, *PROBES])
def test_a_call_that_raises_changes_nothing(scene: Scene, name: str, fails_at: int) -> None:
    scene.model.fails_at = fails_at
    before = _look(scene)
    try:
        {**CALLS, **PROBES}[name](scene)
    except Exception as error:  # whatever becomes of the failure, it must be the model's
        assert "on purpose" in str(error)  # noqa: PT017 - some calls need fewer than `fails_at` batches
    else:
        # Either the model was not called that often, or an audit noted the failure and went on.
        assert scene.model.calls < fails_at or name.startswith("audits.")
    _assert_same(before, _look(scene))


class Caching(nn.Module):
    """Keeps a tensor from its first call, as models with position tables do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(144, 4)
        self.calls, self.fails_at = 0, 0
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.ones(4, device=x.device) * 2
        return self.linear(x.flatten(1)) * self.scale


@pytest.mark.parametrize("name", CALLS)
def test_a_model_that_keeps_tensors_can_be_trained_afterwards(scene: Scene, name: str) -> None:
    """Tensors made in inference mode cannot: no public call may run a model in it."""
    model = Caching()
    CALLS[name](replace(scene, model=model, other=model))
    model(scene.x).sum().backward()
    assert model.linear.weight.grad is not None


def test_the_model_does_leave_traces_when_nobody_guards_it(scene: Scene) -> None:
    before = _look(scene)
    scene.model(scene.x)
    after = _look(scene)
    changed = {key for key in before if before[key] != after[key]}
    assert {"model.seen values", "model.last is the same object", "torch generator", "python generator"} <= changed
