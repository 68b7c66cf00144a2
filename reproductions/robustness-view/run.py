"""Take attacks apart by interaction order, on a standard and a robust network; `figures.py` draws what this writes.

python reproductions/robustness-view/run.py --part orders|pairs|strength|defences --model standard|robust [--seed S]

With --full: ResNet-18 of 100 epochs, 16 x 16 players, 100 samples, official numbers of pairs and contexts; for a GPU.
"""

import argparse
from pathlib import Path

import torch

from pellucid.attacks import PGD, Linf, until_utility
from pellucid.core import Stream, write_json
from pellucid.explain import (
    OFFICIAL_PAIRS,
    AttackPairs,
    attack_orders,
    correction_rate,
    fisher_ratio,
    fourier_rings,
    order_detector,
    pair_attack_orders,
    rank_reduced,
    recoverability,
    usable_pairs,
)
from pellucid.games import Patches
from pellucid.metrics import attacked
from pellucid.training import Recipe, train

parser = argparse.ArgumentParser()
parser.add_argument("--part", choices=("orders", "pairs", "strength", "defences"), required=True)
parser.add_argument("--model", choices=("standard", "robust"), required=True)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--samples", type=int, help="usable samples: right without, wrong under attack; 64, in full 100")
parser.add_argument("--chains", type=int, default=200)
parser.add_argument("--controlled", action="store_true", help="stop at half of the clean margin, not at full strength")
parser.add_argument("--out", type=Path, default=Path("runs/pairs"))
parser.add_argument("--full", action="store_true", help="ResNet-18 and the official settings, for a GPU")
parser.add_argument("--device", default="cpu")
parser.add_argument("--set", action="append", default=[], help="a change of the recipe, such as epochs=1")
wish = parser.parse_args()
wish.samples = wish.samples or (100 if wish.full else 64)
RESULTS = Path(__file__).resolve().parent / "results"
FILE = RESULTS / f"{wish.part}{'-controlled' * wish.controlled}{'-full' * wish.full}-{wish.model}-{wish.seed}.json"
RADIUS, TRIED = Linf(8 / 255), 8
RATIOS = (0.1, 0.2, 0.5, 0.7, 0.9, 0.95)


