"""Look through a `torch.export` program before torch opens it, and keep what cannot run code.

torch's reader of `.pt2` files unpickles some payloads, imports modules that the tree specs name, evaluates shape
expressions and guards as Python, and turns operator names into any function of torch. So nothing of the file reaches it
that was not understood here: the archive is written anew from parts that passed.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pellucid.core import ModelError, first_line

_MOST_BYTES = 4 * 2**30
_MOST_JSON = 256 * 2**20
_MOST_FILES = 100_000
_TRUST = "give --trust (trust=True) if you trust the file"

# Files of an ordinary program, inside its one top folder; what else it may hold is left out or refused.
_KEPT = re.compile(
    r"models/[\w.\-]+\.json|data/weights/(weight_\d+|[\w.\-]+_weights_config\.json)|"
    r"data/constants/(tensor_\d+|[\w.\-]+_constants_config\.json)|data/sample_inputs/[\w.\-]+\.pt|"
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
)
_LEFT_OUT = re.compile(r"extra/.*|\.format_version|\.storage_alignment")

_WORD = re.compile(r"[\w.\-+]{0,300}")
_NAME = re.compile(r"[^\W\d]\w{0,300}")
_STRING = re.compile(r"[\w ,>.\-]{0,200}")  # options such as "tanh", and the equations of einsum
_SYMBOL = re.compile(r"[a-z]{1,6}\d{1,9}")

_PLAIN = re.compile(
    r"torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)|math\.(ceil|floor|trunc)|"
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)|"
    r"torch\.sym_(int|float|max|min|not|ite|sum)"
)
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_FILES = {"from_file", "save"}  # operators that open files

# Functions in shape expressions, as torch prints them and as its parser knows them.
_FUNCTION = re.compile(
    r"Symbol|Integer|Mul|Add|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|FloorToInt|CeilToInt|TruncToInt|ToFloat|"
    r"IntTrueDiv|Eq|Ne|Lt|Le|Gt|Ge|StrictLessThan|StrictGreaterThan|LessThan|GreaterThan|Equality|Unequality|And|Or|Not|"
    r"true|false"
)
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


class Refused(Exception):
    """Something in a program that is not understood; says what."""


def screened(path: Path) -> bytes:
    """Return a program as an archive with only what cannot run code when torch opens it.

    Raises:
        ModelError: damaged, of an older format, or with something in it that might run code; says what.
    """
    try:
        files = _files(path)
        (model,) = [name for name in files if name.startswith("models/")]
        files[model] = json.dumps(_checked_model(_parsed(files[model], model))).encode()
        for name, content in files.items():
            if name.endswith("_config.json"):
                files[name] = json.dumps(_checked_payloads(_parsed(content, name), name, files)).encode()
            elif name.startswith("data/sample_inputs/"):
                _check_pickle(content)
    except Refused as reason:
        raise ModelError(f"{path} could run code when opened, and is refused: it holds {reason}; {_TRUST}") from None
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, RecursionError, EOFError) as error:
        raise ModelError(f"{path} is a damaged program: {first_line(error)}") from None
    return _archive(files)


# -- the archive --------------------------------------------------------------------------------------------------


def _files(path: Path) -> dict[str, bytes]:
    """Return the files of a program without their top folder."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(names) > _MOST_FILES or len(set(names)) < len(names):
            raise Refused("files of equal names, or too many")
        if sum(member.file_size for member in members) > _MOST_BYTES:
            raise Refused(f"more than {_MOST_BYTES:,} bytes")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise Refused("compressed files, which torch.export.save never writes")
        tops = {name.partition("/")[0] for name in names}
        inner = [name.partition("/")[2] for name in names]
        if len(tops) != 1 or "archive_format" not in inner:
            raise ModelError(
                f"{path} is no program of torch.export of this generation; export it again with "
                f"torch.export.save of torch {torch.__version__.partition('+')[0]}"
            )
        odd = [name for name in inner if not (_KEPT.fullmatch(name) or _LEFT_OUT.fullmatch(name))]
        if odd:
            raise Refused(f"the file {odd[0]!r}")
        if sum(name.startswith("models/") for name in inner) != 1:
            raise Refused("no program, or more than one")
        kept = [(name, member) for name, member in zip(inner, members, strict=True) if _KEPT.fullmatch(name)]
        return {name: archive.read(member) for name, member in kept}


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(f"program/{name}"), content)
    return buffer.getvalue()


