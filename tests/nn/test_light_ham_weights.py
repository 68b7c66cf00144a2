from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from pellucid.core import ModelError, Stream
from pellucid.nn import Hamburger, Unrolled, light_ham_from_mmseg

CONFIG = """
norm = dict(type='GN', num_groups=4, requires_grad=True)
find_unused_parameters = True
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='MSCAN', act=some.function, depths=[3, 3]),
    decode_head=dict(
        type='LightHamHead', in_channels=[4, 8], in_index=[1, 2], channels=12, ham_channels=16,
        ham_kwargs=dict(MD_R=3, MD_S=2, EVAL_STEPS=5), num_classes=5, norm_cfg=norm, align_corners=False))
"""


def weights(norm: str = "gn") -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "squeeze.conv.weight": (16, 12, 1, 1),
        "hamburger.ham_in.conv.weight": (16, 16, 1, 1),
        "hamburger.ham_in.conv.bias": (16,),
        "hamburger.ham_out.conv.weight": (16, 16, 1, 1),
        "align.conv.weight": (12, 16, 1, 1),
        "conv_seg.weight": (5, 12, 1, 1),
        "conv_seg.bias": (5,),
    }
    for layer, width in (("squeeze", 16), ("hamburger.ham_out", 16), ("align", 12)):
        for name in ("weight", "bias") if norm == "gn" else ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{layer}.{norm}.{name}"] = (width,)
    found = {name: Stream(0).child(name).normal(shape) for name, shape in shapes.items()}
    found = {name: value.abs() if name.endswith("running_var") else value for name, value in found.items()}
    if norm == "bn":
        found.update({f"{layer}.bn.num_batches_tracked": torch.tensor(1) for layer in
                      ("squeeze", "hamburger.ham_out", "align")})  # fmt: skip
    return {f"decode_head.{name}": value for name, value in found.items()} | {"backbone.x": torch.zeros(1)}


def plainly(state: dict[str, Tensor], maps: list[Tensor], start: Tensor) -> Tensor:
    """The released decoder's formula, written out."""
    w = {name.removeprefix("decode_head."): value for name, value in state.items()}

    def norm(x: Tensor, layer: str) -> Tensor:
        if f"{layer}.gn.weight" in w:
            return F.group_norm(x, 4, w[f"{layer}.gn.weight"], w[f"{layer}.gn.bias"])
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(w[f"{layer}.bn.{name}"] for name in names))

    small = F.interpolate(maps[1], size=maps[0].shape[2:], mode="bilinear", align_corners=False)
    z = F.relu(norm(F.conv2d(torch.cat([maps[0], small], 1), w["squeeze.conv.weight"]), "squeeze"))
    x = F.relu(F.conv2d(z, w["hamburger.ham_in.conv.weight"], w["hamburger.ham_in.conv.bias"]))
    x = x.reshape(len(x) * 2, 8, -1)
    bases = start.repeat(len(z), 1, 1)
    coef = F.softmax(torch.bmm(x.transpose(1, 2), bases), dim=-1)
    for _ in range(5):
        coef = coef * torch.bmm(x.transpose(1, 2), bases) / (coef.bmm(bases.transpose(1, 2).bmm(bases)) + 1e-6)
        bases = bases * torch.bmm(x, coef) / (bases.bmm(coef.transpose(1, 2).bmm(coef)) + 1e-6)
    coef = coef * torch.bmm(x.transpose(1, 2), bases) / (coef.bmm(bases.transpose(1, 2).bmm(bases)) + 1e-6)
    x = torch.bmm(bases, coef.transpose(1, 2)).reshape(z.shape)
    x = F.relu(z + norm(F.conv2d(x, w["hamburger.ham_out.conv.weight"]), "hamburger.ham_out"))
    x = F.relu(norm(F.conv2d(x, w["align.conv.weight"]), "align"))
    return F.conv2d(x, w["conv_seg.weight"], w["conv_seg.bias"])


@pytest.fixture
def maps() -> list[Tensor]:
    return [Stream(1).normal((2, 4, 6, 6)), Stream(2).normal((2, 8, 3, 3))]


def test_the_answer_is_that_of_the_released_formula(maps: list[Tensor]) -> None:
    state = weights()
    head = light_ham_from_mmseg({"state_dict": state, "meta": {"config": CONFIG}})
    assert isinstance(head.context, Hamburger)
    ham = head.context.ham
    assert (ham.rank, ham.heads, ham.steps, ham.eval_steps, ham.backward) == (3, 2, 6, 5, Unrolled())
    assert ham.start is not None
    assert_close(head(maps), plainly(state, maps, ham.start), rtol=1e-4, atol=1e-4)
    assert not head.training
    assert torch.equal(pickle.loads(pickle.dumps(head))(maps), head(maps))


def test_batch_norm_and_start_atoms_of_the_checkpoint(maps: list[Tensor]) -> None:
    state = weights("bn")
    state["decode_head.hamburger.ham.bases"] = Stream(3).uniform((2, 8, 3))
    text = CONFIG.replace("'GN', num_groups=4", "'SyncBN'").replace("MD_R=3", "MD_R=3, RAND_INIT=False")
    head = light_ham_from_mmseg(state, text)
    assert_close(head(maps), plainly(state, maps, state["decode_head.hamburger.ham.bases"]), rtol=1e-4, atol=1e-4)
    head.train()(maps).sum().backward()  # the start moves, and the steps are unrolled
    other = light_ham_from_mmseg(state, text.replace("'SyncBN'", "'BN', eps=1e-3"))
    assert {part.eps for part in other.modules() if isinstance(part, nn.BatchNorm1d)} == {1e-3}


def test_refusals() -> None:
    state = weights()
    with pytest.raises(ModelError, match="norm, rank and steps of the decoder are not in its weights"):
        light_ham_from_mmseg(state)
    with pytest.raises(ModelError, match="holds no decoder"):
        light_ham_from_mmseg({"a": torch.zeros(1)}, CONFIG)
    with pytest.raises(ModelError, match="of type LightHamHead, got 'UPerHead'"):
        light_ham_from_mmseg(state, CONFIG.replace("LightHamHead", "UPerHead"))
    with pytest.raises(ModelError, match=r"differ at align.conv.weight: \(12, 16, 1\) and \(13, 16, 1\)"):
        light_ham_from_mmseg(state, CONFIG.replace(" channels=12", " channels=13").replace("groups=4", "groups=1"))
    with pytest.raises(ModelError, match=r"differ at align\.conv\.bias: the checkpoint lacks it"):
        light_ham_from_mmseg(state, CONFIG.replace("norm_cfg=norm, ", ""))
    with pytest.raises(ModelError, match="does not make one: KeyError"):
        light_ham_from_mmseg(state, {"type": "LightHamHead"})
    with pytest.raises(ModelError, match="is not BN, SyncBN or GN"):
        light_ham_from_mmseg(state, CONFIG.replace("'GN'", "'LN'"))
    with pytest.raises(ModelError, match="is not Python text"):
        light_ham_from_mmseg(state, "model = dict(")
    with pytest.raises(ModelError, match="no line that begins with model ="):
        light_ham_from_mmseg(state, "x = 1")
    with pytest.raises(ModelError, match="model of the configuration is not a dict"):
        light_ham_from_mmseg(state, "model = 1")
    with pytest.raises(ModelError, match="names itself"):
        light_ham_from_mmseg(state, "model = dict(a=model)")
