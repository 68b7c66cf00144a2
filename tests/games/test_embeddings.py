"""Words as players, on ids and on embeddings."""

import pytest
import torch
from torch import nn

from pellucid.core import ModelError, Text
from pellucid.games import ModelGame, Words, coalitions, harsanyi, log_odds, on_embeddings, output, table

TEXT = Text("a rather goodly film", ("S", "a", "rather", "good", "ly", "film", "E", "P"),
            (None, 0, 1, 2, 2, 3, None, None), ("a", "rather", "goodly", "film"), absent=9, pad=0)  # fmt: skip
IDS = torch.tensor([1, 3, 4, 5, 6, 7, 2, 0])


class Reader(nn.Module):
    """Looks ids up, adds positions, and reads them in order; padding is left out."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(12, 6), nn.Embedding(8, 6)
        self.mix, self.answer = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, ids):
        seen = (ids != 0)[..., None]
        h = self.words(ids) + self.places(torch.arange(ids.shape[1])[None])
        return self.answer((self.mix(h)[0] * seen).sum(1))


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Reader()


def test_masking_a_word_is_the_text_with_that_words_tokens_replaced(model):
    game = ModelGame(model, IDS, Words(TEXT), log_odds(1))
    keep = coalitions(4)
    by_hand = IDS.expand(16, -1).clone()
    for row, present in enumerate(keep.tolist()):
        for place, word in enumerate(TEXT.words):
            if word is not None and not present[word]:
                by_hand[row, place] = TEXT.absent
    assert torch.equal(game.masked(keep), by_hand)
    assert game.players.names == TEXT.names


def test_long_texts_play_in_phrases():
    players = Words(TEXT, most=2)(IDS)
    assert players.names == ("a rather", "goodly film")
    assert players.owner.tolist() == [-1, 0, 0, 1, 1, 1, -1, -1]
    assert Words(TEXT, most=9)(IDS).count == 4
    with pytest.raises(ValueError, match="at least 1"):
        Words(TEXT, most=0)
    with pytest.raises(ValueError, match="on embeddings give fill"):
        Words(TEXT)(torch.zeros(8, 6))


def test_on_the_true_embeddings_the_model_answers_as_on_ids(model):
    played = on_embeddings(model, IDS)
    with torch.no_grad():
        assert torch.equal(played(played.inputs[None]), model(IDS[None]))
        assert torch.equal(model(IDS[None]), model(IDS[None]))  # no hook is left
    assert not any(m._forward_hooks for m in model.modules())


def test_games_on_embeddings_equal_games_on_ids(model):
    played = on_embeddings(model, IDS)
    on_words = Words(TEXT, fill=played.vector(TEXT.absent))
    a, b = (
        table(ModelGame(model, IDS, Words(TEXT), log_odds(0))),
        table(ModelGame(played, played.inputs, on_words, log_odds(0))),
    )
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_a_baseline_of_embeddings_has_gradients(model):
    played = on_embeddings(model, IDS)
    fill = played.vector(TEXT.absent)
    game = ModelGame(played, played.inputs, Words(TEXT, fill=fill), output())
    baseline = fill[None].clone().requires_grad_()
    game.differentiable(torch.zeros(1, 4, dtype=torch.bool), baseline).sum().backward()
    assert bool(baseline.grad.abs().sum() > 0)
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(played.scale, model.words.weight.detach().std(0))


def test_a_word_the_model_does_not_read_has_no_effect(model):
    with torch.no_grad():
        model.words.weight[7] = model.words.weight[9]
    found = harsanyi(ModelGame(model, IDS, Words(TEXT), output()))
    assert max(abs(float(found[players])) for players in found.players if 3 in players) < 1e-5


def test_a_table_that_scales_its_embeddings_is_taken_at_its_word(model):
    class Scaled(nn.Embedding):
        """As in several translation and language models."""

        def forward(self, ids):
            return 8 * super().forward(ids)

    plain = model.words
    model.words = Scaled(12, 6)
    model.words.load_state_dict(plain.state_dict())
    played = on_embeddings(model, IDS)
    with torch.no_grad():
        assert torch.equal(played(played.inputs[None]), model(IDS[None]))
    assert torch.equal(played.vector(9), 8 * plain.weight[9])
    torch.testing.assert_close(played.scale, 8 * plain.weight.detach().std(0))


def test_the_words_table_is_told_from_that_of_places(model):
    assert on_embeddings(model, torch.arange(8)).vector(11).shape == (6,)  # id 11 is in the larger table only


def test_what_has_no_embeddings_is_refused(model):
    with pytest.raises(ModelError, match=r"in no torch\.nn\.Embedding"):
        on_embeddings(nn.Sequential(Ids(), nn.Linear(8, 2)), IDS)
    with pytest.raises(ModelError, match=r"need a torch\.nn\.Module"):
        on_embeddings(lambda ids: ids.float(), IDS)
    with pytest.raises(ValueError, match="ids of one text"):
        on_embeddings(model, IDS[None])
    played = on_embeddings(model, IDS)
    with pytest.raises(ValueError, match="knows ids from 0 to 11"):
        played.vector(12)
    with pytest.raises(ValueError, match="embeddings must be"):
        played(torch.zeros(2, 3, 6))


class Ids(nn.Module):
    def forward(self, ids):
        return ids.float()
