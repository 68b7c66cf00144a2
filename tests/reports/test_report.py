from __future__ import annotations

import json
import struct
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from pellucid.core import Axis, Curve, DataError, Finding, Gallery, Graph, Heatmap, Line, Mark, Picture, RunError, Table
from pellucid.reports import SCHEMA_VERSION, Comparison, Report, json_schema, load

FILES = ("arrays.safetensors", "index.html", "report.json")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_saving_and_loading_changes_nothing(samples: ModuleType, tmp_path: Path) -> None:
    page = samples.report().save(tmp_path / "new" / "first")
    assert page == tmp_path / "new" / "first" / "index.html"
    again = Report.load(page.parent)
    again.save(tmp_path / "second")
    assert contents(page.parent) == contents(tmp_path / "second")
    assert tuple(contents(page.parent)) == FILES


def test_a_loaded_report_equals_the_saved_one(samples: ModuleType, tmp_path: Path) -> None:
    report = samples.report()
    report.save(tmp_path)
    again = Report.load(tmp_path / "report.json")
    assert again.subject == report.subject
    assert [f.measure for f in again.findings] == [f.measure for f in report.findings]
    assert again.findings[1] == report.findings[1]
    first, second = report.findings[4].exhibits[0].pictures[2], again.findings[4].exhibits[0].pictures[2]
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert (first.grid, first.marks) == (second.grid, second.marks)


