"""Files from strangers: every hostile or damaged one ends in one sentence that names it, and no code of theirs runs."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from pellucid.core import (
    DataError,
    decode_image,
    path_kind,
    read_arrays,
    read_image,
    read_json,
    read_tensors,
    read_text,
    read_toml,
    sniff,
    write_atomic,
    write_json,
    write_tensors,
)


class Bomb:
    """Runs code when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def weights(tmp_path, rng):
    tensors = {"a": rng.normal((3, 4)), "b.c": rng.integers(9, (5,)), "none": torch.zeros(0, 2), "one": torch.ones(())}
    path = tmp_path / "weights.safetensors"
    write_tensors(path, tensors, {"made": "by a test"})
    return path, tensors


def safetensors_bytes(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start: int, stop: int, shape: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


# -- formats ------------------------------------------------------------------------------------------------------


def test_formats_are_told_by_content_whatever_the_name(tmp_path, weights):
    made = {}

    def file(kind: str, data: bytes) -> Path:
        made[kind] = tmp_path / f"{kind}.png"
        made[kind].write_bytes(data)
        return made[kind]

    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(2))
    file("npz", buffer.getvalue())
    np.save(buffer := io.BytesIO(), np.ones(2))
    file("npy", buffer.getvalue())
    torch.save({"w": torch.ones(2)}, buffer := io.BytesIO())
    file("torch-zip", buffer.getvalue())
    file("pickle", pickle.dumps({"w": 1}))
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("readme.txt", "hello")
    file("zip", buffer.getvalue())
    for kind in ("png", "jpeg"):
        Image.new("L", (4, 4)).save(buffer := io.BytesIO(), kind)
        file(kind, buffer.getvalue())
    file("gzip", b"\x1f\x8b\x08rest")
    file("json", b' {"a": 1}')
    file("text", ("é" * 400).encode())
    file("unknown", b"\x00\x01\x02")
    file("safetensors", weights[0].read_bytes())
    assert {kind: sniff(path) for kind, path in made.items()} == {kind: kind for kind in made}


def test_old_torch_files_are_pickles(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert sniff(path) == "pickle"


@given(st.binary(max_size=600))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_bytes_have_a_format_and_readers_refuse_them(tmp_path, data):
    path = tmp_path / "any"
    path.write_bytes(data)
    sniff(path)
    for read in (read_tensors, read_arrays, read_image):
        with pytest.raises(DataError, match="any"):
            read(path)


@pytest.mark.parametrize("read", [sniff, read_tensors, read_arrays, read_image, read_text, read_json])
def test_what_is_no_file_is_refused_in_one_line(read, tmp_path):
    with pytest.raises(DataError, match=r"absent does not exist"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match="is a folder, not a file"):
        read(tmp_path)
    with pytest.raises(DataError, match="is not a regular file"):
        read("/dev/zero")


# -- tensors ------------------------------------------------------------------------------------------------------


def test_tensors_survive_a_round_trip(weights):
    path, tensors = weights
    found = read_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_close(found[name], tensor)


def test_written_tensors_are_the_same_bytes_every_time(tmp_path, rng):
    tensors = {str(i): rng.child(i).normal((3,)) for i in range(20)}
    for name in "ab":
        write_tensors(tmp_path / name, tensors, {"step": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tensors_that_share_storage_can_be_written(tmp_path):
    tied = torch.arange(6.0)
    write_tensors(tmp_path / "w", {"a": tied, "b": tied, "rows": tied.reshape(2, 3).T})
    found = read_tensors(tmp_path / "w")
    assert_close(found["b"], tied)
    assert_close(found["rows"], tied.reshape(2, 3).T)


@pytest.mark.parametrize("kind", ["pickle", "torch-zip", "old torch"])
def test_a_pickle_is_refused_and_its_code_does_not_run(tmp_path, kind):
    mark, path = tmp_path / "code-ran", tmp_path / "model.safetensors"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save(Bomb(mark), path, _use_new_zipfile_serialization=kind == "torch-zip")
    for read in (read_tensors, read_arrays):
        with pytest.raises(DataError, match=r"model\.safetensors is a pickle, which can run code when opened"):
            read(path)
    with pytest.raises(DataError):
        read_image(path)
    assert not mark.exists()
    with path.open("rb") as file:  # the bomb is live: opened carelessly, its code does run
        if kind == "pickle":
            pickle.load(file)
            assert mark.exists()


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 60, -1])
def test_a_truncated_file_is_refused(weights, cut):
    path, _ = weights
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        read_tensors(path)


def test_a_cut_tail_says_how_much_is_missing(weights):
    path, _ = weights
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"is truncated: it holds 82 of 92 bytes of tensors; copy it again"):
        read_tensors(path)


