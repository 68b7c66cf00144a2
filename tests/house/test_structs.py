"""What may stand in the annotations of the structs that files are read into."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

import pellucid


def structs() -> Iterator[type[msgspec.Struct]]:
    for found in pkgutil.walk_packages(pellucid.__path__, "pellucid."):
        if found.name.endswith("__main__"):
            continue
        for member in vars(importlib.import_module(found.name)).values():
            ours = isinstance(member, type) and issubclass(member, msgspec.Struct)
            if ours and member.__module__ == found.name:
                yield member


def parts(annotation: Any) -> Iterator[Any]:
    """The annotation and all annotations inside it."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from parts(part)


def is_bounded(annotation: Any) -> bool:
    return any(isinstance(part, msgspec.Meta) for part in parts(annotation))


def is_fixed_tuple(annotation: Any) -> bool:
    arguments = typing.get_args(annotation)
    return typing.get_origin(annotation) is tuple and Ellipsis not in arguments


def crashing_unions(annotation: Any) -> list[Any]:
    """Unions of a bounded value and a tuple of a fixed number of bounded values.

    While `msgspec.inspect.type_info` translates one, a garbage collection ends the process (msgspec 0.22).
    """
    found = []
    for part in parts(annotation):
        if typing.get_origin(part) not in (typing.Union, types.UnionType):
            continue
        bounded = [branch for branch in typing.get_args(part) if is_bounded(branch)]
        if len(bounded) > 1 and any(is_fixed_tuple(branch) for branch in bounded):
            found.append(part)
    return found


def test_the_finder_finds_such_a_union() -> None:
    count = Annotated[int, msgspec.Meta(ge=1)]
    assert crashing_unions(count | tuple[count, count])
    assert crashing_unions(tuple[count | tuple[count, count] | None, ...])
    assert not crashing_unions(int | tuple[count, count])
    assert not crashing_unions(count | tuple[count, ...])
    assert not crashing_unions(count | None)


def test_no_struct_has_an_annotation_that_crashes_msgspec() -> None:
    found = list(structs())
    assert len(found) > 40
    for struct in found:
        for name, annotation in typing.get_type_hints(struct, include_extras=True).items():
            place = f"{struct.__module__}.{struct.__name__}.{name}"
            assert not crashing_unions(annotation), f"{place}: check the bounds in __post_init__ instead"


def test_recipes_are_described_while_garbage_is_collected() -> None:
    from pellucid.training import Recipe

    kept = gc.get_threshold()
    gc.set_threshold(20)
    try:
        for _ in range(3):
            msgspec.inspect.type_info(Recipe)
    finally:
        gc.set_threshold(*kept)
