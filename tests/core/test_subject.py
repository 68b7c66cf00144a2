"""A subject is checked once, in clear sentences, and then trusted; the model is only borrowed."""

import inspect
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.core import DataError, ModelError, Subject, device_of, evaluating
from pellucid.core._answers import hear


class Linear(nn.Module):
    """A linear classifier of images that counts its calls."""

    def __init__(self, classes: int = 3, size: int = 4, channels: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(channels * size * size, classes)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x.flatten(1))


class Answer(nn.Module):
    """Any function as a module."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor):
        return self.answer(x)


@pytest.fixture
def images(rng):
    return rng.child("images").uniform((20, 1, 4, 4))


@pytest.fixture
def labels(rng):
    return rng.child("labels").integers(3, (20,))


@pytest.fixture
def model(rng):
    with rng.forked():
        return Linear()


def test_a_good_subject_knows_its_parts(model, images, labels):
    subject = Subject(model, images, labels)
    assert len(subject) == 20
    assert subject.n_classes == 3
    assert subject.class_names == ("0", "1", "2")
    assert torch.equal(subject.ids, torch.arange(20))
    assert subject.device == torch.device("cpu")


def test_logits_are_the_models_answers_whatever_the_batch(model, images, labels):
    subject = Subject(model, images, labels)
    expected = model.linear(images.flatten(1))
    for batch_size in (1, 7, 20, 100):
        assert_close(subject.logits(batch_size=batch_size), expected.detach())


def test_one_logit_is_read_as_two_classes(rng, images):
    with rng.forked():
        model = Linear(classes=1)
    subject = Subject(model, images, torch.arange(20) % 2, surrogates={"same": model})
    z = model.linear(images.flatten(1))[:, 0]
    assert subject.n_classes == 2
    assert_close(subject.logits().softmax(1)[:, 1], z.sigmoid().detach())
    assert subject.surrogates["same"](images).shape == (20, 2)
    assert subject.take(torch.tensor([1])).logits().shape == (1, 2)


def test_take_keeps_labels_and_ids_together_and_asks_nothing_again(model, images, labels):
    ids = torch.arange(100, 120)
    subject = Subject(model, images, labels, ids=ids)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    part = subject.take(torch.tensor([5, 2]))
    handle.remove()
    assert not calls
    assert part.ids.tolist() == [105, 102]
    assert torch.equal(part.inputs, images[[5, 2]])
    assert torch.equal(part.labels, labels[[5, 2]])
    assert len(subject) == 20
    with pytest.raises(DataError, match="at least one sample"):
        subject.take(torch.tensor([], dtype=torch.int64))


def test_the_digest_tells_models_and_data_apart(rng, model, images, labels):
    first = Subject(model, images, labels).digest()
    assert first == Subject(model, images.clone(), labels).digest()
    moved = Subject(model, images.flip(0), labels).digest()
    assert moved["model"] == first["model"]
    assert moved["data"] != first["data"]
    with rng.child("other").forked():
        assert Subject(Linear(), images, labels).digest()["model"] != first["model"]


BAD_DATA = {
    "no samples": (lambda x: x[:0], "at least one sample"),
    "a single vector": (lambda x: x[0, 0, 0], "at least one sample"),
    "bytes": (lambda x: (x * 255).to(torch.uint8), "got torch.uint8; divide 0-255 images by 255"),
    "0 to 255": (lambda x: x * 255, r"inputs lie in \[.*\] but the bounds are \[0, 1\]; divide 0-255 images by 255"),
    "normalized": (lambda x: (x - 0.5) / 0.25, r"inputs lie in \[-.*undo the normalization or give `bounds`"),
    "NaN": (lambda x: x.index_fill(0, torch.tensor([7]), torch.nan), "input 7 holds NaN or infinity"),
    "infinity": (lambda x: x.index_fill(0, torch.tensor([3, 9]), torch.inf), "input 3 holds NaN or infinity"),
    "no channels": (lambda x: x[:, 0], r"images must have shape \(N, C, H, W\), got \(20, 4, 4\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_inputs_are_refused(case, model, images):
    change, message = BAD_DATA[case]
    with pytest.raises(DataError, match=message):
        Subject(model, change(images))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("inputs", np.zeros((2, 3)), "inputs must be a torch.Tensor, got ndarray; torch.as_tensor makes one"),
        ("labels", [0, 1], "labels must be a torch.Tensor, got list"),
        ("modality", "picture", "modality must be one of image, tabular, text, graph, got 'picture'"),
    ],
)
def test_what_is_no_tensor_or_no_modality_is_refused(model, images, labels, name, value, message):
    subject = Subject(model, images, labels)
    object.__setattr__(subject, name, value)  # the tests' type checks would refuse it before we do
    with pytest.raises(DataError, match=re.escape(message)):
        subject.__post_init__()


def test_tables_have_two_axes_and_names_for_every_feature(rng):
    x = rng.normal((5, 3))
    model = nn.Linear(3, 2)
    assert Subject(model, x, bounds=None, modality="tabular", feature_names=("a", "b", "c")).n_classes == 2
    with pytest.raises(DataError, match=r"must have shape \(N, features\), got \(5, 3, 1\)"):
        Subject(model, x[..., None], bounds=None, modality="tabular")
    with pytest.raises(DataError, match="3 features but 2 feature names"):
        Subject(model, x, bounds=None, modality="tabular", feature_names=("a", "b"))


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0, 0.0), (0.0, float("inf"))])
def test_bounds_must_be_an_interval(model, images, bounds):
    with pytest.raises(DataError, match="bounds must be two finite numbers, the lower first"):
        Subject(model, images, bounds=bounds)


def test_bad_labels_ids_and_names_are_refused(model, images, labels):
    with pytest.raises(DataError, match="sample 104 has label 3 but the model knows classes 0 to 2"):
        Subject(model, images, labels.index_fill(0, torch.tensor([4]), 3), ids=torch.arange(100, 120))
    with pytest.raises(DataError, match="label -1"):
        Subject(model, images, labels.index_fill(0, torch.tensor([0]), -1))
    with pytest.raises(DataError, match=r"labels must be int64 of shape \(20,\), got torch.int64 of shape \(19,\)"):
        Subject(model, images, labels[:-1])
    with pytest.raises(DataError, match=r"got torch\.float32"):
        Subject(model, images, labels.float())
    with pytest.raises(DataError, match="data comes with 2 class names but model tells 3 classes apart"):
        Subject(model, images, labels, class_names=("cat", "dog"))
    with pytest.raises(DataError, match="data comes with 4 class names but model tells 3 classes apart"):
        Subject(model, images, labels.index_fill(0, torch.tensor([4]), 3), class_names=tuple("abcd"))
    with pytest.raises(DataError, match="two samples share one"):
        Subject(model, images, labels, ids=torch.zeros(20, dtype=torch.int64))
    with pytest.raises(DataError, match=r"ids must be int64 of shape \(20,\)"):
        Subject(model, images, labels, ids=torch.arange(3))


def _nan_at(row: int):
    def answer(x):
        logits = x.flatten(1)[:, :3].clone()
        logits[row] = torch.nan
        return logits

    return answer


def _raise(error: Exception):
    def answer(x):
        raise error

    return answer


BAD_MODELS = {
    "not a tensor": (lambda x: (x, x), r"returns tuple \(0: 8 x 1 x 4 x 4; 1: .*\), not a tensor of logits"),
    "no batch": (lambda x: x.sum(), r"must return logits of shape \(8, K\), got \(\)"),
    "too many axes": (lambda x: x[..., None], r"must return logits of shape \(8, K\), or .*, got \(8, 1, 4, 4, 1\)"),
    "one row": (lambda x: x.flatten(1)[:1], r"must return logits of shape \(8, K\), got \(1, 16\)"),
    "no logits": (lambda x: x.flatten(1)[:, :0], r"got \(8, 0\)"),
    "classes": (lambda x: x.flatten(1).long(), "must return floating point logits, got torch.int64"),
    "NaN": (_nan_at(5), "returns NaN or infinity for sample 105; repair the weights"),
    "random": (lambda x: torch.rand(len(x), 3), "answers differently when asked twice in eval mode"),
    "raises": (_raise(KeyError("weight")), "cannot read inputs of shape .*KeyError: 'weight'"),
    "exits": (_raise(SystemExit(7)), "cannot read inputs of shape .*SystemExit: 7"),
    "raises without text": (_raise(AssertionError()), "AssertionError"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models_are_refused_in_one_line(case, images, labels):
    answer, message = BAD_MODELS[case]
    with pytest.raises(ModelError, match=message) as caught:
        Subject(Answer(answer), images, labels, ids=torch.arange(100, 120), name="net")
    assert str(caught.value).startswith("net ")
    assert "\n" not in str(caught.value)


def test_wrong_size_channels_and_precision_are_explained(model, rng):
    with pytest.raises(ModelError, match=re.escape("cannot read inputs of shape (3, 4, 4)")):
        Subject(model, rng.uniform((4, 3, 4, 4)))
    with pytest.raises(ModelError, match=r"parameters are torch\.float32 but the inputs torch\.float64: convert"):
        Subject(model, rng.uniform((4, 1, 4, 4), dtype=torch.float64))


def test_a_model_that_writes_into_its_inputs_is_refused_and_the_data_stay(images, labels):
    before = images.clone()
    with pytest.raises(ModelError, match=r"net changes its inputs in place; let it work on a copy, x = x\.clone\(\)"):
        Subject(Answer(lambda x: x.sub_(0.5).flatten(1)[:, :3]), images, labels, name="net")
    assert torch.equal(images, before)


def test_a_model_without_numbers_is_refused(images):
    with pytest.raises(ModelError, match="model is on the meta device, which holds no numbers"):
        Subject(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to("meta"), images)


def test_running_out_of_memory_is_not_the_models_fault(images):
    with pytest.raises(MemoryError):
        Subject(Answer(_raise(MemoryError())), images)


def test_a_sample_the_model_fails_on_later_is_named(images):
    def answer(x):
        return x.flatten(1)[:, :3].log()  # -inf at zero

    images = images.clone().clamp(min=0.1)
    images[13] = 0
    subject = Subject(Answer(answer), images, ids=torch.arange(100, 120))
    with pytest.raises(ModelError, match="NaN or infinity for sample 113"):
        subject.logits(batch_size=6)


def test_a_function_is_no_model(images):
    with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module, got function"):
        inspect.unwrap(hear)(lambda x: x, images, torch.arange(20), "net")  # past the run-time type check


def test_a_lazy_model_must_be_complete(images):
    with pytest.raises(ModelError, match="has lazy layers without weights yet; call it once on a batch"):
        Subject(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), images)


def test_surrogates_must_know_the_same_classes(model, images, labels):
    with pytest.raises(ModelError, match="surrogate other tells 5 classes apart but model 3"):
        Subject(model, images, labels, surrogates={"other": Linear(classes=5)})


# -- borrowing ----------------------------------------------------------------------------------------------------


def test_evaluating_restores_flags_gradients_and_buffers_also_after_an_exception(model, images):
    model.extra = nn.Dropout()
    model.extra.eval()
    model.linear.bias.requires_grad_(False)
    model.linear.weight.grad = torch.ones_like(model.linear.weight)

    def look():
        modes = [module.training for module in model.modules()]
        return modes, [p.requires_grad for p in model.parameters()], model.linear.weight.grad.sum(), model.calls.item()

    before = look()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        model(images)
        assert model.calls == 1
    assert look() == before
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError(model(images))
    assert look() == before


def test_a_buffer_that_a_model_replaces_comes_back(model, images):
    buffer = model.calls
    with evaluating(model):
        model.calls = model.calls + 1
    assert model.calls is buffer
    assert model.calls == 0


@pytest.mark.parametrize("name", ["BatchNorm1d", "InstanceNorm1d"])
def test_running_statistics_come_back_also_from_a_norm_that_is_set_to_train(rng, name):
    norm = getattr(nn, name)(3, track_running_stats=True)
    x = rng.normal((8, 3, 4)).requires_grad_()
    out = norm(x)  # a pass whose graph is open while the block runs
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    with evaluating(norm), torch.no_grad():
        norm.train()(x + 5)  # F.batch_norm changes them without counting it as a change
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    out.sum().backward()


def test_products_are_exact_inside_whichever_switch_was_used_before(model):
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"  # from here on, torch refuses to answer `matmul.allow_tf32`
        with evaluating(model):
            assert matmul.fp32_precision == "ieee"
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
        with evaluating(model, precise=False):
            assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_gradients_in_the_input_pass_through_a_borrowed_model(model, images):
    x = images.clone().requires_grad_()
    with evaluating(model):
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert gradient.abs().sum() > 0
    assert model.linear.weight.grad is None


def test_a_model_that_keeps_tensors_can_still_be_trained_afterwards(images):
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 3)
            self.scale = None

        def forward(self, x):
            if self.scale is None:
                self.scale = x.new_ones(3) * 2
            return self.linear(x.flatten(1)) * self.scale

    model = Caching()
    Subject(model, images)
    model(images).sum().backward()
    assert model.linear.weight.grad is not None


def test_the_device_of_a_model_without_tensors_is_the_cpu():
    assert device_of(nn.Identity()) == torch.device("cpu")
    assert device_of(lambda x: x) == torch.device("cpu")


def test_double_logits_keep_the_order_that_the_model_gives_them():
    class Close(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 100 + torch.tensor([0, 1e-9], dtype=torch.float64) + 0 * x[:, :1]

    x = torch.zeros(3, 4, dtype=torch.float64)
    assert Subject(Close(), x, modality="tabular").logits().argmax(1).tolist() == [1, 1, 1]
    half = Subject(nn.Linear(4, 2).half(), x.half(), modality="tabular")
    assert half.logits().dtype == torch.float32
