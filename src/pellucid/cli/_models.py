"""`pellucid models list` and `pellucid models show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._console import say, table

if TYPE_CHECKING:
    from pellucid.models import Card, Figure


def list_models() -> int:
    """List the models that ship with Pellucid."""
    from pellucid.models import SHIPPED

    rows = [
        [name, card.parameters, card.data, _share(card.figure("accuracy")), _robust(card)]
        for name, card in SHIPPED.items()
    ]
    say(table(["name", "parameters", "data", "clean", "robust"], rows))
    say()
    say("`pellucid models show NAME` tells more.")
    say("Your own model is FILE.py:FACTORY, PACKAGE.MODULE:FACTORY (both with @WEIGHTS), PROGRAM.pt2,")
    say("timm:NAME@WEIGHTS, torchvision:NAME@WEIGHTS or hf:FOLDER.")
    return 0


def show_model(name: str, /) -> int:
    """Show a model's card: what it is, how it was made and how good it is.

    Args:
        name: a name from `pellucid models list`.
    """
    from pellucid.core import ModelError, nearest
    from pellucid.models import SHIPPED

    if name not in SHIPPED:
        raise ModelError(f"there is no model {name!r}; {nearest(name, SHIPPED)}the models are {', '.join(SHIPPED)}")
    shown = SHIPPED[name]
    values = "" if shown.bounds is None else f", values in [{shown.bounds[0]:g}, {shown.bounds[1]:g}]"
    facts = {
        "task": shown.task,
        "architecture": ", ".join(f"{key}={value}" for key, value in shown.architecture.items()),
        "parameters": f"{shown.parameters:,}",
        "input": " x ".join(map(str, shown.input_shape)) + values,
        "classes": ", ".join(shown.class_names),
        "trained on": shown.data,
        "made": f"{shown.date}, {shown.minutes:g} minutes on {shown.hardware}, seed {shown.seed}",
        "make again": shown.command,
        "license": shown.license,
        "sha256": shown.sha256,
    }
    width = max(map(len, facts))
    say(shown.name)
    for key, value in facts.items():
        say(f"  {key:{width}}  {value}")
    say()
    say(table(["measured", "value", "95 % interval", "samples"], [_figure_row(figure) for figure in shown.figures]))
    for note in shown.notes:
        say(f"\nNote: {note}")
    return 0


def _share(figure: Figure | None) -> str:
    return "" if figure is None or figure.value is None else f"{100 * figure.value:.1f} %"


def _robust(card: Card) -> str:
    """Return the first robust accuracy with its attack, such as `76.2 % (linf 0.1)`."""
    for figure in card.figures:
        kind, bracket, setting = figure.name.partition("[")
        if kind == "robust_accuracy" and bracket:
            return f"{_share(figure)} ({setting.rstrip(']').replace(',', ' ')})"
    return ""


def _figure_row(figure: Figure) -> list[object]:
    interval = "" if figure.low is None or figure.high is None else f"{figure.low:.4f} to {figure.high:.4f}"
    return [figure.label, "" if figure.value is None else f"{figure.value:.4f}", interval, figure.n]
