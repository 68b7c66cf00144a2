"""What the components of perturbations do, and where they lie: shared by run.py and objects.py."""

from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core import Stream, evaluating
from pellucid.explain import perturbation_components


def described(
    model: nn.Module, x: Tensor, delta: Tensor, y: Tensor, *, masks: Tensor | None = None, rng: Stream
) -> dict[str, Any]:
    """Return the components of each image's perturbation, and what removing them does beside random blocks.

    Args:
        model: the attacked network.
        x, delta, y: images, perturbations, labels; images that the perturbation does not fool are left out.
        masks: `(N, H, W)` bool, the objects' pixels where they are known.
        rng: bound to the images' ids.
    """
    with evaluating(model), torch.no_grad():
        answers = model(x + delta).argmax(1)
    images, evaluations = [], 0
    for k in (answers != y).nonzero()[:, 0].tolist():
        true, goal = int(y[k]), int(answers[k])
        own = rng.at(rng.ids[k : k + 1])
        mask = None if masks is None else masks[k]
        found = perturbation_components(model, x[k], delta[k], true, goal, mask=mask, rng=own)
        chosen = found.owner() >= 0
        images.append(
            {
                "id": int(rng.ids[k]),
                "target": goal,
                "components": [
                    {
                        "blocks": list(c.blocks),
                        "interaction": c.interaction,
                        "stderr": c.stderr,
                        "foreground": c.foreground,
                        "drop_true": c.drop_true,
                        "gain_target": c.gain_target,
                    }
                    for c in found.components
                ],
                "all_removed": list(found.all_removed),
                "object_share": float(found.object_mask.double().mean()),
                "random_removed": random_blocks(model, x[k], delta[k], chosen, true, goal, own),
            }
        )
        evaluations += found.evaluations
    return {"images": images, "evaluations": evaluations}


def random_blocks(
    model: nn.Module, x: Tensor, delta: Tensor, chosen: Tensor, y: int, target: int, rng: Stream, draws: int = 20
) -> list[float]:
    """Return (drop_true, gain_target) of removing as many random 2 x 2 blocks as the components have, on average."""
    height, width = chosen.shape
    blocks = chosen[::2, ::2]
    order = rng.child("random-blocks").bits((1, draws, blocks.numel()))[0].argsort(1).argsort(1)
    removed = (order < int(blocks.sum())).view(draws, 1, *blocks.shape)
    keep = ~removed.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :height, :width]
    with evaluating(model), torch.no_grad():
        whole, less = model((x + delta)[None])[0], model(x + delta * keep).mean(0)
    return [float(less[y] - whole[y]), float(whole[target] - less[target])]
