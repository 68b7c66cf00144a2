"""Objects at hand as models: estimators, functions, and networks that want normalized inputs."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from torch.testing import assert_close

import pellucid
from pellucid import games
from pellucid.core import ModelError, Subject
from pellucid.models import Estimator, Function, Loaded, Normalized, adopt, read_class_names


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


# -- normalization ------------------------------------------------------------------------------------------------


def test_normalized_images_and_tables_reach_the_network_as_it_wants_them(rng):
    images = rng.child("images").uniform((4, 3, 5, 5))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])
    wanted = (images - mean[:, None, None]) / std[:, None, None]
    assert_close(Normalized(nn.Identity(), mean.tolist(), std.tolist())(images), wanted)
    assert_close(Normalized(nn.Identity(), 0.5, 0.25)(images), (images - 0.5) / 0.25)
    table = rng.child("table").normal((4, 3))
    assert_close(Normalized(nn.Identity(), mean.tolist(), std.tolist())(table), (table - mean) / std)


def test_normalizing_adds_no_weights_and_keeps_double_precision():
    wrapped = Normalized(nn.Linear(2, 2), [0.0, 0.0], [1.0, 1.0])
    assert set(wrapped.state_dict()) == {"model.weight", "model.bias"}
    assert Normalized(nn.Identity(), 0.1, 0.3)(torch.zeros(1, 1, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(("mean", "std"), [([0.0], [0.0]), ([0.0], [-1.0]), ([0.0, 0.0], [1.0]), ([], [])])
def test_a_scale_must_be_positive_and_as_long_as_the_mean(mean, std):
    with pytest.raises(ModelError, match=r"mean and std|std must be positive"):
        Normalized(nn.Identity(), mean, std)


def test_a_scale_for_other_channels_is_refused():
    with pytest.raises(ModelError, match="inputs have 1 channels but mean and std 3 numbers"):
        Normalized(nn.Identity(), [0.0] * 3, [1.0] * 3)(torch.zeros(1, 1, 2, 2))


# -- scikit-learn -------------------------------------------------------------------------------------------------


def test_probabilities_of_an_estimator_come_back(iris):
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(*iris)
    subject = pellucid.subject(estimator, iris, samples=60)
    assert_close(
        subject.logits().softmax(1).numpy(), estimator.predict_proba(subject.inputs.numpy()), atol=1e-5, rtol=0
    )
    assert not subject.differentiable
    assert subject.name == "Pipeline"
    assert any("read as logarithms" in note for note in subject.notes)


def test_zero_probabilities_of_a_forest_are_finite_scores(iris):
    logits = adopt(RandomForestClassifier(5, random_state=0).fit(*iris)).model(torch.tensor(iris[0]))
    assert logits.isfinite().all()
    assert logits.min() == pytest.approx(np.log(1e-6))


def test_scores_without_probabilities_are_read_as_logits_with_a_note(iris):
    keep = iris[1] < 2
    two = RidgeClassifier().fit(iris[0][keep], iris[1][keep])
    subject = pellucid.subject(two, (iris[0][keep], iris[1][keep]))
    assert subject.n_classes == 2
    assert_close(subject.logits()[:, 1].numpy(), two.decision_function(subject.inputs.double().numpy()))
    assert any("gives no probabilities" in note for note in subject.notes)
    three = pellucid.subject(SVC().fit(*iris), iris)
    assert three.n_classes == 3
    with pytest.raises(ModelError, match="set decision_function_shape"):
        adopt(SVC(decision_function_shape="ovo").fit(np.r_[iris[0], iris[0]], np.r_[iris[1], iris[1] + 3])).model(
            torch.tensor(iris[0][:2])
        )


def test_names_of_classes_are_those_of_the_estimator(iris):
    names = np.array(["setosa", "versicolor", "virginica"])[iris[1]]
    subject = pellucid.subject(LogisticRegression(max_iter=500).fit(iris[0], names), (iris[0], names))
    assert subject.class_names == ("setosa", "versicolor", "virginica")
    numbered = pellucid.subject(LogisticRegression(max_iter=500).fit(iris[0], iris[1] + 1), (iris[0], iris[1] + 1))
    assert numbered.class_names == ("1", "2", "3")
    assert numbered.labels.tolist() == iris[1].tolist()


def test_columns_by_name_are_kept_without_a_warning():
    frame, labels = load_wine(return_X_y=True, as_frame=True)
    estimator = LogisticRegression(max_iter=5000).fit(frame.iloc[:, :3], labels)
    subject = pellucid.subject(estimator, (frame.iloc[:, :3], labels))
    assert subject.feature_names == ("alcohol", "malic_acid", "ash")


def test_a_regressor_is_for_games_only(iris):
    loaded = adopt(LinearRegression().fit(iris[0], iris[0][:, 0]))
    x = torch.tensor(iris[0], dtype=torch.float32)
    with pytest.raises(ModelError, match="LinearRegression predicts a number, and an audit asks about classes"):
        pellucid.subject(loaded, iris)
    game = games.ModelGame(loaded.model, x[0], games.Features(fill=x.mean(0)), games.output(0))
    values = game(games.coalitions(4))
    assert float(values[-1]) == pytest.approx(float(x[0, 0]), abs=1e-4)


def test_estimators_that_cannot_answer_are_refused(iris):
    with pytest.raises(ModelError, match="LogisticRegression is not fitted; call fit before"):
        adopt(LogisticRegression())
    with pytest.raises(ModelError, match="LinearRegression is not fitted; call fit before"):
        adopt(LinearRegression())
    with pytest.raises(ModelError, match="StandardScaler is no model"):
        adopt(StandardScaler())
    with pytest.raises(ModelError, match="LogisticRegression is a class, not a model"):
        adopt(LogisticRegression)
    with pytest.raises(ModelError, match="int is no model; give"):
        adopt(3)
    with pytest.raises(ModelError, match="DecisionTreeClassifier predicts several targets at once"):
        adopt(DecisionTreeClassifier().fit([[0.0], [1.0]], [[0, 0], [1, 1]]))
    with pytest.raises(ModelError, match="StandardScaler is no estimator"):
        Estimator(StandardScaler())


# -- functions ----------------------------------------------------------------------------------------------------


def test_functions_of_arrays_and_of_tensors_both_serve(rng):
    weights = rng.child("w").normal((5, 3))
    x = rng.child("x").normal((20, 5))
    of_arrays = pellucid.subject(lambda a: np.einsum("bi,ij->bj", a, weights.numpy()), (x, None))
    of_tensors = pellucid.subject(lambda t: torch.einsum("bi,ij->bj", t, weights), (x, None))
    assert_close(of_arrays.logits(), of_tensors.logits())
    assert (of_arrays.differentiable, of_tensors.differentiable) == (False, True)
    assert of_arrays.name == "function"


def test_a_function_says_what_it_takes(rng):
    seen = []

    def scores(x):
        seen.append(type(x))
        return np.zeros((len(x), 2)) + np.arange(2)

    Function(scores, takes="array")(rng.uniform((3, 2)))
    Function(scores, takes="tensor")(rng.uniform((3, 2)))
    assert seen == [np.ndarray, torch.Tensor]


def test_a_function_that_takes_neither_is_one_sentence():
    with pytest.raises(ModelError, match=r"takes neither a tensor \(KeyError: 'a'\) nor an array \(KeyError: 'a'\)"):
        Function(lambda x: {}["a"])(torch.zeros(2, 2))


def test_what_is_adopted_already_stays_as_it_is():
    loaded = Loaded(nn.Identity(), "mine")
    assert adopt(loaded) is loaded
    assert adopt(nn.Identity(), name="net").name == "net"
    assert adopt(nn.Identity()).name == "Identity"


def test_an_estimator_without_tensors_is_known_by_its_answers(iris):
    one, other = (RandomForestClassifier(3, random_state=seed, max_depth=1).fit(*iris) for seed in (0, 1))
    x = torch.tensor(iris[0], dtype=torch.float32)
    digests = [Subject(adopt(m).model, x, bounds=None, modality="tabular").digest()["model"] for m in (one, one, other)]
    assert digests[0] == digests[1] != digests[2]


# -- class names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["cat\ndog\nNoël\n", '["cat", "dog", "Noël"]', '{"1": "dog", "0": "cat", "2": "Noël"}', "\ncat \r\ndog\r\nNoël"],
)
def test_class_names_come_from_lines_lists_and_numbered_objects(tmp_path, text):
    (tmp_path / "names").write_bytes(text.encode())
    assert read_class_names(tmp_path / "names") == ("cat", "dog", "Noël")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name at least two classes"),
        ("one", "must name at least two classes"),
        ("a\n\nb", "none of them empty"),
        ('{"0": "a", "2": "b"}', "class 1 is missing"),
        ("[1, 2]", "is not the JSON it should be"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_bad_files_of_class_names_are_one_sentence(tmp_path, text, message):
    path = tmp_path / "names.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match=message):
        read_class_names(path)