HOSTILE = {
    "header beyond the file": (safetensors_bytes({}, length=2**62), "header does not fit"),
    "header of 99 MB": (safetensors_bytes({}, length=99 * 2**20), "header does not fit"),
    "no JSON": (safetensors_bytes(b"{not json"), "damaged safetensors header"),
    "a list": (safetensors_bytes(b"[1, 2]"), "damaged safetensors header|is no safetensors"),
    "deep nesting": (safetensors_bytes(b'{"a":' + b"[" * 200_000), "damaged safetensors header"),
    "wrong fields": (safetensors_bytes({"a": {"dtype": 3}}), "damaged safetensors header"),
    "overlap": (safetensors_bytes({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, b"\0" * 12), "overlaps another"),
    "a gap": (safetensors_bytes({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, b"\0" * 12), "leaves a gap"),
    "negative offset": (safetensors_bytes({"a": entry(-4, 0, [1])}, b"\0" * 4), "overlaps another|leaves a gap"),
    "backward": (safetensors_bytes({"a": entry(4, 0, [1])}, b"\0" * 4), "shape that does not fit"),
    "negative shape": (safetensors_bytes({"a": entry(0, 4, [-1, -1])}, b"\0" * 4), "shape that does not fit"),
    "huge shape": (safetensors_bytes({"a": entry(0, 4, [2**40, 2**40])}, b"\0" * 4), "shape that does not fit"),
    "wrapping shape": (safetensors_bytes({"a": entry(0, 4, [2**63, 2, 1])}, b"\0" * 4), "shape that does not fit"),
    "beyond the file": (safetensors_bytes({"a": entry(0, 4000, [1000])}, b"\0" * 4), "it holds 4 of 4,000 bytes"),
    "unowned bytes": (safetensors_bytes({"a": entry(0, 4, [1])}, b"\0" * 9), "5 bytes that belong to no tensor"),
    "unknown type": (safetensors_bytes({"a": entry(0, 4, [1], "F33")}, b"\0" * 4), "unknown type 'F33'"),
    "empty": (b"", "is empty"),
    "an image": (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "no safetensors file but a png file"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, case):
    data, message = HOSTILE[case]
    path = tmp_path / "evil.safetensors"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_tensors(path)
    assert "evil.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
def test_any_changed_byte_gives_tensors_or_a_data_error(tmp_path, position, value):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"a": torch.zeros(3, 4), "b": torch.ones(5)})
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(data)
    with suppress(DataError):  # any other error fails the test
        read_tensors(path)


def test_a_file_over_the_cap_is_refused(weights):
    with pytest.raises(DataError, match="more than the 100 allowed"):
        read_tensors(weights[0], max_bytes=100)


# -- arrays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_survive_a_round_trip(tmp_path, save):
    arrays = {
        "x": np.arange(12.0).reshape(3, 4),
        "y": np.array([1, 2]),
        "text": np.array(["a", "bc"]),
        "s": np.array(3),
    }
    save(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_object_arrays_are_refused_and_their_code_does_not_run(tmp_path):
    mark, path = tmp_path / "code-ran", tmp_path / "a.npz"
    np.savez(path, x=np.ones(2), evil=np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"array 'evil\.npy' holds Python objects"):
        read_arrays(path)
    assert not mark.exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy(np.zeros(20_000_000, dtype=np.uint8)))
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match=r"bomb\.npz unpacks to 20,000,128 bytes, more than the 1,000,000 allowed"):
        read_arrays(path, max_bytes=1_000_000)


