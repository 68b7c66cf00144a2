"""`--set a.b=c`: one change of a setting, as recipes and probes take it."""

from __future__ import annotations

import tomllib
from typing import Any


def read_setting(text: str) -> tuple[tuple[str, ...], Any]:
    """Return the keys and the value of a change such as "optimizer.lr=0.1".

    The key is dotted as in TOML, a part with a dot in quotes. The value is what TOML writes; a word that TOML would
    not read needs no quotes.

    Args:
        text: one change.

    Raises:
        ValueError: there is no key or no value.

    Example:
        >>> read_setting("objective.attack.eps=0.2")
        (('objective', 'attack', 'eps'), 0.2)
        >>> read_setting("bottleneck.settings=official")
        (('bottleneck', 'settings'), 'official')
    """
    path, equals, value = text.partition("=")
    keys = _keys(path)
    if not equals or not keys:
        raise ValueError(f"--set takes key=value, got {text!r}")
    try:
        return keys, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return keys, value.strip()  # a word without quotes


def _keys(path: str) -> tuple[str, ...]:
    """Return the parts of a dotted key as TOML reads it; none if it is no key."""
    try:
        table: Any = tomllib.loads(f"{path} = 0")
    except (ValueError, RecursionError):
        return ()
    keys = []
    while isinstance(table, dict) and len(table) == 1:
        key, table = next(iter(table.items()))
        keys.append(key)
    return tuple(keys)
