"""Components of a perturbation: disjoint, of the declared sizes, sorted, and more than random blocks."""

import pytest
import torch
from torch import nn

from pellucid.core import ModelError, Stream
from pellucid.explain import border_contrast, cost_perturbation_components, perturbation_components


class Bumpy(nn.Module):
    """Two classes; the gap grows with products of neighboring pixels in one place, and with sums elsewhere."""

    def __init__(self, rows=slice(4, 8), columns=slice(4, 8)):
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x):
        square = x[:, 0, self.rows, self.columns].sum((1, 2)).square()
        return torch.stack([-0.2 * x.sum((1, 2, 3)), square + 0.1 * x.sum((1, 2, 3))], dim=1)


def convolutional(side=32):
    with Stream(0).child("convolutional").forked():
        return nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=2), nn.Tanh(), nn.Conv2d(6, 8, 5, stride=2), nn.Tanh(), nn.Flatten(),
            nn.Linear(8 * 25, 4),
        )  # fmt: skip


def scene(side=32):
    x = Stream(1).uniform((1, 3, side, side))[0]
    delta = 0.3 * Stream(2).normal((1, 3, side, side))[0]
    return x, delta


def found(**more):
    x, delta = scene()
    return perturbation_components(convolutional(), x, delta, 0, 1, **{"contexts": 4, "rng": Stream(0), **more})


def test_components_are_disjoint_sorted_and_of_the_declared_size():
    made = found()
    assert made.grid == (16, 16)
    assert made.components
    total = torch.zeros(32, 32)
    for part in made.components:
        assert len(part.blocks) == 16
        assert int(part.mask.sum()) == 64
        total += part.mask
    assert int(total.max()) == 1
    strengths = [abs(part.interaction) for part in made.components]
    assert strengths == sorted(strengths, reverse=True)
    owner = made.owner()
    assert int((owner == 0).sum()) == 64
    assert int((owner < 0).sum()) == 32 * 32 - 64 * len(made.components)
    x, _ = scene()
    assert made.evaluations <= cost_perturbation_components(*x.shape[1:], contexts=4)


def test_the_first_level_alone_gives_squares():
    made = found(levels=(4,))
    for part in made.components:
        rows, columns = zip(*(divmod(block, 16) for block in part.blocks), strict=True)
        assert (max(rows) - min(rows), max(columns) - min(columns)) == (1, 1)


def test_what_works_together_is_found():
    delta = torch.full((1, 12, 12), 0.1)
    made = perturbation_components(Bumpy(), torch.zeros(1, 12, 12), delta, 0, 1, levels=(4,), rng=Stream(0))
    strongest = made.components[0]
    assert bool(strongest.mask[4:8, 4:8].all())
    # (16 d)^2 in four blocks: 12 ordered pairs of (4 d)^2; contexts cancel in squares
    assert strongest.interaction == pytest.approx(12 * 0.4**2, rel=1e-3)
    assert not strongest.lowers_true
    assert strongest.drop_true == pytest.approx(0.2 * 16 * 0.1, rel=1e-3)
    assert strongest.gain_target == pytest.approx(1.6**2 + 0.1 * 1.6, rel=1e-3)


def test_the_components_do_more_than_as_many_random_blocks():
    delta = torch.full((1, 12, 12), 0.1)
    model, x = Bumpy(), torch.zeros(1, 12, 12)
    made = perturbation_components(model, x, delta, 0, 1, levels=(4,), rng=Stream(0))
    blocks = (made.owner() >= 0)[::2, ::2]

    def gap(keep):
        z = model((x + delta * keep.repeat_interleave(2, 0).repeat_interleave(2, 1))[None])[0]
        return float(z[1] - z[0])

    whole = gap(torch.ones(6, 6))
    random = [whole - gap((order >= int(blocks.sum())).view(6, 6)) for order in Stream(1).permutations(36, 20)]
    assert whole - gap(~blocks) > sum(random) / len(random)


def test_all_removed_is_what_normalizes():
    made = found()
    drop, gain = made.all_removed
    for part, (a, b) in zip(made.components, made.normalized(), strict=True):
        assert a * drop == pytest.approx(part.drop_true)
        assert b * gain == pytest.approx(part.gain_target)


def test_a_given_mask_counts_the_foreground():
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:, :16] = True
    made = found(mask=mask)
    assert made.object_source == "given"
    for part in made.components:
        assert part.foreground == pytest.approx(float(part.mask[:, :16].sum()) / 64)
        assert part.in_foreground == (part.foreground > 0.5)
    assert made.foreground_share == sum(p.in_foreground for p in made.components) / len(made.components)
    assert found().object_source == "border contrast"


def test_linkage_needs_no_sizes():
    made = found(merge="linkage")
    assert made.components
    assert len({len(part.blocks) for part in made.components}) > 1
    assert int(torch.stack([part.mask for part in made.components]).sum(0).max()) == 1


def test_the_same_stream_gives_the_same_components():
    first, again = found(), found()
    assert [c.blocks for c in first.components] == [c.blocks for c in again.components]
    assert [c.interaction for c in first.components] == [c.interaction for c in again.components]


@pytest.mark.parametrize(("height", "width"), [(9, 9), (28, 28), (7, 15)])
def test_small_and_odd_images_have_components(height, width):
    with Stream(0).child("odd").forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(height * width, 8), nn.Tanh(), nn.Linear(8, 3))
    x, delta = (Stream(k).uniform((1, 1, height, width))[0] for k in (1, 2))
    made = perturbation_components(model, x, delta, 0, 2, contexts=4, rng=Stream(0))
    assert made.components
    assert {len(part.blocks) for part in made.components} <= {4, 16}
    assert made.evaluations <= cost_perturbation_components(height, width, contexts=4)


def test_border_contrast_finds_a_patch():
    image = 0.1 * Stream(0).uniform((1, 3, 32, 32))[0]
    image[0, 10:22, 8:20] += 0.8
    guess = border_contrast(image)
    true = torch.zeros(32, 32, dtype=torch.bool)
    true[10:22, 8:20] = True
    assert float((guess & true).sum() / (guess | true).sum()) > 0.7


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"levels": (4, 8)}, "levels must be 4, 16, 64"),
        ({"levels": (2,)}, "levels must be 4, 16, 64"),
        ({"block": 17}, "block must be from 1 to half"),
        ({"mask": torch.ones(31, 32, dtype=torch.bool)}, "mask must be bool of shape"),
        ({"mask": torch.ones(32, 32)}, "mask must be bool of shape"),
        ({"contexts": 3}, "even number"),
    ],
)
def test_bad_settings_are_explained(more, words):
    with pytest.raises((ValueError, TypeError), match=words if "mask" not in more else "mask"):
        found(**more)


def test_bad_perturbations_are_explained():
    x, delta = scene()
    model = convolutional()
    with pytest.raises(ValueError, match="the target is the true class"):
        perturbation_components(model, x, delta, 1, 1, rng=Stream(0))
    with pytest.raises(ValueError, match="zero everywhere"):
        perturbation_components(model, x, 0 * delta, 0, 1, rng=Stream(0))


def test_a_model_without_gradients_is_refused():
    x, delta = scene()
    model = convolutional()
    with pytest.raises(ModelError, match="any gradient"):
        perturbation_components(lambda x: model(x.detach()).detach(), x, delta, 0, 1, rng=Stream(0))
