"""What an audit and a comparison leave behind: typed data that turns into JSON and back without loss.

`report.json` is a pure function of its content: no dates, no durations, no absolute paths. Pixels of pictures lie in
`arrays.safetensors` under the hash of their content; the JSON says `{"array": name}` in their place.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
import torch

from pellucid.core import (
    NOBODY,
    Curve,
    DataError,
    Exhibit,
    Finding,
    Gallery,
    Graph,
    Heatmap,
    Measure,
    Number,
    Overlays,
    Panel,
    Picture,
    RunError,
    Scatter,
    Table,
    is_leftover,
    read_tensors,
    read_text,
    showing,
    write_atomic,
    write_tensors,
)

from ._overlays import overlays_problem
from ._scatter import scatter_problem

SCHEMA_VERSION = 1

MAX_JSON = 256 * 2**20  # bytes of a report.json
MOST_PLAYERS = 4096

SCHEMA_ID = "urn:pellucid:report-schema:1"


class SubjectCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was audited, in words and numbers.

    Args:
        model, data: what the user calls them.
        modality: what one input is.
        n_samples, n_classes: how many were audited, and into how many classes the model sorts them.
        class_names: one per class.
        input_shape: shape of one input.
        parameters: number of the model's parameters.
        digests: SHA-256 of the model's tensors and of the data, to tell audits of the same things.
        notes: what the reader must know about the data or the model.
    """

    model: str
    data: str
    modality: str
    n_samples: int
    n_classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    parameters: int
    digests: dict[str, str] = {}
    notes: tuple[str, ...] = ()


class Planned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of the plan, in model evaluations and bytes; the plan knows no seconds, so that it is reproducible."""

    probe: str
    question: str
    least: int
    wanted: int
    granted: int
    memory: int = 0
    remark: str = ""
    skip: str = ""


class Skipped(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question that was not asked, and why."""

    probe: str
    question: str
    reason: str


class Failed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question whose probe broke, and the error."""

    probe: str
    question: str
    error: str


def _report_panel(report: Report) -> Panel:
    from ._panels import of_report

    return of_report(report)


@showing(_report_panel)
class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="audit"):
    """What an audit found.

    Args:
        schema_version: version of this layout.
        pellucid_version: version of the library that made it.
        subject: what was audited.
        settings: every setting of the audit that changes its result.
        plan: what was planned, probe by probe.
        findings: the answers.
        skipped, failed: questions without an answer, with the reason.
        complete: False when the audit was interrupted.
        command: the command that makes the same report again.
    """

    schema_version: int = SCHEMA_VERSION
    pellucid_version: str
    subject: SubjectCard
    settings: dict[str, str | int | float | bool | None] = {}
    plan: tuple[Planned, ...] = ()
    findings: tuple[Finding, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    failed: tuple[Failed, ...] = ()
    complete: bool = True
    command: str = ""

    def save(self, folder: str | Path) -> Path:
        """Write `report.json`, `arrays.safetensors` and `index.html` into `folder`; return the page's path.

        Args:
            folder: made if it does not exist.

        Raises:
            ValueError: the report is not sound, such as a line with more x than y.
            RunError: `folder` is a file, or holds something else.
        """
        return _save(self, Path(folder))

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report from its folder, or from its `report.json`.

        Raises:
            RunError: there is none, it is broken, or another version wrote it.
        """
        return _load(Path(path), cls)