def _npy(array: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


def _npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def test_a_shape_larger_than_its_member_is_refused(tmp_path):
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000,), }"
    head += b" " * (118 - len(head) - 1) + b"\n"
    path = _npz(tmp_path / "a.npz", x=b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    with pytest.raises(DataError, match="has a shape that does not fit its 128 bytes"):
        read_arrays(path)


@pytest.mark.parametrize(
    "data", [b"", b"\x93NUMPY", b"\x93NUMPY\x09\x00" + b"\0" * 90, b"hello world", _npy(np.ones(9))[:-8]]
)
def test_a_damaged_array_is_refused(tmp_path, data):
    with pytest.raises(DataError, match=r"a\.npz is a damaged npz file"):
        read_arrays(_npz(tmp_path / "a.npz", x=data))


def test_a_truncated_or_flipped_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(1000))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match="truncated or damaged npz"):
        read_arrays(path)
    path.write_bytes(whole[:150] + bytes(byte ^ 255 for byte in whole[150:160]) + whole[160:])
    with pytest.raises(DataError, match="damaged npz"):
        read_arrays(path)


def test_repeated_names_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", _npy(np.ones(1)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", _npy(np.zeros(1)))
    with pytest.raises(DataError, match="repeated names"):
        read_arrays(tmp_path / "a.npz")


def test_other_formats_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(2))
    with pytest.raises(DataError, match=r"no npz file but a npy file; save arrays with np\.savez"):
        read_arrays(tmp_path / "a.npy")


# -- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("L", (5, 4)), ("1", (5, 4)), ("LA", (5, 4)), ("RGB", (5, 4, 3)), ("RGBA", (5, 4, 3)), ("P", (5, 4, 3)),
     ("I;16", (5, 4))],
)  # fmt: skip
def test_images_come_as_gray_or_rgb_bytes(tmp_path, mode, shape):
    Image.new(mode, (4, 5)).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert found.dtype == np.uint8
    assert found.shape == shape


def test_pixels_keep_their_values(tmp_path):
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
    deep = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), [[0, 0, 1, 255]])


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "tiff", "webp"])
def test_a_truncated_image_is_named(tmp_path, rng, kind):
    pixels = rng.integers(256, (64, 64, 3)).to(torch.uint8).numpy()
    path = tmp_path / f"broken.{kind}"
    Image.fromarray(pixels).save(path, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"broken.{kind} is"):
        read_image(path)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (2000, 1000)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"has 2000 x 1000 pixels, more than the 1,000,000 allowed"):
        read_image(tmp_path / "a.png", max_pixels=1_000_000)


def test_a_decompression_bomb_is_refused(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(DataError, match="64,000,000"):
        read_image(tmp_path / "a.png")


def test_formats_that_start_other_programs_are_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(DataError, match="is no image that can be read"):
        read_image(tmp_path / "a.png")


def test_floating_point_images_are_refused(tmp_path):
    Image.new("F", (2, 2)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match="floating point pixels"):
        read_image(tmp_path / "a.tiff")
    Image.fromarray(np.array([[-1]], dtype=np.int32)).save(tmp_path / "b.tiff")
    with pytest.raises(DataError, match="outside 16 bits"):
        read_image(tmp_path / "b.tiff")


# -- text and JSON ------------------------------------------------------------------------------------------------


def test_text_is_capped_and_must_be_utf8(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "héllo")
    assert read_text(path) == "héllo"
    with pytest.raises(DataError, match="has 6 bytes, more than the 3 allowed"):
        read_text(path, max_bytes=3)
    path.write_bytes(b"ab\xff")
    with pytest.raises(DataError, match=r"is not UTF-8 text \(byte 2\)"):
        read_text(path)


def test_json_is_stable_readable_and_has_no_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": float("nan"), "a": [1, float("inf")]})
    assert path.read_text() == '{\n  "a": [\n    1,\n    null\n  ],\n  "b": null\n}\n'
    assert read_json(path) == {"a": [1, None], "b": None}


def test_json_of_another_shape_is_refused(tmp_path):
    class Point(msgspec.Struct, forbid_unknown_fields=True):
        x: int

    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    assert read_json(path, Point) == Point(1)
    path.write_text('{"x": "one"}')
    with pytest.raises(DataError, match=r"a\.json is not the JSON it should be: Expected `int`, got `str`"):
        read_json(path, Point)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"a\.json is not the JSON"):
        read_json(path)


