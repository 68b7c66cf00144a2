"""The settings of probes, changed by `--set PROBE.FIELD=VALUE`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, NamedTuple, get_type_hints

import msgspec

from pellucid.core import PellucidError, Probe, nearest, read_setting

from .probes import MORE, PROBES

_NOT_SETTINGS = ("name", "question")


class ProbeSetting(NamedTuple):
    """One setting of a probe.

    Args:
        name: of the field.
        value: what it is.
        text: what it means, as the probe's documentation says.
    """

    name: str
    value: object
    text: str


def settings_of(probe: Probe) -> tuple[ProbeSetting, ...]:
    """Return the settings of a probe with their values; none if it has nothing to choose.

    Example:
        >>> from pellucid.audits.probes import Robustness
        >>> settings_of(Robustness())[1][:2]
        ('attacks', ())
    """
    meant = _meanings(type(probe).__doc__ or "")
    return tuple(ProbeSetting(f.name, getattr(probe, f.name), meant.get(f.name, "")) for f in _fields(probe))


def changed_settings(probe: Probe) -> dict[str, object]:
    """Return the settings of a probe that are not what they are in `PROBES` or `MORE`."""
    usual = (PROBES | MORE).get(probe.name)
    if type(usual) is not type(probe):
        return {s.name: s.value for s in settings_of(probe)}
    return {s.name: s.value for s in settings_of(probe) if s.value != getattr(usual, s.name)}


def with_settings(probes: Sequence[str | Probe], changes: Sequence[str]) -> tuple[str | Probe, ...]:
    """Return the probes of an audit with some of their settings changed.

    Args:
        probes: names and probes; all of `PROBES` if there are none.
        changes: such as "bottleneck.settings=official" or "robustness.attacks=linf": probe, setting and value. Several
            values are separated by commas, and 3x4 is a pair of numbers.

    Raises:
        PellucidError: no such probe or setting, the value does not fit, or the probe is not asked.

    Example:
        >>> with_settings(["accuracy", "robustness"], ["robustness.attacks=linf"])[1].attacks
        ('linf',)
    """
    asked, known = tuple(probes or PROBES), PROBES | MORE
    given: dict[str, dict[str, Any]] = {}
    said: dict[str, str] = {}
    for change in changes:
        name, keys, value = _read(change)
        table = given.setdefault(name, {})
        for key in keys[:-1]:
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                raise PellucidError(f"--set {change}: {key} has a value already")
            table = inner
        table[keys[-1]] = value
        said[name] = change
    names = [probe if isinstance(probe, str) else probe.name for probe in asked]
    for name in given:
        if name not in names:
            raise PellucidError(f"--set {said[name]}: the probe {name} is not asked here")
    made: list[str | Probe] = []
    for name, probe in zip(names, asked, strict=True):
        whole = known[name] if isinstance(probe, str) and name in known else probe
        changed = name in given and not isinstance(whole, str)
        made.append(_changed(whole, given[name]) if changed else probe)  # type: ignore[arg-type]
    return tuple(made)


def _fields(probe: Any) -> list[Field[Any]]:
    if not is_dataclass(probe):
        return []
    return [f for f in fields(probe) if f.init and f.name not in _NOT_SETTINGS]


def _read(change: str) -> tuple[str, tuple[str, ...], Any]:
    """Return a change as probe, keys and value; both names are known."""
    try:
        (name, *keys), value = read_setting(change)
    except ValueError as error:
        raise PellucidError(f"{error}; write it like bottleneck.settings=official") from None
    probes = PROBES | MORE
    if name not in probes:
        raise PellucidError(
            f"--set {change}: there is no probe {name!r}; {nearest(name, probes)}the probes are {', '.join(probes)}"
        )
    known = [setting.name for setting in settings_of(probes[name])]
    if not known:
        raise PellucidError(f"--set {change}: the probe {name} has no settings")
    if not keys or keys[0] not in known:
        what = f"there is no setting {keys[0]!r} of {name}" if keys else f"no setting of {name} is named"
        hint = nearest(keys[0], known) if keys else ""
        raise PellucidError(f"--set {change}: {what}; {hint}its settings are {', '.join(known)}")
    return name, tuple(keys), value


def _changed(probe: Probe, given: Mapping[str, Any]) -> Probe:
    kinds = get_type_hints(type(probe))
    values = {}
    for name, raw in given.items():
        place = f"--set {probe.name}.{name}={_typed(raw)}"
        values[name] = _fitting(raw, kinds[name], place)
    try:
        made: Probe = replace(probe, **values)  # type: ignore[type-var]
    except (TypeError, ValueError) as error:
        raise PellucidError(f"--set {', '.join(f'{probe.name}.{name}' for name in values)}: {error}") from None
    return made


def _fitting(raw: Any, kind: Any, place: str) -> Any:
    """Return a value in the type of its field, read as written, else as a list."""
    trouble = ""
    for reading in _readings(raw):
        try:
            return _frozen(msgspec.convert(reading, kind))
        except msgspec.ValidationError as error:
            trouble = trouble or str(error).partition(" - at ")[0]
    raise PellucidError(f"{place}: {trouble[0].lower()}{trouble[1:]}")


def _readings(raw: Any) -> list[Any]:
    """Return how a value may be meant: 3x4 is two numbers, and a value alone a list of one."""
    if isinstance(raw, dict):
        inner = {key: _readings(value) for key, value in raw.items()}
        depth = max(map(len, inner.values()), default=0)
        return [{key: found[min(k, len(found) - 1)] for key, found in inner.items()} for k in range(depth)]
    if isinstance(raw, str) and re.fullmatch(r"\d{1,4}(x\d{1,4})+", raw):
        return [[int(part) for part in raw.split("x")], raw]
    if isinstance(raw, str):
        return [raw, [_plain(part.strip()) for part in raw.split(",")]]
    return [raw] if isinstance(raw, list) else [raw, [raw]]


def _plain(text: str) -> Any:
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text)
    return text


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _typed(raw: Any) -> str:
    return str(raw).lower() if isinstance(raw, bool) else str(raw)


def _meanings(docstring: str) -> dict[str, str]:
    """Return the text of each entry under "Args:"."""
    found: dict[str, str] = {}
    name = ""
    _, _, listed = docstring.partition("Args:\n")
    for line in listed.splitlines():
        entry = re.match(r" {8}(\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif name and line.startswith(" " * 12):
            found[name] += " " + line.strip()
        elif line.strip():
            break
    return found
