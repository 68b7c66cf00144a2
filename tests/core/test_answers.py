"""Models that answer with more than logits, or with probabilities, are read as what they mean."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.core import DataError, ModelError, Subject, evaluating


class Says(nn.Module):
    """Answers with a function of the logits of a linear network."""

    def __init__(self, answer, classes=3):
        super().__init__()
        self.linear, self.answer = nn.Linear(6, classes), answer

    def forward(self, x):
        return self.answer(self.linear(x))


@pytest.fixture
def x(rng):
    return rng.child("x").normal((40, 6))


def subject(model, x, **settings):
    return Subject(model, x, bounds=None, modality="tabular", **settings)


PLAIN = {
    "a dict with logits": lambda z: {"loss": torch.zeros(()), "logits": z},
    "an object with logits": lambda z: SimpleNamespace(logits=z, hidden=z),
    "a dict of one tensor": lambda z: {"scores": z, "name": "net"},
    "a tuple of one tensor": lambda z: (z, None),
}


@pytest.mark.parametrize("case", PLAIN)
def test_a_plain_place_of_the_logits_is_found(x, case):
    model = Says(PLAIN[case])
    made = subject(model, x)
    assert_close(made.logits(), model.linear(x).detach())
    assert made.notes == ()
    assert made.differentiable


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (lambda z: (z * 0, z), 1),
        (lambda z: {"aux": z * 0, "out": z}, "out"),
        (lambda z: {"aux": z * 0, "out": z}, 1),
        (lambda z: SimpleNamespace(aux=z * 0, out=z), "out"),
        (lambda z: (z * 0, [z]), lambda answer: answer[1][0]),
    ],
)
def test_output_names_the_place(x, answer, output):
    model = Says(answer)
    made = subject(model, x, output=output)
    assert_close(made.logits(), model.linear(x).detach())
    assert made.output is None  # so that a changed copy does not look twice


def test_what_is_not_plain_is_asked_for_with_its_parts(x):
    with pytest.raises(ModelError, match=r"returns dict \(out: 8 x 3; aux: 8 x 3\).* with output= \(--output"):
        subject(Says(lambda z: {"out": z, "aux": z}), x)
    with pytest.raises(ModelError, match=r"returns tuple \(0: 8 x 3; 1: 8 x 3\)"):
        subject(Says(lambda z: (z, z)), x)
    with pytest.raises(ModelError, match=r"its answer has no 'ot'; it is dict \(out: 8 x 3\)"):
        subject(Says(lambda z: {"out": z}), x, output="ot")
    with pytest.raises(ModelError, match="its answer has no 7"):
        subject(Says(lambda z: (z, z)), x, output=7)

    def last_of(answer):
        return answer["logits"]

    with pytest.raises(
        ModelError, match=r"function last_of given as output raises KeyError.*dict \(out: 8 x 3\)"
    ) as raised:
        subject(Says(lambda z: {"out": z}), x, output=last_of)
    assert "size and channels" not in str(raised.value)


def test_a_model_of_other_channels_says_how_images_are_made_to_fit():
    gray = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    color = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="--input-size 1xHxW makes the images gray, H high and W wide"):
        Subject(gray, torch.rand(4, 3, 8, 8))
    with pytest.raises(ModelError, match="--input-size 3xHxW makes the images color, H high"):
        Subject(color, torch.rand(4, 1, 8, 8))


def test_probabilities_are_read_as_their_logarithms_and_said(x):
    model = Says(lambda z: z.softmax(1))
    made = subject(model, x)
    assert_close(made.logits().softmax(1), model(x).detach())
    assert len(made.notes) == 1
    assert "answers with probabilities; their logarithms are read as logits" in made.notes[0]


def test_gradients_through_probabilities_are_those_of_the_logits(x):
    model = Says(lambda z: z.softmax(1))
    made = subject(model, x)
    labels = torch.arange(40) % 3
    grads = []
    for network in (made.model, model.linear):
        inputs = x.clone().requires_grad_()
        with evaluating(network):
            loss = nn.functional.cross_entropy(network(inputs), labels)
            grads.append(torch.autograd.grad(loss, inputs)[0])
    assert_close(*grads)


def test_log_probabilities_and_logits_are_left_alone(x):
    for answer in (lambda z: z.log_softmax(1), lambda z: z, lambda z: z.softmax(1) * 2):
        assert subject(Says(answer), x).notes == ()


def test_one_probability_is_that_of_the_second_class(x):
    model = Says(lambda z: (5 * z).sigmoid(), classes=1)
    made = subject(model, x)
    assert_close(made.logits().softmax(1)[:, 1:], model(x).detach())
    assert "sigmoid" in made.notes[0]
    one_sided = Says(lambda z: z.sigmoid() / 3, classes=1)  # as probabilities always the first class: read as logits
    unsure = subject(one_sided, x)
    assert_close(unsure.logits()[:, 1:], one_sided(x).detach())
    assert "on one side of 0.5; if they are probabilities" in unsure.notes[0]


@pytest.mark.parametrize("shape", [lambda p: p, lambda p: p.squeeze(1)[:, None], lambda p: p.view(-1, 1).double()])
def test_a_sigmoid_that_autograd_saw_is_read_as_one_on_whichever_side_its_answers_lie(x, shape):
    model = Says(lambda z: shape((z.abs() + 3).sigmoid()), classes=1)
    made = subject(model, x)
    assert_close(made.logits().softmax(1)[:, 1:].double(), model(x).detach().double())
    assert "answers with probabilities" in made.notes[0]


def test_rounded_probabilities_stay_finite(x):
    made = subject(Says(lambda z: (1e4 * z).softmax(1)), x)
    assert made.logits().isfinite().all()


def test_a_changed_copy_keeps_one_note(x):
    from dataclasses import replace

    made = subject(Says(lambda z: z.softmax(1)), x)
    assert replace(made, name="other").notes == made.notes


def test_what_gives_no_gradients_is_known(x):
    assert not subject(Says(lambda z: z.detach()), x).differentiable
    assert not subject(Says(lambda z: torch.from_numpy(z.numpy() * 2)), x).differentiable
    assert subject(Says(lambda z: z), x).differentiable


def test_labels_of_one_class_are_refused(x):
    with pytest.raises(DataError, match="all 40 samples have label 1; an audit compares at least two classes"):
        subject(Says(lambda z: z), x, labels=torch.ones(40, dtype=torch.int64))
    assert len(subject(Says(lambda z: z), x[:1], labels=torch.ones(1, dtype=torch.int64))) == 1


def test_the_digest_of_the_data_knows_background_and_groups(x):
    model = Says(lambda z: z)
    made = [
        subject(model, x),
        subject(model, x, background=x[:5]),
        subject(model, x, background=x[:6]),
        subject(model, x, groups={"a": (0, 1)}),
        subject(model, x, groups={"a": (0, 2)}),
    ]
    assert len({one.digest()["data"] for one in made}) == 5
    assert len({one.digest()["model"] for one in made}) == 1