class Difference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number before and after, with a paired test where both audits used the same samples.

    Args:
        probe, name, label: of the measure; `name` is the key that both audits share.
        before, after: the two measures.
        difference, low, high: after minus before with its 95 % interval, in the measures' unit.
        p_value: of the paired test; None where there is none.
        n: number of paired samples.
        test: name of the test; empty where there is none.
        verdict: "changed" is for measures of which neither direction is better, "not tested" for those without an
            interval and without values per sample.
    """

    probe: str
    name: str
    label: str
    before: Measure
    after: Measure
    difference: Number
    low: Number = None
    high: Number = None
    p_value: Number = None
    n: int = 0
    test: str = ""
    verdict: Literal["better", "worse", "no clear difference", "changed", "not tested"]


def _comparison_panel(comparison: Comparison) -> Panel:
    from ._panels import of_comparison

    return of_comparison(comparison)


@showing(_comparison_panel)
class Comparison(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="comparison"
):
    """Two audits side by side.

    Args:
        schema_version: version of this layout.
        before, after: the two audits.
        differences: number by number.
        exhibits: curves of both in one picture, and the like.
        answer: what changed, in plain sentences.
        cautions: what limits the comparison, one sentence each.
        command: the command that makes the same comparison again.
    """

    schema_version: int = SCHEMA_VERSION
    before: Report
    after: Report
    differences: tuple[Difference, ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    answer: str
    cautions: tuple[str, ...] = ()
    command: str = ""

    def save(self, folder: str | Path) -> Path:
        """Write `report.json`, `arrays.safetensors` and `index.html` into `folder`; return the page's path.

        Raises:
            ValueError: the comparison is not sound.
            RunError: `folder` is a file, or holds something else.
        """
        return _save(self, Path(folder))

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read a comparison from its folder, or from its `report.json`.

        Raises:
            RunError: there is none, it is broken, or another version wrote it.
        """
        return _load(Path(path), cls)


AnyReport = TypeVar("AnyReport", Report, Comparison)


def load(path: str | Path) -> Report | Comparison:
    """Read whatever report lies at `path`: an audit's or a comparison's.

    Raises:
        RunError: there is none, it is broken, or another version wrote it.
    """
    path = _json_path(Path(path))
    return _decode(path, Comparison) if _header(path).kind == "comparison" else _decode(path, Report)


def encode(report: Report | Comparison) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return the JSON of a report and the arrays it names; the same report gives the same bytes."""
    arrays: dict[str, np.ndarray] = {}

    def hook(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"cannot write {type(value).__name__} into a report")
        name = array_name(value)
        arrays[name] = np.ascontiguousarray(value)
        return {"array": name}

    # Read back once: wrong types are found before they are written, and 0 becomes 0.0 where a float belongs.
    data = msgspec.json.encode(report, enc_hook=hook)
    try:
        report = msgspec.json.decode(data, type=type(report), dec_hook=lambda _, value: arrays[value["array"]])
    except msgspec.ValidationError as error:
        raise ValueError(f"the report does not fit its own schema: {error}") from None
    data = msgspec.json.encode(report, enc_hook=hook, order="deterministic")
    return msgspec.json.format(data, indent=1) + b"\n", arrays


def array_name(pixels: np.ndarray) -> str:
    """Return the name under which pixels are stored: a hash of their shape and bytes."""
    digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes())
    return f"pixels-{digest.hexdigest()[:20]}"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of `report.json`."""

    def hook(kind: type) -> dict[str, Any]:
        assert kind is np.ndarray, kind  # the only type of ours that msgspec does not know
        return {
            "type": "object",
            "description": "A uint8 tensor (H, W) or (H, W, 3) of that name in arrays.safetensors.",
            "properties": {"array": {"type": "string"}},
            "required": ["array"],
            "additionalProperties": False,
        }

    schema = msgspec.json.schema(Report | Comparison, schema_hook=hook)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": f"Pellucid report, schema version {SCHEMA_VERSION}",
        **schema,
    }


def check(report: Report | Comparison) -> None:
    """Raise ValueError at the first thing that types alone cannot rule out, such as lines of unequal length."""
    if isinstance(report, Comparison):
        check(report.before)
        check(report.after)
    else:
        names = [finding.name for finding in report.findings]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two findings are named {name!r}; names must be unique")
    for where, exhibit in exhibits(report):
        problem = _problem(exhibit)
        if problem:
            raise ValueError(f"{where}, exhibit {exhibit.title!r}: {problem}")


def exhibits(report: Report | Comparison) -> Iterator[tuple[str, Exhibit]]:
    """Yield the exhibits of a report itself with the place each belongs to."""
    if isinstance(report, Comparison):
        yield from (("comparison", exhibit) for exhibit in report.exhibits)
    else:
        yield from ((f"finding {f.name!r}", exhibit) for f in report.findings for exhibit in f.exhibits)


