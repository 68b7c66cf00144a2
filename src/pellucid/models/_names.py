"""Class names from a file."""

from __future__ import annotations

from pathlib import Path

from pellucid.core import DataError, ModelError, read_json, read_text

_MOST = 100_000


def read_class_names(path: Path | str) -> tuple[str, ...]:
    """Return the names of a model's classes, in the order of its logits.

    Args:
        path: a text file with one name per line, a JSON list of names, or a JSON object `{"0": name, "1": name}` such
            as the `id2label` of a Hugging Face configuration.

    Raises:
        ModelError: not such a file, or names missing.
    """
    path = Path(path)
    try:
        text = read_text(path)
        if text.lstrip()[:1] not in ("[", "{"):
            names = [line.strip() for line in text.strip().splitlines()]
        elif text.lstrip()[0] == "[":
            names = read_json(path, list[str])
        else:
            names = _counted(path, read_json(path, dict[str, str]))
    except DataError as error:
        raise ModelError(str(error)) from error
    if not 2 <= len(names) <= _MOST or not all(names):
        raise ModelError(f"{path} must name at least two classes, none of them empty; it has {len(names)}")
    return tuple(names)


def _counted(path: Path, names: dict[str, str]) -> list[str]:
    missing = next((number for number in range(len(names)) if str(number) not in names), None)
    if missing is not None:
        raise ModelError(f"{path} must name the classes 0 to {len(names) - 1}; class {missing} is missing")
    return [names[str(number)] for number in range(len(names))]
