"""Atoms matched to classes: what is planted is found, on images that did not choose it, and chance is told."""

import pytest
import torch
from torch.nn import functional as F

from pellucid.core import IGNORED, DataError, Stream
from pellucid.explain import match_concepts


def scene(rng, n=20, classes=3, size=24):
    masks = rng.child("masks").integers(classes, (n, 6, 6))
    masks = masks.repeat_interleave(size // 6, 1).repeat_interleave(size // 6, 2)
    return masks, F.one_hot(masks, classes).permute(0, 3, 1, 2).float()


def test_maps_that_are_the_masks_match_them_wholly(rng):
    masks, maps = scene(rng)
    order = [2, 0, 1]
    found = match_concepts(maps[:, order], masks, 3, rng=rng)
    assert found.best.tolist() == order
    assert found.best_atom.tolist() == [1, 2, 0]
    assert found.best_score.tolist() == [1, 1, 1]
    assert found.clear.all()
    assert float(found.best_chance.max()) < 0.3
    assert sorted([*found.chosen_on.tolist(), *found.scored_on.tolist()]) == list(range(20))
    assert found.measure == "iou"
    torch.testing.assert_close(found.share.sum(), torch.tensor(1.0).double())


def test_coarse_maps_count_as_if_they_were_enlarged(rng):
    masks, maps = scene(rng)
    noisy = F.avg_pool2d(maps, 3) + 0.5 * rng.child("noise").uniform((20, 3, 8, 8))
    coarse = match_concepts(noisy, masks, 3, rng=rng)
    enlarged = match_concepts(noisy.repeat_interleave(3, 2).repeat_interleave(3, 3), masks, 3, rng=rng)
    torch.testing.assert_close(coarse.score, enlarged.score, atol=0.02, rtol=0)
    on = noisy[coarse.scored_on, 1].repeat_interleave(3, 1).repeat_interleave(3, 2) > coarse.threshold[1, 1]
    own = masks[coarse.scored_on] == 1
    torch.testing.assert_close(float(coarse.score[1, 1]), float((on & own).sum() / (on | own).sum()), atol=1e-6, rtol=0)


def test_maps_of_other_images_are_not_clear(rng):
    masks, maps = scene(rng, n=40)
    for seed in range(3):
        found = match_concepts(maps.roll(1, 0), masks, 3, rng=Stream(seed))
        assert not found.clear.any()
        assert float((found.best_score - found.best_chance).abs().max()) < 0.05


def test_a_usual_layout_is_chance_and_no_match(rng):
    """Sky is always above: a map that is always above follows the layout, not the image."""
    masks = torch.zeros(30, 12, 12, dtype=torch.int64)
    masks[:, 6:] = 1
    maps = torch.zeros(30, 1, 12, 12)
    maps[:, :, :6] = 1 + rng.uniform((30, 1, 6, 12))
    found = match_concepts(maps, masks, 2, rng=rng)
    assert float(found.score.max()) > 0.9
    assert float((found.best_score - found.best_chance).abs()) < 0.01
    assert not found.clear.any()


def test_many_random_maps_hold_no_clear_match_by_being_many():
    masks, _ = scene(Stream(1), n=16)
    wrong = 0
    for seed in range(10):
        found = match_concepts(Stream(seed).uniform((16, 24, 6, 6)), masks, 3, rng=Stream(seed))
        wrong += bool(found.clear.any())
    assert wrong <= 3  # 1 in 20 is expected


def test_pixels_without_a_label_and_missing_classes_do_not_count(rng):
    masks, maps = scene(rng)
    hidden = masks.clone()
    hidden[:, :12] = IGNORED
    found = match_concepts(maps, hidden, 4, rng=rng)
    assert found.best.tolist() == [0, 1, 2]
    assert found.best_score.tolist() == [1, 1, 1]
    assert found.score[:, 3].isnan().all()
    only = match_concepts(maps, torch.full_like(masks, IGNORED), 3, rng=rng)
    assert only.best.tolist() == [-1, -1, -1]
    assert only.best_score.isnan().all()
    assert not only.clear.any()


def test_one_label_per_image_is_matched_by_how_much_an_atom_is_used(rng):
    labels = rng.child("labels").integers(3, (60,))
    used = F.one_hot(labels, 3).float() + rng.child("used").uniform((60, 3))
    found = match_concepts(torch.cat([used, rng.uniform((60, 1))], 1), labels, 3, rng=rng)
    assert found.measure == "auc"
    assert found.best[:3].tolist() == [0, 1, 2]
    assert found.best_score[:3].tolist() == [1, 1, 1]
    assert found.clear.tolist() == [True, True, True, False]
    torch.testing.assert_close(found.chance, torch.full_like(found.chance, 0.5), atol=0.12, rtol=0)
    by_maps = match_concepts(used[:, :, None, None].expand(-1, -1, 2, 2), labels, 3, rng=rng)
    torch.testing.assert_close(by_maps.score, found.score[:3])


def test_an_auc_counts_pairs_and_ties_as_half():
    used = torch.tensor([3.0, 1, 2, 2, 0, 3, 1, 2])[:, None]
    labels = torch.tensor([1, 0, 1, 0, 0, 1, 0, 1])
    found = match_concepts(used, labels, 2, rng=Stream(0))
    u, y = used[found.scored_on, 0], labels[found.scored_on]
    pairs = [(float(a > b) + 0.5 * float(a == b)) for a in u[y == 1] for b in u[y == 0]]
    assert found.score[0, 1] == pytest.approx(sum(pairs) / len(pairs))


def test_the_halves_follow_the_ids(rng):
    masks, maps = scene(rng)
    ids = torch.arange(20) + 100
    first = match_concepts(maps, masks, 3, rng=rng, ids=ids)
    turned = match_concepts(maps.flip(0), masks.flip(0), 3, rng=rng, ids=ids.flip(0))
    assert set(first.scored_on.tolist()) == {19 - row for row in turned.scored_on.tolist()}


@pytest.mark.parametrize(
    ("maps", "labels", "text"),
    [
        ((3, 2, 4, 4), (3, 4, 4), "takes 4 images"),
        ((5, 2, 4, 4), (6, 4, 4), "maps of 5 images but labels of 6"),
        ((5, 2), (5, 4, 4), r"masks are matched to maps \(N, a, h, w\)"),
        ((5, 2), (5, 4), "labels must be"),
    ],
)
def test_what_does_not_fit_is_said(maps, labels, text):
    with pytest.raises(DataError, match=text):
        match_concepts(torch.zeros(maps), torch.zeros(labels, dtype=torch.int64), 2, rng=Stream(0))


def test_unknown_classes_are_said():
    with pytest.raises(DataError, match="classes from 0 to 1, got 0 to 2"):
        match_concepts(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]), 2, rng=Stream(0))