def _problem(exhibit: Exhibit) -> str:
    if isinstance(exhibit, Curve):
        return _curve_problem(exhibit)
    if isinstance(exhibit, Table):
        if any(len(row) != len(exhibit.columns) for row in exhibit.rows):
            return f"every row must have {len(exhibit.columns)} cells, one per column"
        if exhibit.units and len(exhibit.units) != len(exhibit.columns):
            return f"there must be {len(exhibit.columns)} units, one per column, or none"
        return ""
    if isinstance(exhibit, Heatmap):
        widths = {len(row) for row in exhibit.values}
        if len(exhibit.values) != len(exhibit.rows) or (widths and widths != {len(exhibit.columns)}):
            return f"values must be {len(exhibit.rows)} x {len(exhibit.columns)}, one per row and column"
        return ""
    if isinstance(exhibit, Gallery):
        return next(filter(None, map(_picture_problem, exhibit.pictures)), "")
    if isinstance(exhibit, Overlays):
        return overlays_problem(exhibit)
    return scatter_problem(exhibit) if isinstance(exhibit, Scatter) else graph_problem(exhibit)


def graph_problem(graph: Graph) -> str:
    """Return the first thing that keeps a graph from being drawn; empty if nothing."""
    layers = {node.id: node.layer for node in graph.nodes}
    if len(layers) != len(graph.nodes):
        return "two nodes have the same id"
    for node in graph.nodes:
        if not 0 <= node.layer < len(graph.layers):
            return f"node {node.id!r} is in layer {node.layer}; there are {len(graph.layers)}"
        if any(not 0 <= player < MOST_PLAYERS for player in node.players):
            return f"node {node.id!r} stands for a player that is not between 0 and {MOST_PLAYERS - 1}"
    for edge in graph.edges:
        if edge.source not in layers or edge.target not in layers:
            return f"the edge from {edge.source!r} to {edge.target!r} has no node at one of its ends"
        if layers[edge.source] >= layers[edge.target]:
            return f"the edge from {edge.source!r} to {edge.target!r} does not lead to a lower layer"
    if graph.word_owners and len(graph.word_owners) != len(graph.words):
        return f"there are {len(graph.words)} words but {len(graph.word_owners)} owners of words"
    return "" if graph.picture is None else _picture_problem(graph.picture)


def _curve_problem(curve: Curve) -> str:
    for line in curve.lines:
        if not curve.bars and len(line.x) != len(line.y):
            return f"line {line.name!r} has {len(line.x)} x but {len(line.y)} y"
        if len(line.low) not in (0, len(line.y)) or len(line.high) != len(line.low):
            return f"line {line.name!r} must have {len(line.y)} low and high ends, or none"
        if curve.bars and len(line.y) != len(curve.categories):
            return f"line {line.name!r} must have {len(curve.categories)} values, one per category"
    return ""


def _picture_problem(picture: Picture) -> str:
    pixels = picture.pixels
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.shape[2:] not in ((), (3,)):
        return f"picture {picture.title!r} must be uint8 (H, W) or (H, W, 3), got {pixels.dtype} {tuple(pixels.shape)}"
    if any(not math.isfinite(end) for arrow in picture.arrows for end in arrow):
        return f"picture {picture.title!r} has an arrow that is not finite"
    if picture.owners is not None:
        return _owners_problem(picture, picture.owners)
    if picture.grid is None:
        return f"picture {picture.title!r} marks cells but has no grid" if picture.marks else ""
    rows, columns = picture.grid
    if not (0 < rows <= 1024 and 0 < columns <= 1024):
        return f"picture {picture.title!r} has a grid of {rows} x {columns}"
    if _outside(picture, rows * columns):
        return f"picture {picture.title!r} marks a cell outside its {rows} x {columns} grid"
    return ""


def _owners_problem(picture: Picture, owners: np.ndarray) -> str:
    if picture.grid is not None:
        return f"picture {picture.title!r} has both a grid and owners of pixels"
    if owners.dtype != np.uint8 or owners.ndim != 2 or 0 in owners.shape:
        return f"owners of {picture.title!r} must be uint8 (H, W), got {owners.dtype} {tuple(owners.shape)}"
    if _outside(picture, NOBODY):
        return f"picture {picture.title!r} marks a player that is not between 0 and {NOBODY - 1}"
    return ""


def _outside(picture: Picture, players: int) -> bool:
    return any(not 0 <= cell < players for mark in picture.marks for cell in mark.cells)