def plain(value: object) -> object:
    """Return intervals and tensors as lists of numbers."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return {end: plain(getattr(value, end)) for end in ("value", "low", "high")} if hasattr(value, "low") else value


def waterfall(x: torch.Tensor, x_adv: torch.Tensor, y: torch.Tensor, chains: int) -> dict:
    """Return the parts of the drop, in log probability and in log odds."""
    found = attack_orders(run.model, x, x_adv, y, cells, chains=chains, rng=rng.at(torch.arange(len(x))))
    parts = {}
    for name, one in (("log_probability", found), ("log_odds", found.beside)):
        bins = one.bins
        parts[name] = {
            "total": one.total,
            "first_order": one.first_order,
            "utility": bins.utility,
            "low": bins.low,
            "high": bins.high,
            "noise": bins.noise,
            "normal": one.order_curve("normal"),
            "attacked": one.order_curve("attacked"),
            "delta": one.delta,
            "share": one.share,
            "share_above_0.7": one.share_above(0.7),
            "closure_error": one.closure_error,
            "per_sample": one.utilities,
        }
    return {"ratios": found.ratios, "evaluations": found.evaluations} | parts


def settled(numbers: dict) -> dict:
    """Return nested numbers without tensors."""
    return {key: settled(value) if isinstance(value, dict) else plain(value) for key, value in numbers.items()}


if FILE.exists():
    raise SystemExit(f"{FILE.name} is there already")
whole = {"standard": "standard-resnet18-cifar10-full", "robust": "pgd-resnet18-cifar10-full"}
name = whole[wish.model] if wish.full else f"{wish.model}-cifar10"
recipe = Recipe.load(name, overrides=(f"seed={wish.seed}", *wish.set))
run = train(recipe, wish.out / f"{name}-{wish.seed}", device=wish.device)
run.model.to(wish.device)
subject = run.subject("test", TRIED * wish.samples)
cells = Patches(16 if wish.full else 8, background=run.subject("train", 2000).inputs)
rng = Stream(wish.seed).child("robustness-view")
inputs, labels = subject.inputs.to(wish.device), subject.labels.to(wish.device)
bound = rng.at(subject.ids)


def usable(attack: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """Return normal and attacked inputs and labels of the first samples on which the attack succeeds."""
    if wish.controlled:
        made = until_utility(PGD(RADIUS, steps=50, step_size=1 / 16))(run.model, inputs, labels, rng=bound)
        x_adv, landed = made.inputs, made.landed
    else:
        x_adv = attacked(run.model, inputs, labels, attack, rng=bound).inputs
        landed = torch.ones(len(inputs), dtype=torch.bool)
    pairs = usable_pairs(run.model, inputs, x_adv, labels)
    rows = pairs.rows[landed[pairs.rows]][: wish.samples]
    counts = {"tried": len(inputs), "wrong": int(pairs.wrong.sum()), "resisted": int(pairs.resisted.sum())}
    counts |= {"landed": int(landed.sum()), "used": len(rows), "accuracy": run.figures["accuracy"]}
    return inputs[rows], x_adv[rows], labels[rows], counts


x, x_adv, y, numbers = usable(PGD(RADIUS, steps=20))
if wish.part == "orders":
    numbers |= waterfall(x, x_adv, y, wish.chains)
elif wish.part == "pairs":
    wanted = OFFICIAL_PAIRS if wish.full else AttackPairs(10, 24, ratios=RATIOS)
    found = pair_attack_orders(run.model, x, x_adv, y, cells, settings=wanted, rng=rng.at(torch.arange(len(x))))
    numbers |= {"orders": found.orders, "floor": found.floor, "delta": found.delta, "share": found.share}
    numbers |= {"mean_of_ratios": found.disentanglement(), "ratios": found.ratios}
    numbers |= {"ratio_of_means": found.disentanglement("ratio_of_means"), "left_out": found.left_out}
elif wish.part == "strength":  # steps of 2/255 in a ball of 32/255, as in the paper: only the number of steps differs
    strengths = {k: usable(PGD(Linf(32 / 255), steps=k, step_size=1 / 16, start="zero")) for k in (4, 8, 16, 32)}
    numbers |= {str(k): found | waterfall(*parts, wish.chains // 2) for k, (*parts, found) in strengths.items()}
else:
    numbers["detector"] = order_detector(run.model, x, x_adv, cells, contexts=2, rng=rng).auroc
    numbers["correction"] = {
        str(alpha or "cutout"): vars(correction_rate(run.model, x_adv, y, alpha=alpha, x=x, rng=rng))
        for alpha in (None, 0.1, 0.2, 0.3)
    }
    back = vars(recoverability(run.model, x, x_adv, y, PGD(RADIUS, steps=20), rng=rng)) | {"inputs": None}
    numbers["recovery"] = {key: plain(value) for key, value in back.items()}
    rings = [fourier_rings(part) for part in (x, x_adv)]
    numbers["rings"] = {"normal": rings[0].mean(0), "attacked": rings[1].mean(0), "fisher": fisher_ratio(*rings)}
    few = slice(0, max(4, wish.samples // 4))
    for fraction in (1, 1 / 4, 1 / 16):
        low = [rank_reduced(part[few], fraction).clamp(0, 1) for part in (x, x_adv)]
        numbers[f"rank {fraction:g}"] = waterfall(*low, y[few], wish.chains // 4)
RESULTS.mkdir(exist_ok=True)
write_json(FILE, settled(numbers))
print(f"{FILE.name}: {numbers['used']} samples used of {numbers['tried']}", flush=True)