# -- atomic writing -----------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, {"a": torch.ones(1)})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    write_atomic(tmp_path / "a", b"bytes")
    (tmp_path / "b").write_bytes(b"bytes")
    write_tensors(tmp_path / "c", {"x": torch.zeros(2)})
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode == (tmp_path / "c").stat().st_mode


def test_writing_into_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "a", "text")


# -- TOML and paths -----------------------------------------------------------------------------------------------


def test_toml_is_read_whole(tmp_path):
    path = tmp_path / "a.toml"
    text = 'x = "a.b.c = d"\n[deep.er]\ny = [[0.1, 0.2], [0.3, 0.4]]\nz = {a.b = 1}\n'
    path.write_text(text, encoding="utf-8")
    assert read_toml(path) == {"x": "a.b.c = d", "deep": {"er": {"y": [[0.1, 0.2], [0.3, 0.4]], "z": {"a": {"b": 1}}}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 500_000, "nested more than 32 deep"),
        ("a" + ".a" * 50_000 + " = 1", "nested more than 32 deep"),
        ("[a" + ".a" * 50_000 + "]", "nested more than 32 deep"),
        ("x = {a" + ".a" * 50_000 + " = 1}", "nested more than 32 deep"),
        ("x = " + "[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("x = " + "9" * 9000, "is not TOML"),
        ("x", "is not TOML"),
        ("#" * (2**20 + 1), "more than the 1,048,576 allowed"),
    ],
    ids=["lists", "keys", "header", "inline", "a-bit-deep", "digits", "syntax", "size"],
)
def test_hostile_toml_is_refused_at_once(tmp_path, text, message):
    path = tmp_path / "a.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_toml(path)


def test_the_kind_of_a_path_is_told_without_an_error(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert path_kind(tmp_path) == "folder"
    assert path_kind(tmp_path / "file") == "file"
    assert path_kind("/dev/null") == "other"
    for absent in (tmp_path / "no", tmp_path / "loop", "x" * 5000, "a\0b"):
        assert path_kind(absent) is None


def test_a_zip_with_an_endless_table_of_contents_is_refused(tmp_path):
    path = tmp_path / "many.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(30):
            archive.writestr(f"{k}" * 30_000, b"")
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    many = content[start:end] * 6
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 180, 180, len(many), start, 0)
    path.write_bytes(content[:start] + many + record)
    with pytest.raises(DataError, match="lists more than 10,000 members"):
        sniff(path)
    large = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 180, 180, len(many), start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(many), 1)
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(content[:start] + many + large + locator + record)
    with pytest.raises(DataError, match="lists more than 10,000 members"):
        sniff(path)


def test_what_was_packed_to_do_harm_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(70 * 2**20, np.uint8))
    with pytest.raises(DataError, match=r"unpacks from .* as no sound file does"):
        read_arrays(tmp_path / "zeros.npz")
    Image.new("1", (5000, 5000)).save(tmp_path / "blank.png")
    with pytest.raises(DataError, match=r"5000 x 5000 pixels in .* as no sound image does"):
        read_image(tmp_path / "blank.png")


def test_images_in_memory_are_read_like_files(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(path)
    assert np.array_equal(decode_image(path.read_bytes(), name="row 7"), read_image(path))
    with pytest.raises(DataError, match="row 7 has 4 x 3 pixels, more than the 11 allowed"):
        decode_image(path.read_bytes(), name="row 7", max_pixels=11)
    with pytest.raises(DataError, match="row 7 is no image"):
        decode_image(b"no image", name="row 7")