def test_the_same_report_gives_the_same_files(samples: ModuleType, tmp_path: Path) -> None:
    samples.report().save(tmp_path / "a")
    samples.report().save(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_saving_twice_into_one_folder_replaces_and_leaves_nothing_behind(samples: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    samples.report(complete=False).save(tmp_path)
    samples.report().save(tmp_path)
    assert tuple(contents(tmp_path)) == ("arrays.safetensors", "index.html", "manifest.json", "report.json")
    assert Report.load(tmp_path).complete


@pytest.mark.parametrize("where", ["file", "file/below", "foreign", "other"])
def test_what_belongs_to_others_is_not_written_over(samples: ModuleType, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for name, text in (("foreign/notes.txt", "mine"), ("other/report.json", '{"my": "report"}')):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="choose a") as caught:
        samples.report().save(tmp_path / where)
    assert len(str(caught.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_report_of_an_older_version_is_written_over(samples: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"kind": "audit", "schema_version": 0}', encoding="utf-8")
    with pytest.raises(RunError, match="has report schema 0"):
        Report.load(tmp_path)
    samples.report().save(tmp_path)
    assert Report.load(tmp_path).complete


def test_a_comparison_is_saved_and_loaded_likewise(samples: ModuleType, tmp_path: Path) -> None:
    comparison = samples.comparison()
    comparison.save(tmp_path / "a")
    again = Comparison.load(tmp_path / "a")
    assert again.differences == comparison.differences
    again.save(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_load_finds_out_what_it_is(samples: ModuleType, tmp_path: Path) -> None:
    samples.report().save(tmp_path / "audit")
    samples.comparison().save(tmp_path / "compare")
    assert isinstance(load(tmp_path / "audit"), Report)
    assert isinstance(load(tmp_path / "compare"), Comparison)
    with pytest.raises(RunError, match="kind 'comparison', not of kind 'audit'"):
        Report.load(tmp_path / "compare")
    with pytest.raises(RunError, match="kind 'audit', not of kind 'comparison'"):
        Comparison.load(tmp_path / "audit")


def test_not_a_number_becomes_null(samples: ModuleType, tmp_path: Path) -> None:
    report = samples.report()
    measure = msgspec.structs.replace(report.findings[0].measure, value=float("nan"), low=float("-inf"))
    finding = msgspec.structs.replace(report.findings[0], measure=measure)
    msgspec.structs.replace(report, findings=(finding,)).save(tmp_path)
    text = (tmp_path / "report.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert Report.load(tmp_path).findings[0].measure.value is None


def test_the_same_pixels_are_stored_once(samples: ModuleType, tmp_path: Path) -> None:
    picture = Picture(pixels=samples.garment(1), title="one")
    gallery = Gallery(title="twice", pictures=(picture, picture))
    report = samples.report()
    finding = msgspec.structs.replace(report.findings[0], exhibits=(gallery,))
    msgspec.structs.replace(report, findings=(finding,)).save(tmp_path)
    assert len(safetensors.numpy.load_file(tmp_path / "arrays.safetensors")) == 1


# -- reports that are not sound are not written --------------------------------------------------------------------

GRAY = np.zeros((4, 4), dtype=np.uint8)
UNSOUND = {
    "2 x but 1 y": Curve(
        title="c", x=Axis("x"), y=Axis("y"), lines=(Line(name="l", x=(0.0, 1.0), y=(0.0,)),)
    ),
    "low and high ends": Curve(
        title="c", x=Axis("x"), y=Axis("y"), lines=(Line(name="l", x=(0.0,), y=(0.0,), low=(0.0,)),)
    ),
    "one per category": Curve(
        title="c", x=Axis("x"), y=Axis("y"), bars=True, categories=("a", "b"), lines=(Line(name="l", x=(), y=(1.0,)),)
    ),
    "every row must have 2 cells": Table(title="t", columns=("a", "b"), rows=((1,),)),
    "there must be 2 units": Table(title="t", columns=("a", "b"), rows=(), units=("%",)),
    "values must be 1 x 2": Heatmap(title="h", rows=("a",), columns=("b", "c"), values=((1.0,),)),
    "uint8": Gallery(title="g", pictures=(Picture(pixels=GRAY.astype(np.float32), title="p"),)),
    r"\(H, W\) or": Gallery(title="g", pictures=(Picture(pixels=np.zeros((2, 2, 4), np.uint8), title="p"),)),
    "has no grid": Gallery(
        title="g", pictures=(Picture(pixels=GRAY, title="p", marks=(Mark(cells=(0,), weight=1.0),)),)
    ),
    "grid of 0 x 2": Gallery(title="g", pictures=(Picture(pixels=GRAY, title="p", grid=(0, 2)),)),
    "outside its 2 x 2 grid": Gallery(
        title="g", pictures=(Picture(pixels=GRAY, title="p", grid=(2, 2), marks=(Mark(cells=(4,), weight=1.0),)),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", UNSOUND)
def test_an_exhibit_that_does_not_fit_is_named(samples: ModuleType, tmp_path: Path, message: str) -> None:
    report = samples.report()
    finding = msgspec.structs.replace(report.findings[0], exhibits=(UNSOUND[message],))
    with pytest.raises(ValueError, match=f"finding 'accuracy', exhibit '.': .*{message}"):
        msgspec.structs.replace(report, findings=(finding,)).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_type_is_not_written(samples: ModuleType, tmp_path: Path) -> None:
    wrong = msgspec.structs.replace(samples.report(), settings={"seed": [0]})
    with pytest.raises(ValueError, match=r"does not fit its own schema: .*settings"):
        wrong.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_finding_names_are_unique(samples: ModuleType, tmp_path: Path) -> None:
    report = samples.report()
    twice = msgspec.structs.replace(report, findings=report.findings[:1] * 2)
    with pytest.raises(ValueError, match="two findings are named 'accuracy'"):
        twice.save(tmp_path)


def test_a_comparison_checks_both_of_its_reports(samples: ModuleType, tmp_path: Path) -> None:
    report = samples.report()
    twice = msgspec.structs.replace(report, findings=report.findings[:1] * 2)
    with pytest.raises(ValueError, match="two findings"):
        Comparison(before=report, after=twice, answer="None.").save(tmp_path)


# -- files that are broken, hostile or of another version ----------------------------------------------------------


@pytest.fixture
def saved(samples: ModuleType, tmp_path: Path) -> Path:
    samples.report().save(tmp_path)
    return tmp_path


def edited(folder: Path, **changes: object) -> Path:
    data = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(data | changes))
    return folder


def test_a_folder_without_a_report(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match=r"holds no report\.json; give the folder"):
            load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"kind": 3, "schema_version": 1}', '{"schema_version": 1}'])
def test_what_is_not_a_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(RunError, match="is not a Pellucid report"):
        load(tmp_path)


def test_deep_nesting_does_not_crash(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"kind": "audit", "schema_version": 1, "x": ' + "[" * 200_000)
    with pytest.raises(RunError):
        load(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="not UTF-8"):
        load(tmp_path)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_another_version_says_so(saved: Path, version: int) -> None:
    with pytest.raises(RunError, match=f"has report schema {version}, this version of Pellucid reads schema"):
        load(edited(saved, schema_version=version))


def test_another_kind_says_so(saved: Path) -> None:
    with pytest.raises(RunError, match="kind 'poem'; known kinds are audit and comparison"):
        load(edited(saved, kind="poem"))


def test_unknown_keys_are_refused(saved: Path) -> None:
    with pytest.raises(RunError, match="unknown field `surprise`"):
        load(edited(saved, surprise=1))


def test_wrong_types_are_named_with_their_place(saved: Path) -> None:
    with pytest.raises(RunError, match=r"Expected `array`.*\$\.findings"):
        load(edited(saved, findings=3))


def test_unsound_exhibits_are_refused_on_loading(saved: Path) -> None:
    data = json.loads((saved / "report.json").read_text())
    data["findings"][4]["exhibits"][0]["pictures"][0]["marks"][0]["cells"] = [99]
    (saved / "report.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match="marks a cell outside"):
        load(saved)


@pytest.mark.parametrize("value", [{"array": "nowhere"}, {"array": ["x"]}, "text", 3, None])
def test_pixels_that_are_not_there(saved: Path, value: object) -> None:
    data = json.loads((saved / "report.json").read_text())
    data["findings"][4]["exhibits"][0]["pictures"][0]["pixels"] = value
    (saved / "report.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match="not a sound report"):
        load(saved)


def test_missing_arrays_are_named(saved: Path) -> None:
    (saved / "arrays.safetensors").unlink()
    with pytest.raises(RunError, match="has no tensor 'pixels-"):
        load(saved)


def test_a_truncated_array_file_is_refused(saved: Path) -> None:
    path = saved / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"arrays\.safetensors"):
        load(saved)


def test_arrays_of_another_type_are_refused(saved: Path) -> None:
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (saved / "arrays.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(DataError, match="pictures are uint8"):
        load(saved)


def test_a_pickle_in_place_of_the_arrays_is_not_opened(saved: Path, tmp_path: Path) -> None:
    (saved / "arrays.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(DataError):
        load(saved)
    assert not (tmp_path / "owned").exists()


# -- the schema ----------------------------------------------------------------------------------------------------


def test_the_published_schema_is_the_one_of_the_types(root: Path) -> None:
    published = root / "docs" / "_published" / "reference" / f"report-schema-{SCHEMA_VERSION}.json"
    assert json.loads(published.read_text()) == json.loads(json.dumps(json_schema())), "run python docs/_generate.py"


def resolve(schema: dict[str, object], value: object, definitions: dict[str, dict[str, object]]) -> None:
    """Check what the published schema says about a value; enough of JSON Schema for the schema we publish."""
    if "$ref" in schema:
        schema = definitions[str(schema["$ref"]).rpartition("/")[2]]
    options = schema.get("anyOf")
    if isinstance(options, list):
        failures = []
        for option in options:
            try:
                return resolve(option, value, definitions)
            except AssertionError as error:
                failures.append(str(error))
        raise AssertionError("; ".join(failures))
    if "enum" in schema:
        assert value in schema["enum"], value  # type: ignore[operator]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    kind = schema.get("type")
    if kind == "null":
        assert value is None
    elif kind is not None:
        assert isinstance(value, kinds[str(kind)]), (kind, value)  # type: ignore[arg-type]
    if isinstance(value, dict) and "properties" in schema:
        properties = schema["properties"]
        assert set(value) >= set(schema.get("required", ()))  # type: ignore[call-overload]
        assert schema.get("additionalProperties") is False
        for key, item in value.items():
            resolve(properties[key], item, definitions)  # type: ignore[index]
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            resolve(schema["items"], item, definitions)  # type: ignore[arg-type]
    return None


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_what_is_saved_fits_the_schema(samples: ModuleType, tmp_path: Path, kind: str) -> None:
    getattr(samples, kind)().save(tmp_path)
    schema = json_schema()
    value = json.loads((tmp_path / "report.json").read_text())
    schema = json.loads(json.dumps(schema))
    resolve({"anyOf": schema["anyOf"]}, value, schema["$defs"])


def test_the_sample_has_every_kind_of_exhibit(samples: ModuleType) -> None:
    findings: tuple[Finding, ...] = samples.report().findings
    kinds = {type(exhibit) for finding in findings for exhibit in finding.exhibits}
    assert kinds == {Curve, Table, Heatmap, Gallery, Graph}
