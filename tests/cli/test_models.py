"""`pellucid models list` and `pellucid models show`."""

import pytest

from pellucid.cli import main
from pellucid.models import SHIPPED


def test_the_list_names_every_shipped_model(capsys):
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    for name, card in SHIPPED.items():
        assert name in out
        assert f"{card.parameters:,}" in out


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_shows_how_good_it_is_and_how_it_is_made(capsys, name):
    assert main(["models", "show", name]) == 0
    out = capsys.readouterr().out
    card = SHIPPED[name]
    for text in (card.task, card.command, card.sha256, card.license, *(figure.label for figure in card.figures)):
        assert text in out


def test_an_unknown_model_is_bad_input(capsys):
    assert main(["models", "show", "absent"]) == 2
    assert "there is no model 'absent'" in capsys.readouterr().err
