import json

import pytest

from pellucid.cli import main
from pellucid.training import Run

RECIPE = """
name = "tiny"
epochs = 2
batch_size = 16
model = { kind = "small-cnn", image_size = 8, channels = [3, 4], hidden = 6, classes = 3 }
data = { kind = "synthetic-images", n = 48, classes = 3, size = 8 }
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return str(path)


def test_a_recipe_is_trained_and_exported(recipe, tmp_path, capsys):
    out, kept = tmp_path / "run", tmp_path / "kept.safetensors"
    assert (
        main(["train", recipe, "--out", str(out), "--set", "epochs=1", "--set", "seed=3", "--export", str(kept)]) == 0
    )
    text = capsys.readouterr()
    assert "clean accuracy, full test set" in text.out
    assert "epoch 1/1, step 3/3, loss" in text.err
    assert Run.open(out).recipe.seed == 3
    assert kept.read_bytes() == (out / "model.safetensors").read_bytes()
    assert json.loads(kept.with_suffix(".json").read_text())["name"] == "tiny"


def test_training_again_returns_what_is_there(recipe, tmp_path, capsys):
    for _ in range(2):
        assert main(["train", recipe, "--out", str(tmp_path / "run")]) == 0
    first, second = capsys.readouterr().out.split("The run is in", 1)[0], ""
    assert "clean accuracy" in first + second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-recipe"], "there is no recipe 'no-such-recipe'"),
        (["RECIPE", "--set", "epoch=3"], "there is no key epoch; did you mean epochs?"),
        (["RECIPE", "--set", "data.kind=npz", "--set", "data.paht=x.npz"], "no key data.paht; did you mean path?"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(recipe, tmp_path, capsys, arguments, message):
    arguments = [recipe if argument == "RECIPE" else argument for argument in arguments]
    assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_unfit_export_is_refused_before_the_training(recipe, tmp_path, capsys):
    assert main(["train", recipe, "--out", str(tmp_path / "run"), "--export", "weights.pt"]) == 2
    assert capsys.readouterr().err == "pellucid: --export takes a .safetensors file, got weights.pt\n"
    assert not (tmp_path / "run").exists()


def test_ctrl_c_is_exit_code_130_and_the_run_goes_on(recipe, tmp_path, capsys, monkeypatch):
    from pellucid.training import _trainer

    whole = _trainer._Training._epoch

    def interrupted(self, epoch, log):
        if epoch == 1:
            raise KeyboardInterrupt
        whole(self, epoch, log)

    with monkeypatch.context() as patch:
        patch.setattr(_trainer._Training, "_epoch", interrupted)
        assert main(["train", recipe, "--out", str(tmp_path / "run")]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(["train", recipe, "--out", str(tmp_path / "run")]) == 0
    assert "epoch 2/2" in capsys.readouterr().err


def test_recipes_are_listed_and_shown(capsys):
    assert main(["recipes", "list"]) == 0
    assert "fashion-robust" in capsys.readouterr().out
    assert main(["recipes", "show", "fashion-robust"]) == 0
    assert 'kind = "adversarial"' in capsys.readouterr().out
    assert main(["recipes", "show", "nothing"]) == 2
