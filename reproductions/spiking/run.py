"""Train feedback spiking networks on a CPU: MNIST, Fashion-MNIST and events simulated from MNIST.

python reproductions/spiking/run.py --seeds 0,1,2 [--task mnist] [--out RUNS] [--quick]

What is in results is not trained again, and an interrupted training goes on.
"""

import argparse
from pathlib import Path

import torch

from pellucid.core import evaluating, write_json
from pellucid.data import sample, unit
from pellucid.nn import operator_norm
from pellucid.training import Recipe, Run, train

# Recipe and changes by arm. The networks and data are the paper's but for epochs, and on MNIST for what is left out.
PLAIN = ("data.kind=mnist", "model.normalize=false", "model.dropout=0", "epochs=1", "schedule.kind=constant")
FASHION = ("epochs=10",)
ARMS = {
    "mnist": {
        "if-exact": ("spiking-fashion-mnist", (*PLAIN, "model.neuron=if")),
        "if-one-step": ("spiking-fashion-mnist", (*PLAIN, "model.neuron=if", "model.gradient=one-step")),
        "if-through-time": ("spiking-fashion-mnist", (*PLAIN, "model.neuron=if", "model.gradient=through-time")),
        "lif-exact": ("spiking-fashion-mnist", PLAIN),
    },
    "fashion": {
        "lif-exact": ("spiking-fashion-mnist", FASHION),
        "if-exact": ("spiking-fashion-mnist", (*FASHION, "model.neuron=if")),
    },
    "events": {"lif-exact": ("spiking-simulated-n-mnist", ())},
}
TIMES = (1, 2, 3, 5, 8, 10, 20, 30, 50, 100)
QUICK = {"mnist": ("limit=640",), "fashion": ("limit=640", "epochs=1"), "events": ("data.train=128", "data.test=50")}


def after(run: Run, task: str) -> dict[str, object]:
    """Return accuracy and residual by time steps on 1,000 test samples, rates, and the gain of the feedback."""
    few = sample(run.test_set, min(1000, len(run.test_set)), rng=run.rng)
    x, layer = unit(few.inputs), run.model.hidden
    kept, rows = layer.time_steps, []
    for steps in [t for t in TIMES if task != "events" or t <= kept]:
        layer.time_steps = steps
        with evaluating(run.model), torch.no_grad():
            right = (run.model(x).argmax(1) == few.labels).double().mean()
        info = layer.last_info
        rows.append([steps, float(right), float(info.residual.mean()), float(info.rates[-1].mean())])
    layer.time_steps = kept
    side = run.model.settings.sizes[-1]
    shape = (400,) if task != "events" else (run.model.settings.channels[-1], side, side)
    return {"time_steps, accuracy, residual, rate": rows, "gain": operator_norm(layer.feedback_map, shape)}


parser = argparse.ArgumentParser()
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--task", choices=ARMS, action="append")
parser.add_argument("--arm", action="append", help="only these arms")
parser.add_argument("--out", type=Path, default=Path("runs/spiking"))
parser.add_argument("--quick", action="store_true", help="a minute for all arms, only to see that it runs")
wish = parser.parse_args()
RESULTS = wish.out / "results" if wish.quick else Path(__file__).resolve().parent / "results"

for task in wish.task or ARMS:
    for arm, (name, changes) in ARMS[task].items():
        for seed in [int(each) for each in wish.seeds.split(",")]:
            target = RESULTS / f"{task}-{arm}-{seed}.json"
            if target.exists() or (wish.arm and arm not in wish.arm):
                continue
            own = (f"name={task}-{arm}", f"seed={seed}", *(QUICK[task] if wish.quick else ()))
            run = train(Recipe.load(name, overrides=(*changes, *own)), wish.out / f"{task}-{arm}-{seed}")
            seconds = run.folder.manifest["durations"]["train"]
            result = {"task": task, "arm": arm, "seed": seed, "figures": run.card["figures"], "seconds": seconds}
            RESULTS.mkdir(parents=True, exist_ok=True)
            write_json(target, {**result, **after(run, task)})
            print(target.stem, {figure: round(value, 4) for figure, value in run.figures.items()}, seconds, flush=True)