def _parsed(content: bytes, name: str) -> Any:
    if len(content) > _MOST_JSON:
        raise Refused(f"{name} of {len(content):,} bytes")
    return json.loads(content)


def _check_pickle(content: bytes) -> None:
    """Sample inputs are a pickle; torch reads it freely when its careful reader fails, so that must not happen."""
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise Refused(f"a pickle that would load {found[1] if found else 'more than tensors'}") from None


def _checked_payloads(config: Any, name: str, files: Mapping[str, bytes]) -> Any:
    """Check the list of weights or constants: raw numbers of a size that fits, no pickles."""
    folder = name.rpartition("/")[0]
    if set(config) != {"config"}:
        raise Refused(f"unknown entries in {name}")
    for key, payload in config["config"].items():
        place = f"{folder}/{payload['path_name']}"
        if payload["use_pickle"] or re.search(r"/(custom_obj|opaque_obj)_", place):
            raise Refused(f"{key} as a pickle")
        if place not in files or not re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"]):
            raise Refused(f"{key} in the unknown file {payload['path_name']!r}")
        count = 1
        for size in payload["tensor_meta"]["sizes"]:
            count *= int(size["as_int"])
        if count > len(files[place]) or count < 0:
            raise Refused(f"{key} of {count:,} numbers in {len(files[place]):,} bytes")
        _walk(payload, place)
    return config


# -- the program --------------------------------------------------------------------------------------------------


def _checked_model(model: Any) -> Any:
    """Return the description of a program without its remarks, every part of it understood."""
    for guard in model.get("guards_code", []):
        _check_guard(guard)
    _walk({key: value for key, value in model.items() if key != "guards_code"}, "the program")
    return model