def _save(report: Report | Comparison, folder: Path) -> Path:
    from ._html import write_html

    check(report)
    data, arrays = encode(report)
    _make(folder)
    page = write_html(report)
    # Whenever this is killed, report.json finds the arrays it names: those of the report before stay until it is
    # replaced. The page comes last: it can always be drawn again.
    path, tensors = folder / "arrays.safetensors", {name: torch.from_numpy(array) for name, array in arrays.items()}
    before = _arrays_before(path)
    write_tensors(path, {**before, **tensors})
    write_atomic(folder / "report.json", data)
    if not before.keys() <= tensors.keys():
        write_tensors(path, tensors)
    write_atomic(folder / "index.html", page)
    return folder / "index.html"


def _arrays_before(path: Path) -> dict[str, torch.Tensor]:
    """Return the arrays of the report that a new one will replace; none where they are absent or damaged anyway."""
    try:
        return read_tensors(path)
    except DataError:
        return {}


def _make(folder: Path) -> None:
    """Make the folder of a report, or raise when it is something else."""
    if not folder.is_dir():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RunError(f"{folder} is a file or lies in one, not a folder; choose another folder") from None
        return
    old = folder / "report.json"
    if old.is_file():
        if not _is_ours(old):
            raise RunError(f"{old} is not a Pellucid report and is not written over; choose another folder")
    elif not (folder / "manifest.json").is_file() and not _is_begun(folder):
        raise RunError(f"{folder} is not empty and holds no report; choose a new or an empty folder")


def _is_begun(folder: Path) -> bool:
    """Whether a folder holds nothing but what a killed process wrote of a report."""
    return all(path.name == "arrays.safetensors" or is_leftover(path) for path in folder.iterdir())


def _is_ours(path: Path) -> bool:
    """Whether any version of Pellucid wrote this `report.json`."""
    try:
        return msgspec.json.decode(read_text(path, max_bytes=MAX_JSON), type=_Header).kind in ("audit", "comparison")
    except (msgspec.DecodeError, RecursionError, DataError):
        return False


class _Header(msgspec.Struct):
    kind: str
    schema_version: int


def _json_path(path: Path) -> Path:
    inside = path / "report.json" if path.is_dir() else path
    if not inside.is_file():
        raise RunError(f"{path} holds no report.json; give the folder of an audit or a comparison")
    return inside


def _header(path: Path) -> _Header:
    try:
        header = msgspec.json.decode(read_text(path, max_bytes=MAX_JSON), type=_Header)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RunError(f"{path} is not a Pellucid report: {error}") from None
    if header.schema_version != SCHEMA_VERSION:
        raise RunError(
            f"{path} has report schema {header.schema_version}, this version of Pellucid reads schema "
            f"{SCHEMA_VERSION}; run the audit again or use the version that wrote it"
        )
    if header.kind not in ("audit", "comparison"):
        raise RunError(f"{path} holds a report of kind {header.kind!r}; known kinds are audit and comparison")
    return header


def _load(path: Path, kind: type[AnyReport]) -> AnyReport:
    path = _json_path(path)
    found, wanted = _header(path).kind, "comparison" if kind is Comparison else "audit"
    if found != wanted:
        raise RunError(f"{path} holds a report of kind {found!r}, not of kind {wanted!r}")
    return _decode(path, kind)


def _decode(path: Path, kind: type[AnyReport]) -> AnyReport:
    pixels = _pixels(path.with_name("arrays.safetensors"))

    def hook(wanted: type, value: Any) -> Any:
        name = value.get("array") if isinstance(value, dict) else None
        if wanted is not np.ndarray or not isinstance(name, str) or name not in pixels:
            raise ValueError(f"arrays.safetensors beside it has no tensor {name!r}")
        return pixels[name]

    try:
        report = msgspec.json.decode(read_text(path, max_bytes=MAX_JSON), type=kind, dec_hook=hook)
        check(report)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is not a sound report: {error}") from None
    return report


def _pixels(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    tensors = read_tensors(path)
    for name, tensor in tensors.items():
        if tensor.dtype != torch.uint8:
            raise DataError(f"{path} holds {name!r} of type {tensor.dtype}; pictures are uint8")
    return {name: tensor.numpy() for name, tensor in tensors.items()}
