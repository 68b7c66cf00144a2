"""What training on texts needs beside the network: a tokenizer, made from the training split and kept with the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pellucid.core import Dataset, RecipeError, Tokenizer, tokenizers
from pellucid.nn.models import ImplicitTextSettings, TextCNNSettings

from ._recipe import Recipe
from .objectives import DotRegression, Standard

TOKENIZER = "tokenizer.json"

_SPECIAL = ("[PAD]", "[UNK]", "[MASK]")
"""In the order of the ids that `nn.models.TextCNN` knows."""


def fitted_tokenizer(recipe: Recipe, data: Dataset, out: Path) -> Tokenizer | None:
    """Return the tokenizer of a training on texts: that of the folder `out` if it was begun before, else a new one.

    Words are what stands between spaces and marks, in lower case and without accents; those that are too rare for the
    vocabulary become one unknown word.

    Returns:
        None where the data are no texts.

    Raises:
        RecipeError: the model or the objective is not for texts, or the data are not.
        MissingExtra: `tokenizers` is not installed.
    """
    model = recipe.model
    if data.modality != "text":
        if isinstance(model, TextCNNSettings | ImplicitTextSettings):
            kind = model.__struct_config__.tag
            raise RecipeError(f'model.kind = "{kind}" reads texts, but {data.name} holds none')
        return None
    if not isinstance(model, TextCNNSettings | ImplicitTextSettings):
        raise RecipeError(f'{data.name} holds texts; use model.kind = "text-cnn" or "implicit-text"')
    if not isinstance(recipe.objective, Standard | DotRegression) or recipe.test.attack is not None:
        raise RecipeError(f'{data.name} holds texts, which cannot be attacked; use objective.kind = "standard"')
    if not data.labelled:
        raise RecipeError(f"{data.name} has no labels to learn from")
    if (out / TOKENIZER).is_file():
        return Tokenizer.read(out / TOKENIZER, length=model.length)
    library = tokenizers()
    backend = library.Tokenizer(library.models.WordLevel(unk_token=_SPECIAL[1]))
    backend.normalizer = library.normalizers.BertNormalizer()
    backend.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    # Equal counts are sorted by the words themselves, so every process makes the same table.
    trainer = library.trainers.WordLevelTrainer(
        vocab_size=model.vocabulary, special_tokens=list(_SPECIAL), show_progress=False
    )
    backend.train_from_iterator(data.texts, trainer)
    return Tokenizer(backend, length=model.length)


def tokenized(dataset: Dataset, tokenizer: Tokenizer | None) -> Dataset:
    """Return the data set with token ids as inputs; as it is where there is no tokenizer."""
    return dataset if tokenizer is None else replace(dataset, inputs=tokenizer(dataset.texts).ids)
