import msgspec
import pytest
import torch

from pellucid import data
from pellucid.core import RecipeError
from pellucid.training import Recipe, train


class Stopped(Exception):
    pass


@pytest.fixture
def augmented(recipe_file):
    return Recipe.load(recipe_file, overrides=("augment.flip=true", "augment.crop=1"))


def test_augmented_training_is_reproducible_and_goes_on_bit_for_bit(augmented, recipe, tmp_path):
    whole = train(augmented, tmp_path / "whole").model.state_dict()

    def stop(event):
        if event.kind == "step" and event.done == 17:
            raise Stopped

    with pytest.raises(Stopped):
        train(augmented, tmp_path / "cut", on_event=stop)
    resumed = train(augmented, tmp_path / "cut").model.state_dict()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    plain = train(recipe, tmp_path / "plain").model.state_dict()
    assert not torch.equal(next(iter(plain.values())), next(iter(whole.values())))


def test_the_test_split_is_never_augmented(augmented, tmp_path):
    run = train(augmented, tmp_path / "run")
    assert torch.equal(run.subject("test").inputs, data.unit(run.test_set.inputs))


def test_tables_and_unknown_settings_are_refused(recipe_file, tmp_path):
    table = msgspec.structs.replace(
        Recipe.load(recipe_file, overrides=("augment.flip=true",)), data=data.SyntheticTable()
    )
    with pytest.raises(RecipeError, match="augment changes images, but synthetic-table has inputs of shape"):
        train(table, tmp_path / "table")
    with pytest.raises(RecipeError, match=r"no key augment.crops; did you mean crop\?"):
        Recipe.load(recipe_file, overrides=("augment.crops=4",))
    with pytest.raises(RecipeError, match=r"augment\.crop is -1"):
        Recipe.load(recipe_file, overrides=("augment.crop=-1",))
