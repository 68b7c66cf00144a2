import pytest

from pellucid.training import Recipe

TINY = """
name = "tiny"
epochs = 3
batch_size = 8

[model]
kind = "small-cnn"
image_size = 8
channels = [6, 8]
hidden = 16
classes = 3

[data]
kind = "synthetic-images"
n = 96
classes = 3
size = 8

[optimizer]
kind = "adam"
lr = 2e-2

[schedule]
kind = "one-cycle"
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def recipe(recipe_file):
    return Recipe.load(recipe_file)
