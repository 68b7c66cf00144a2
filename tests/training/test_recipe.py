import msgspec
import pytest

from pellucid.core import RecipeError
from pellucid.training import SGD, Recipe, Standard, shipped_recipes


def test_a_recipe_names_its_parts_by_kind(recipe):
    assert recipe.model.channels == (6, 8)
    assert recipe.objective == Standard()
    assert recipe.data.load("train").inputs.shape == (96, 1, 8, 8)


def test_a_recipe_survives_the_way_to_json_and_back(recipe):
    assert Recipe.parse(msgspec.json.decode(msgspec.json.encode(recipe.to_dict()))) == recipe


def test_a_recipe_is_frozen(recipe):
    with pytest.raises(AttributeError):
        recipe.epochs = 4


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_load_by_name(name):
    assert Recipe.load(name).name == name


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("epochs=7", lambda r: r.epochs == 7),
        ("optimizer.lr = 1e-3", lambda r: r.optimizer.lr == 1e-3),
        ("name=other", lambda r: r.name == "other"),
        ("model.channels=[1, 2]", lambda r: r.model.channels == (1, 2)),
        ("objective.label_smoothing=0.1", lambda r: r.objective.label_smoothing == 0.1),
        ("test.attack.eps=0.3", lambda r: r.test.attack.eps == 0.3),
    ],
)
def test_overrides_change_one_key(recipe_file, override, read):
    # The objective has no table in the file; its kind is given first, as on the command line.
    assert read(Recipe.load(recipe_file, overrides=("objective.kind=standard", override)))


def test_another_kind_begins_with_its_own_defaults(recipe_file):
    changed = Recipe.load(recipe_file, overrides=("optimizer.kind=sgd", "optimizer.momentum=0.5"))
    assert changed.optimizer == SGD(momentum=0.5)  # the rate of 0.02 was Adam's
    same = Recipe.load(recipe_file, overrides=("optimizer.kind=adam",))
    assert same.optimizer.lr == 2e-2


def test_another_way_to_pass_the_gradient_begins_with_its_own_defaults():
    recipe = Recipe.load("mdeq-fashion-mnist", overrides=("model.backward.mode=exact",))
    assert (recipe.model.backward.mode, recipe.model.backward.steps) == ("exact", None)
    kept = Recipe.load("mdeq-fashion-mnist", overrides=("model.backward.mode=upg",))
    assert kept.model.backward.steps == 5


def test_recipes_from_when_weightings_had_one_kind_still_load(recipe_file):
    changed = Recipe.load(recipe_file, overrides=("weighting.weights.clean=2",))
    assert changed.weighting.weights == {"clean": 2}


def test_a_dial_is_checked(recipe_file):
    kind = "weighting.kind=pareto"
    assert Recipe.load(recipe_file, overrides=(kind, "weighting.rho=free")).weighting.rho == "free"
    with pytest.raises(RecipeError, match=r"weighting\.rho is 1\.5: expected `float` <= 1"):
        Recipe.load(recipe_file, overrides=(kind, "weighting.rho=1.5"))
    with pytest.raises(RecipeError, match=r"there is no key weighting\.row; did you mean rho\?"):
        Recipe.load(recipe_file, overrides=(kind, "weighting.row=0.5"))


def test_a_key_of_a_table_is_named_with_its_table() -> None:
    with pytest.raises(RecipeError, match=r"there is no key rho; did you mean weighting\.rho\?"):
        Recipe.load("pareto-fashion-mnist", overrides=("rho=0.3",))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "there is no key epoch; did you mean epochs?"),
        ("optimizer.learning=3", "there is no key optimizer.learning; known are lr, weight_decay"),
        ("model.hiden=3", "did you mean hidden?"),
        ("test.atack=3", "there is no key test.atack; did you mean attack?"),
        ("objective.kind=adverserial", "objective.kind is 'adverserial'; did you mean adversarial?"),
        (
            "objective.label_smoothing=0.1",
            "objective.kind is missing; the kinds are adversarial, attacks, dot-regression, ",
        ),
        ("epochs=0", "epochs is 0: expected `int` >= 1"),
        ("optimizer.lr=-1", "optimizer.lr is -1: expected `float` > 0"),
        ("optimizer.lr=fast", "optimizer.lr is 'fast': expected `float`"),
        ("precision=fp8", "precision is 'fp8'"),
        ("epochs.more=1", "epochs is a value, not a table"),
        ("model=3", "model is 3: expected `object`"),
        ("epochs", "--set takes key=value"),
        (".=3", "--set takes key=value"),
    ],
)
def test_mistakes_are_named_with_the_way_out(recipe_file, override, message):
    with pytest.raises(RecipeError) as caught:
        Recipe.load(recipe_file, overrides=(override,))
    assert message in str(caught.value)


def test_a_missing_part_is_named():
    with pytest.raises(RecipeError, match=r"the recipe: object missing required field"):
        Recipe.parse({"name": "x"})


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(RecipeError, match=r"did you mean fashion-standard\?"):
        Recipe.load("fashion-standart")
    with pytest.raises(RecipeError, match=r"neither as a file nor by name; shipped are .*fashion-robust"):
        Recipe.load("/no/such/file")
    (tmp_path / "x.toml").write_text("a = = 3")
    with pytest.raises(RecipeError, match=r"x\.toml is not TOML"):
        Recipe.load(tmp_path / "x.toml")