def _walk(value: Any, where: str) -> None:
    """Check every entry of a tree by its key; text under a key that is not known must be a plain word."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or not _WORD.fullmatch(key):
                raise Refused(f"the name {key!r} in {where}")
        if "metadata" in value:
            value["metadata"] = {}  # remarks such as stack traces, which nothing needs
        for key, inner in value.items():
            check = _CHECKS.get(key)
            if check is None:
                _walk(inner, key)
            elif inner is not None:
                check(inner)
    elif isinstance(value, list):
        for inner in value:
            _walk(inner, where)
    elif isinstance(value, str):
        if not _WORD.fullmatch(value):
            raise Refused(f"the text {value[:60]!r} in {where}")
    elif isinstance(value, int) and abs(value) >= 2**64:
        raise Refused(f"the number {value:.3g} in {where}")


def _check_target(target: str) -> None:
    if _PLAIN.fullmatch(target):
        return
    match = _ATEN.fullmatch(target)
    if match is None or match[1] in _FILES:
        raise Refused(f"the operator {target}")
    try:
        schema = getattr(getattr(torch.ops.aten, match[1]), match[2])._schema
    except (AttributeError, RuntimeError):
        raise Refused(f"the operator {target}, which this torch does not know") from None
    types = [str(part.type) for part in (*schema.arguments, *schema.returns)]
    if not any("Tensor" in kind for kind in types):
        raise Refused(f"the operator {target}, which is none on tensors")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) and name:
        raise Refused(f"the name {name[:60]!r}")


def _check_names(names: list[str]) -> None:
    for name in names:
        _check_name(name)


def _check_string(text: str) -> None:
    if not _STRING.fullmatch(text):
        raise Refused(f"the text {text[:60]!r} as an argument")


def _check_strings(texts: list[str]) -> None:
    for text in texts:
        _check_string(text)


def _never(value: Any) -> None:
    if value:
        raise Refused("a custom object")


def _check_spec(text: str) -> None:
    """Check how arguments or answers are nested: plain containers, which name nothing to import."""
    if not text:
        return
    spec = json.loads(text)
    if not (isinstance(spec, list) and len(spec) == 2 and isinstance(spec[0], int)):
        raise Refused("an unknown kind of tree")
    for node in _nodes(spec[1]):
        if node["type"] is None:
            continue
        context = json.loads(node["context"])
        plain = context is None or (isinstance(context, list) and all(isinstance(key, (str, int)) for key in context))
        if node["type"] not in _CONTAINERS or not plain:
            raise Refused(f"the container {node['type']!r}")
        _check_strings([key for key in context or () if isinstance(key, str)])


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if set(node) != {"type", "context", "children_spec"}:
        raise Refused("an unknown kind of tree")
    yield node
    for child in node["children_spec"]:
        yield from _nodes(child)


def _check_expression(text: str) -> None:
    """Check the expression of a size, which torch evaluates: symbols, whole numbers and known functions."""
    for node in _tree(text):
        match node:
            case ast.Name(id=name) if _SYMBOL.fullmatch(name) or _FUNCTION.fullmatch(name):
                pass
            case ast.Constant(value=bool() | int() | float()):
                pass
            case ast.Constant(value=str(value)) if _SYMBOL.fullmatch(value):
                pass
            case ast.Call(func=ast.Name(id=name)) if _FUNCTION.fullmatch(name):
                pass
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.FloorDiv() | ast.Mod() | ast.Div()):
                pass
            case ast.UnaryOp(op=ast.USub()) | ast.Compare() | ast.keyword(arg=str()) | ast.Expression():
                pass
            case ast.operator() | ast.unaryop() | ast.cmpop() | ast.Load():
                pass
            case _:
                raise Refused(f"the size {text[:60]!r}")


def _check_guard(text: str) -> None:
    """Check a condition on the inputs, which torch runs: sizes of inputs, compared with numbers."""
    for node in _tree(text):
        match node:
            case ast.Name(id="L") | ast.Constant(value=bool() | int() | float() | None):
                pass
            case ast.Constant(value=str(value)) if _NAME.fullmatch(value):
                pass
            case ast.Attribute(attr="size" | "stride" | "storage_offset" | "ndim"):
                pass
            case ast.Call(func=ast.Attribute(), keywords=[]) | ast.Subscript() | ast.Compare() | ast.BoolOp():
                pass
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.FloorDiv() | ast.Mod()) | ast.UnaryOp():
                pass
            case ast.operator() | ast.unaryop() | ast.cmpop() | ast.boolop() | ast.Load() | ast.Expression():
                pass
            case _:
                raise Refused(f"the condition {text[:60]!r}")


def _tree(text: str) -> Iterator[ast.AST]:
    """Return the parts of a one-line Python expression without comments, continuations or double quotes."""
    if len(text) > 2000 or re.search(r'[\n\r\f#\\";`]', text) or not text.isascii():
        raise Refused(f"the expression {text[:60]!r}")
    try:
        return ast.walk(ast.parse(text, mode="eval"))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise Refused(f"the expression {text[:60]!r}") from None


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "target": _check_target,
    "name": _check_name,
    "forward_arg_names": _check_names,
    "expr_str": _check_expression,
    "in_spec": _check_spec,
    "out_spec": _check_spec,
    "as_string": _check_string,
    "as_strings": _check_strings,
    "as_custom_obj": _never,
    "custom_obj": _never,
    "custom_obj_values": _never,
    "as_operator": _never,
    "treespec_namedtuple_fields": _never,
}
