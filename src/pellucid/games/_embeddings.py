"""A model of token ids as a model of their embeddings, so that games and gradients have numbers to work on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.core import ModelError, device_of, evaluating

_MOST_WORDS = 1 << 15
"""Words whose spread is measured; all of most vocabularies."""


class OnEmbeddings(nn.Module):
    """A model of one text's ids as a model of embeddings `(c, L, D)`; see `on_embeddings`.

    Attributes:
        inputs: `(L, D)`, the embeddings of the text's ids: the input to play on.
        scale: `(D,)`, the standard deviation of the word embeddings per coordinate, over evenly spaced ids of a large
            vocabulary: what is much for a learned baseline.
    """

    inputs: Float[Tensor, "length width"]
    scale: Float[Tensor, " width"]

    def __init__(self, model: nn.Module, ids: Int[Tensor, " length"], embedding: nn.Embedding) -> None:
        super().__init__()
        self.model = model
        self._embedding = [embedding]  # in a list: it is the model's own and shall not be listed twice
        self._ids = ids.to(embedding.weight.device)
        self.inputs = self._looked_up(self._ids)
        words = embedding.num_embeddings
        self.scale = self._looked_up(torch.linspace(0, words - 1, min(words, _MOST_WORDS)).long()).std(0)

    def vector(self, token: int) -> Float[Tensor, " width"]:
        """Return the embedding of one id, such as that of the mask."""
        words = self._embedding[0].num_embeddings
        if not 0 <= token < words:
            raise ValueError(f"the model knows ids from 0 to {words - 1}, got {token}")
        return self._looked_up(torch.tensor([token]))[0]

    def _looked_up(self, ids: Tensor) -> Tensor:
        """Return what the table answers, which need not be its weights: some models scale their embeddings there."""
        table = self._embedding[0]
        with evaluating(table), torch.no_grad():
            found: Tensor = table(ids.to(table.weight.device)[None])[0]
        return found.detach().clone()

    def forward(self, embeddings: Tensor) -> Any:
        """Return what the model answers when its words are embedded so."""
        if embeddings.shape[1:] != self.inputs.shape:
            raise ValueError(
                f"embeddings must be (c, {', '.join(map(str, self.inputs.shape))}), got {embeddings.shape}"
            )
        ids = self._ids.expand(len(embeddings), -1)
        used = False

        def replaced(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor | None:
            nonlocal used
            if output.shape != embeddings.shape:
                return None  # another look-up in the same table, such as of single ids
            used = True
            return embeddings.to(output)

        handle = self._embedding[0].register_forward_hook(replaced)
        try:
            answer = self.model(ids)
        finally:
            handle.remove()
        if not used:
            raise ModelError(f"{type(self.model).__name__} looks up other ids than it is given; mask ids instead")
        return answer


def on_embeddings(model: Callable[[Tensor], Tensor], ids: Tensor) -> OnEmbeddings:
    """Return the model on one text as a function of the embeddings of its words.

    What the model's token embedding answers is replaced, everything behind it stays: positions, attention mask and
    padding are those of `ids`. Works for every network that looks its ids up in one `torch.nn.Embedding`.

    Args:
        model: maps ids `(b, L)` to logits.
        ids: of one text, `(L,)`.

    Returns:
        A model of embeddings `(c, L, D)`; its `.inputs` `(L, D)` are those of the text, so that
        `ModelGame(played, played.inputs, Words(text, fill=played.vector(text.absent)), value)` is a game whose baseline
        can be learned.

    Raises:
        ModelError: the model looks the ids up in no `torch.nn.Embedding`.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> played = on_embeddings(model, torch.tensor([1, 2, 3]))
        >>> bool(torch.equal(played(played.inputs[None]), model(torch.tensor([[1, 2, 3]]))))
        True
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"embeddings need a torch.nn.Module, got {type(model).__name__}")
    if ids.ndim != 1 or ids.is_floating_point():
        raise ValueError(f"ids must be the ids of one text, (length,), got {tuple(ids.shape)} {ids.dtype}")
    found: list[nn.Embedding] = []
    asked = ids.to(device_of(model))[None]

    def look(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Embedding) and arguments and isinstance(arguments[0], Tensor):
            given = arguments[0]
            if given.shape == asked.shape and bool((given == asked).all()):
                found.append(module)

    handles = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        with evaluating(model), torch.no_grad():
            model(asked)
    finally:
        for handle in handles:
            handle.remove()
    # A table of positions can be asked for the same numbers by chance: the largest one holds the words.
    found.sort(key=lambda table: -table.num_embeddings)
    if not found:
        raise ModelError(f"{type(model).__name__} looks its ids up in no torch.nn.Embedding; mask ids instead")
    return OnEmbeddings(model, ids, found[0])
