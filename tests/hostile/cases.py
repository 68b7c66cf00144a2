"""The table of hostile and broken files: how each is made, and which reader gets it.

`make(folder)` writes the case into an empty folder and returns the path that the reader is given. A gadget would create
a file beside it, which the test sees. `opens` marks what only looks bad and must be read without harm.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import pickle
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from PIL import Image

Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Case:
    """One file: its name, the reader that gets it, and a word its error must hold."""

    id: str
    reader: str
    make: Make
    says: str = ""
    opens: bool = False


CASES: list[Case] = []


def case(reader: str, id: str, *, says: str = "", opens: bool = False) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        CASES.append(Case(f"{reader}-{id}", reader, make, says, opens))
        return make

    return add


def file(reader: str, id: str, name: str, content: bytes | Callable[[], bytes], **more: Any) -> None:
    """Add a case that is one file with this content."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content() if callable(content) else content)
        return path

    case(reader, id, **more)(make)


# -- building blocks ----------------------------------------------------------------------------------------------


class Gadget:
    """Runs `function(*arguments)` when unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def gadgets(folder: Path) -> dict[str, Any]:
    mark = str(folder / "executed")
    return {
        "system": Gadget(os.system, f"touch {mark}"),
        "eval": Gadget(eval, f"open({mark!r}, 'w')"),
        "exec": Gadget(exec, f"open({mark!r}, 'w')"),
        "mkdir": Gadget(os.mkdir, mark),
        "import": Gadget(__import__, "antigravity"),
        "getattr": Gadget(getattr, "", "__class__"),
        "torch": Gadget(torch.save, {}, mark),
        "hub": Gadget(torch.hub.load, str(folder), "entry", "source=local"),
    }


def saved(value: Any, **how: Any) -> bytes:
    torch.save(value, buffer := io.BytesIO(), **how)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    np.savez(buffer := io.BytesIO(), **arrays)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", method, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tensors(header: object, content: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def entry(start: int, stop: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def npy(header: str | bytes, content: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header if isinstance(header, bytes) else header.encode("latin1")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + content


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, *, depth: int = 8, color: int = 0, rows: bytes | None = None, extra: bytes = b""
) -> bytes:
    """A PNG by hand; `rows` is what its data unpack to, zeros if not given."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    line = 1 + math.ceil(width * depth * samples / 8)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    packed = zlib.compress(bytes(line * height) if rows is None else rows, 1)
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def drawn(mode: str, kind: str, size: tuple[int, int] = (8, 8), **how: Any) -> bytes:
    Image.new(mode, size).save(buffer := io.BytesIO(), kind, **how)
    return buffer.getvalue()


GOOD = drawn("L", "PNG")
NUMBERS = np.arange(16, dtype=np.float32).reshape(4, 4)
LABELS = np.array([0, 1, 0, 1])
SMALL = {"1.weight": np.zeros((4, 144), np.float32), "1.bias": np.zeros(4, np.float32)}
WEIGHTS = safetensors.numpy.save(SMALL)
STATE = {name: torch.from_numpy(array) for name, array in SMALL.items()}


def classes(folder: Path, content: bytes, name: str = "x.png") -> Path:
    """A folder of two classes whose second one holds `content` beside a good image."""
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        (folder / label / "a.png").write_bytes(GOOD)
    (folder / "dog" / name).write_bytes(content)
    return folder


def image(id: str, content: bytes | Callable[[], bytes], name: str = "x.png", **more: Any) -> None:
    """Add a case of one image in a class folder."""
    case("data", f"image-{id}", **more)(
        lambda folder: classes(folder, content() if callable(content) else content, name)
    )


def special(make: Callable[[Path], object], name: str) -> Make:
    def made(folder: Path) -> Path:
        make(folder / name)
        return folder / name

    return made


def socket_at(path: Path) -> None:
    """A socket file; made by its short relative name, since addresses are short."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


# -- weights: safetensors -----------------------------------------------------------------------------------------

S = "w.safetensors"
file("weights", "empty", S, b"", says="empty")
file("weights", "cut-in-header", S, WEIGHTS[:40], says="truncated")
file("weights", "cut-in-length", S, WEIGHTS[:5])
file("weights", "cut-in-data", S, WEIGHTS[:-9], says="truncated")
file("weights", "trailing-bytes", S, WEIGHTS + b"x" * 99)
file("weights", "huge-header", S, tensors({}, length=2**63), says="header")
file("weights", "header-past-end", S, tensors({}, length=2**20), says="header")
file("weights", "overlap", S, tensors({"a": entry(0, 16, [4]), "b": entry(8, 24, [4])}, bytes(24)), says="overlaps")
file("weights", "out-of-file", S, tensors({"a": entry(0, 2**40, [2**38])}, bytes(16)), says="truncated")
file("weights", "gap", S, tensors({"a": entry(64, 80, [4])}, bytes(80)), says="gap")
file("weights", "negative-offsets", S, tensors({"a": entry(-16, 0, [4])}, bytes(16)))
file("weights", "reversed-offsets", S, tensors({"a": entry(16, 0, [4])}, bytes(16)))
file("weights", "negative-shape", S, tensors({"a": entry(0, 16, [-2, -2])}, bytes(16)), says="shape")
file("weights", "nan-shape", S, tensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}', bytes(16)))
file("weights", "float-shape", S, tensors({"a": entry(0, 16, [4.5])}, bytes(16)))
file("weights", "overflowing-shape", S, tensors({"a": entry(0, 0, [2**32, 2**32])}), says="shape")
file(
    "weights",
    "huge-int-shape",
    S,
    tensors(b'{"a":{"dtype":"F32","shape":[1' + b"0" * 5000 + b'],"data_offsets":[0,0]}}'),
)
file(
    "weights",
    "duplicate-keys",
    S,
    tensors(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 16, [4])).encode(),) * 2), bytes(16)),
)
file("weights", "unknown-dtype", S, tensors({"a": entry(0, 16, [4], "F9")}, bytes(16)), says="type")
file("weights", "not-utf8", S, tensors(b'{"\xff":{}}'), says="header")
file("weights", "deep-json", S, tensors(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), says="header")
file("weights", "header-is-a-list", S, tensors([1, 2]))
file("weights", "many-tensors", S, lambda: tensors({f"t{k}": entry(0, 0, [0]) for k in range(60_000)}))
file("weights", "long-names", S, lambda: tensors({"n" * 2**20: entry(0, 0, [0])}))
file("weights", "name-with-line-breaks", S, tensors({"a\n\x1b[2Jb": entry(0, 16, [4])}, bytes(16)))
file("weights", "another-model", S, safetensors.numpy.save({"x": np.zeros(3, np.float32)}), says="does not fit")
file("weights", "a-png", S, GOOD, says="png")
file("weights", "a-npz", S, npz(x=NUMBERS), says="npz")
case("weights", "a-folder", says="folder")(special(Path.mkdir, S))
case("weights", "a-fifo", says="regular")(special(os.mkfifo, S))
case("weights", "a-socket", says="regular")(special(socket_at, S))
case("weights", "a-loop")(special(loop, S))
case("weights", "a-device", says="regular")(lambda folder: Path("/dev/zero"))
case("weights", "absent", says="does not exist")(lambda folder: folder / S)

# -- weights: state dicts of torch --------------------------------------------------------------------------------

for kind in ("system", "eval", "exec", "mkdir", "import", "getattr", "torch", "hub"):

    @case("weights", f"pt-{kind}")
    def _zip(folder: Path, kind: str = kind) -> Path:
        (folder / "w.pt").write_bytes(saved({**STATE, "x": gadgets(folder)[kind]}))
        return folder / "w.pt"


for kind in ("system", "eval"):

    @case("weights", f"old-pt-{kind}")
    def _old(folder: Path, kind: str = kind) -> Path:
        gadget = gadgets(folder)[kind]
        (folder / "w.pth").write_bytes(saved({**STATE, "x": gadget}, _use_new_zipfile_serialization=False))
        return folder / "w.pth"


@case("weights", "plain-pickle")
def _plain(folder: Path) -> Path:
    (folder / "w.pt").write_bytes(pickle.dumps({"1.bias": gadgets(folder)["mkdir"]}))
    return folder / "w.pt"


@case("weights", "pickle-named-safetensors")
def _named(folder: Path) -> Path:
    (folder / S).write_bytes(pickle.dumps(gadgets(folder)["mkdir"]))
    return folder / S


def reduced(instructions: bytes, storage: bytes = bytes(16), name: str = "data/0") -> bytes:
    """A zip of torch whose pickle is written by hand."""
    return zipped({"w/data.pkl": b"\x80\x02" + instructions + b".", f"w/{name}": storage, "w/version": b"3\n"})


def rebuilt(size: str, stride: str, count: int, offset: int = 0) -> bytes:
    """A state dict of one tensor with this size and stride over a storage of `count` floats."""
    storage = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    return (
        b"}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n"
        + storage
        + b"I%d\ntQ" % count
        + b"I%d\n(%b(%bI00\nccollections\nOrderedDict\n)RtRs" % (offset, size.encode(), stride.encode())
    )


file("weights", "pt-outside-storage", "w.pt", reduced(rebuilt("I1000000\nt", "I1\nt", 4)))
file("weights", "pt-negative-size", "w.pt", reduced(rebuilt("I-4\nt", "I1\nt", 4)))
file("weights", "pt-negative-offset", "w.pt", reduced(rebuilt("I4\nt", "I1\nt", 4, -2)))
file("weights", "pt-overflowing-size", "w.pt", reduced(rebuilt("I4294967296\nI4294967296\nt", "I1\nI1\nt", 4)))
file("weights", "pt-expanded", "w.pt", reduced(rebuilt("I10000000000\nt", "I0\nt", 4)))
file("weights", "pt-huge-storage", "w.pt", reduced(rebuilt("I4\nt", "I1\nt", 2**50)))
META = b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\n((I4\nt(I1\nt)I00\ntR"
file("weights", "pt-meta-tensor", "w.pt", reduced(b"}X\x01\x00\x00\x00a" + META + b"s"))
file("weights", "pt-meta-values", "w.pt", lambda: saved({name: value.to("meta") for name, value in STATE.items()}))
file(
    "weights",
    "pt-sparse",
    "w.pt",
    lambda: saved({"a": torch.sparse_coo_tensor(size=(2**40, 2**20), check_invariants=False)}),
)
file("weights", "pt-text-weights", "w.pt", saved({**STATE, "1.bias": "0000"}))
file(
    "weights",
    "pt-a-subclass",
    "w.pt",
    lambda: saved({"a": torch.nn.Parameter(torch.zeros(3)), "b": torch.nn.UninitializedParameter()}),
)
file("weights", "pt-storage-missing", "w.pt", reduced(rebuilt("I4\nt", "I1\nt", 4), name="data/7"))
file("weights", "pt-recursive", "w.pt", reduced(b"]q\x00h\x00a" + b"]" * 3 + b"aaa"))
file("weights", "pt-deep", "w.pt", reduced(b"]" * 300_000 + b"a" * 299_999))
file("weights", "pt-memo-bomb", "w.pt", reduced(b"(" + b"K\x01" * 8 + b"tq\x00" + b"(h\x00h\x00tq\x00" * 40))
file("weights", "pt-long-int", "w.pt", reduced(b"\x8b" + struct.pack("<i", 2**30) + b"\x01"))
file("weights", "pt-unknown-opcode", "w.pt", reduced(b"\xfe"))
file("weights", "pt-a-list", "w.pt", saved([1, 2, 3]))
file("weights", "pt-a-module", "w.pt", lambda: saved(torch.nn.Linear(2, 2)))
file("weights", "pt-a-number", "w.pt", saved(3))
file("weights", "pt-keys-are-numbers", "w.pt", saved({1: torch.zeros(2)}))
file("weights", "pt-values-are-text", "w.pt", saved({"1.bias": "zeros"}))
file("weights", "pt-empty", "w.pt", b"")
file("weights", "pt-cut", "w.pt", saved(STATE)[:-700])
file("weights", "pt-cut-early", "w.pt", saved(STATE)[:300])
file("weights", "pt-noise", "w.pt", bytes(range(256)) * 20)
file("weights", "pt-is-text", "w.pth", b"hello\n" * 100)
file("weights", "pt-no-pickle", "w.pt", zipped({"w/version": b"3\n"}))
file(
    "weights",
    "pt-zip-slip",
    "w.pt",
    zipped({"../../executed/data.pkl": b"\x80\x02}.", "../../executed/version": b"3\n", "/executed": b""}),
)


def bomb(members: dict[str, int]) -> bytes:
    """A zip whose members are that many MiB of zeros, packed a thousandfold."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, size in members.items():
            with archive.open(name, "w", force_zip64=True) as member:
                for _ in range(size):
                    member.write(bytes(2**20))
    return buffer.getvalue()


@case("weights", "pt-bomb")
def _pt_bomb(folder: Path) -> Path:
    """A storage of 400 MiB that takes 2 MiB on disk."""
    with zipfile.ZipFile(folder / "w.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + rebuilt("I104857600\nt", "I1\nt", 104_857_600) + b".")
        archive.writestr("w/version", b"3\n")
        with archive.open("w/data/0", "w") as member:
            for _ in range(400):
                member.write(bytes(2**20))
    return folder / "w.pt"


# -- whole programs and bare files --------------------------------------------------------------------------------

P = "p.pt2"
for kind in ("system", "eval"):

    @case("model", f"pt2-{kind}")
    def _program(folder: Path, kind: str = kind) -> Path:
        payload = pickle.dumps(gadgets(folder)[kind])
        members = {
            "p/archive_format": b"pt2",
            "p/archive_version": b"0",
            "p/byteorder": b"little",
            "p/models/model.json": b"{}",
            "p/data/sample_inputs/model.pt": saved(gadgets(folder)[kind]),
            "p/data/weights/weight_0": payload,
            "p/data/constants/custom_obj_0": payload,
        }
        (folder / P).write_bytes(zipped(members))
        return folder / P


file("model", "pt2-empty", P, b"")
file("model", "pt2-noise", P, bytes(range(256)) * 20)
file("model", "pt2-no-program", P, zipped({"p/archive_format": b"pt2", "p/version": b"1"}))
file("model", "pt2-deep-json", P, zipped({"p/archive_format": b"pt2", "p/models/model.json": b"[" * 100_000}))
file("model", "pt2-zip-slip", P, zipped({"../../executed": b"x", "p/archive_format": b"pt2"}))
file("model", "pt2-a-state-dict", P, saved(STATE))
file("model", "pt2-bomb", P, lambda: bomb({"p/archive_format": 0, "p/models/model.json": 300}))
case("model", "pt2-fifo")(special(os.mkfifo, P))
case("model", "py-fifo")(lambda folder: Path(f"{special(os.mkfifo, 'm.py')(folder)}:make"))
file("model", "weights-alone", S, WEIGHTS)
file("model", "card-of-another-shape", "m.json", b"[]")
case("model", "long-name")(lambda folder: folder / ("x" * 5000))
case("model", "name-with-escapes")(lambda folder: folder / "a\n\x1b[2Jb")


def trained(folder: Path, card: bytes, weights: bytes = WEIGHTS) -> Path:
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "model.json").write_bytes(card)
    return folder


case("model", "card-is-a-list")(lambda folder: trained(folder, b"[]"))
case("model", "card-is-deep")(lambda folder: trained(folder, b"[" * 300_000))
case("model", "card-is-not-utf8")(lambda folder: trained(folder, b'{"name": "\xff"}'))
case("model", "card-is-cut")(lambda folder: trained(folder, b'{"name": "fashion-st'))
case("model", "card-is-huge")(lambda folder: trained(folder, b'{"name": "' + b"x" * 70 * 2**20))


@case("model", "card-names-another-architecture")
def _card(folder: Path) -> Path:
    card = json.loads((Path(__file__).parents[2] / "src/pellucid/models/weights/fashion-standard.json").read_bytes())
    card["architecture"] = {"kind": "small-cnn", "width": 10**9}
    card["sha256"] = __import__("hashlib").sha256(WEIGHTS).hexdigest()
    return trained(folder, json.dumps(card).encode())


TEXT_CARD = b"""{"name": "t", "architecture": {"kind": "text-cnn", "length": 8}, "parameters": 1, "task": "t",
 "class_names": ["a", "b"], "bounds": null, "input_shape": [8], "data": "", "license": "", "recipe": "", "command": "",
 "hardware": "", "date": "", "seed": 0, "minutes": 0, "figures": [], "sha256": "SHA", "tokenizer_sha256": "00"}"""


def of_texts(tokenizer: bytes) -> Make:
    """A training on texts with this tokenizer."""

    def make(folder: Path) -> Path:
        from pellucid.core import write_tensors
        from pellucid.nn.models import build

        write_tensors(folder / "w.safetensors", build("text-cnn", {"length": 8}).state_dict())
        weights = (folder / "w.safetensors").read_bytes()
        (folder / "tokenizer.json").write_bytes(tokenizer)
        return trained(folder, TEXT_CARD.replace(b"SHA", hashlib.sha256(weights).hexdigest().encode()), weights)

    return make


case("model", "tokenizer-is-cut", says="tokenizer")(of_texts(b'{"version": "1.0", "truncation": nul'))
case("model", "tokenizer-is-deep", says="tokenizer")(of_texts(b"[" * 300_000))
case("model", "tokenizer-is-noise", says="tokenizer")(of_texts(bytes(range(256)) * 9))
case("model", "tokenizer-of-another-model", says="tokenizer")(
    of_texts(b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"[PAD]": 0}, "unk_token": "[PAD]"}}')
)


@case("model", "hf-text-pickle", says="safetensors")
def _text_pickle(folder: Path) -> Path:
    (folder / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    (folder / "tokenizer.json").write_text(
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"[PAD]": 0}, "unk_token": "[PAD]"}}'
    )
    (folder / "model.safetensors").write_bytes(pickle.dumps(gadgets(folder)["system"]))
    return Path(f"hf:{folder}")


# -- data: texts --------------------------------------------------------------------------------------------------

file("data", "text-empty", "d.txt", b"", says="empty")
file("data", "text-not-utf8", "d.txt", b"fine\n" * 9999 + b"\xff\xfe", says="UTF-8")
file("data", "text-long-line", "d.txt", b"a" * 10_000_000, says="letters")
file("data", "text-one-class", "d.csv", b"text,label\na,x\nb,x\n", says="one class")
file("data", "text-long-cell", "d.csv", b"text,label\n" + b"a" * 10_000_000 + b",x\n", says="damaged CSV")
file("data", "json-lines-deep", "d.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", says="line 1 is no JSON")
file("data", "json-lines-cut", "d.jsonl", b'{"text": "a", "label": 0}\n{"text": "b"', says="line 2 is no JSON")
file("data", "json-lines-list", "d.jsonl", b"[1, 2]\n", says="one JSON object")

# -- data: arrays -------------------------------------------------------------------------------------------------

for kind in ("system", "eval"):

    @case("data", f"npz-object-{kind}", says="objects")
    def _objects(folder: Path, kind: str = kind) -> Path:
        inputs = np.array([gadgets(folder)[kind]], dtype=object)
        (folder / "d.npz").write_bytes(npz(inputs=inputs, labels=LABELS))
        return folder / "d.npz"

    @case("data", f"npy-object-{kind}")
    def _object(folder: Path, kind: str = kind) -> Path:
        np.save(folder / "d.npy", np.array([gadgets(folder)[kind]], dtype=object), allow_pickle=True)
        return folder / "d.npy"


@case("data", "npz-is-a-pickle", says="pickle")
def _npz_pickle(folder: Path) -> Path:
    (folder / "d.npz").write_bytes(pickle.dumps(gadgets(folder)["mkdir"]))
    return folder / "d.npz"


HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }"
N = "d.npz"


def member(header: str | bytes, content: bytes = bytes(64), **how: Any) -> bytes:
    return zipped({"inputs.npy": npy(header, content, **how), "labels.npy": npy(HEADER % ("<i8", "(4,)"), bytes(32))})


file("data", "npz-negative-shape", N, member(HEADER % ("<f4", "(-4, 4)")))
file("data", "npz-huge-shape", N, member(HEADER % ("<f4", "(1000000000, 1000000000)")), says="shape")
file("data", "npz-overflowing-shape", N, member(HEADER % ("<f4", "(4294967296, 4294967296, 4294967296)")))
file("data", "npz-nan-shape", N, member(HEADER % ("<f4", "(float('nan'),)")))
file("data", "npz-shape-is-code", N, member(HEADER % ("<f4", "(__import__('os').mkdir('executed'),)")))
file("data", "npz-many-axes", N, member(HEADER % ("<f4", "(" + "1, " * 200 + ")")))
file("data", "npz-empty-dtype", N, member(HEADER % ("V0", "(4, 4)"), b""))
file("data", "npz-nested-dtype", N, member(HEADER.replace("'%s'", "%s") % ("[('a', '|O')]", "(4,)")))
file("data", "npz-header-deep", N, member("(" * 9000 + ")" * 9000))
file("data", "npz-header-huge", N, lambda: member(b" " * (40 * 2**20), version=(2, 0)))
file("data", "npz-version-9", N, zipped({"inputs.npy": npy(HEADER % ("<f4", "(4,)"), version=(9, 0))}))
file("data", "npz-header-not-latin", N, member(b"\xff\xfe\xfd"))
file("data", "npz-cut", N, npz(inputs=NUMBERS, labels=LABELS)[:-60])
file("data", "npz-cut-early", N, npz(inputs=NUMBERS, labels=LABELS)[:70])
file("data", "npz-flipped", N, npz(inputs=NUMBERS, labels=LABELS).replace(NUMBERS.tobytes(), NUMBERS[::-1].tobytes()))
file("data", "npz-slip", N, zipped({"../../executed.npy": b"", "/executed.npy": b""}))
file("data", "npz-bomb", N, lambda: bomb({"inputs.npy": 400, "labels.npy": 1}), says="unpack")
file("data", "npz-nested-bomb", N, lambda: zipped({"inputs.npy": bomb({"a": 30}), "labels.npy": b""}))
file("data", "npz-many-entries", N, lambda: zipped({f"{k}.npy": b"" for k in range(30_000)}))
file(
    "data",
    "npz-encrypted",
    N,
    npz(inputs=NUMBERS, labels=LABELS).replace(b"PK\x01\x02-\x03-\x00\x00", b"PK\x01\x02-\x03-\x00\x01"),
)
file("data", "npz-empty", N, b"")
file("data", "npz-no-members", N, zipped({}))
file("data", "npz-is-text", N, b"inputs,labels\n")
file("data", "npz-is-safetensors", N, WEIGHTS)
file("data", "npz-nan-inputs", N, npz(inputs=NUMBERS * math.nan, labels=LABELS))
file("data", "npz-infinite-inputs", N, npz(inputs=NUMBERS + np.inf, labels=LABELS))
file("data", "npz-text-inputs", N, npz(inputs=np.array([["a"] * 4] * 4), labels=LABELS))
file("data", "npz-complex-inputs", N, npz(inputs=NUMBERS.astype(complex), labels=LABELS))
file("data", "npz-no-rows", N, npz(inputs=NUMBERS[:0], labels=LABELS[:0]))
file("data", "npz-negative-labels", N, npz(inputs=NUMBERS, labels=-LABELS))
file("data", "npz-huge-labels", N, npz(inputs=NUMBERS, labels=LABELS * 2**62))
file("data", "npz-nan-labels", N, npz(inputs=NUMBERS, labels=LABELS * math.nan))
file("data", "npz-uneven", N, npz(inputs=NUMBERS, labels=LABELS[:3]))
file("data", "npz-surrogate-names", N, npz(inputs=NUMBERS, labels=LABELS, class_names=np.array(["\ud800", "b"])))
file("data", "npy-huge-shape", "d.npy", npy(HEADER % ("<f4", "(1000000000, 1000000000)")))
file("data", "npy-cut", "d.npy", npy(HEADER % ("<f4", "(4, 4)"), bytes(60)))
file("data", "npy-alone", "d.npy", npy(HEADER % ("<f4", "(4, 4)"), bytes(64)))


@case("data", "npz-overlapping-entries")
def _overlapping(folder: Path) -> Path:
    """Many entries of the directory that share one packed member: a bomb without nesting."""
    content = bytearray(zipped({"a.npy": npy(HEADER % ("|u1", "(8000000,)"), bytes(8_000_000))}, zipfile.ZIP_DEFLATED))
    start = content.rindex(b"PK\x01\x02")
    entry = bytes(content[start : content.rindex(b"PK\x05\x06")])
    many = b"".join(entry.replace(b"a.npy", b"%05d" % k) for k in range(400))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 400, 400, len(many), start, 0)
    (folder / N).write_bytes(bytes(content[:start]) + many + end)
    return folder / N


# -- data: images -------------------------------------------------------------------------------------------------

image("cmyk", drawn("CMYK", "JPEG"), "x.jpg", opens=True)
image("rgb-among-gray", drawn("RGB", "PNG"), opens=True)
image("palette", drawn("P", "PNG"), opens=True)
image("gray-alpha", drawn("LA", "PNG"), opens=True)
image("1-bit", drawn("1", "PNG"), opens=True)
image("16-bit", drawn("I;16", "PNG"), opens=True)
image("one-pixel", drawn("L", "PNG", (1, 1)), says="sizes")
image("strip", drawn("L", "PNG", (20_000, 1)), says="sizes")
image("20000-pixels", lambda: png(20_000, 20_000, depth=1), says="pixels")
image("20000-pixels-claimed", lambda: png(20_000, 20_000, rows=b""), says="pixels")
image("bomb", lambda: png(7900, 7900, color=2), says="pixels")
image("padded-bomb", lambda: png(7900, 7900, color=2, rows=b"", extra=chunk(b"noIs", bytes(2**21))), says="MiB")
image("20000-wide", lambda: png(20_000, 3_000, color=2, rows=b"", extra=chunk(b"noIs", bytes(2**21))), says="MiB")
image("zero-pixels", png(0, 8, rows=b""))
image("negative-pixels", png(2**31, 2**31, rows=b""))
image("data-bomb", lambda: png(8, 8, rows=bytes(300 * 2**20)), opens=True)
image("text-bomb", lambda: png(8, 8, extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200 * 2**20), 1))))
image("profile-bomb", lambda: png(8, 8, extra=chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(200 * 2**20), 1))))
image("cut", GOOD[:-30])
image("cut-in-header", GOOD[:20])
image("empty", b"")
image("text", b"hello")
image("html", b"<html>not found</html>", says="no image")
image("svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
image("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(executed) (w) file\n", says="no image")
image("pickle", pickle.dumps({}))
image(
    "animated-gif",
    drawn("P", "GIF", save_all=True, append_images=[Image.new("P", (8, 8), k) for k in range(1, 200)]),
    opens=True,
)
image("huge-gif", b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;")
image("float-tiff", drawn("F", "TIFF"), says="floating")
image(
    "tiff-bomb",
    drawn("L", "TIFF", compression="tiff_lzw").replace(
        struct.pack("<HHII", 256, 3, 1, 8), struct.pack("<HHII", 256, 4, 1, 60_000)
    ),
)
image("tiff-loop", b"II*\0\x08\0\0\0\0\0\x08\0\0\0")
image("ppm-huge", b"P6 99999 99999 255\n" + bytes(10), says="pixels")
image("bad-name", GOOD, "a\n\x1b[2J.png", opens=True)


def crowd(make: Callable[[Path], object]) -> Make:
    """A folder of classes with one odd thing in it."""

    def made(folder: Path) -> Path:
        make(classes(folder, GOOD))
        return folder

    return made


case("data", "folder-named-png", says="folder")(crowd(lambda root: (root / "dog" / "z.png").mkdir()))
case("data", "fifo-named-png", says="regular")(crowd(lambda root: os.mkfifo(root / "dog" / "z.png")))
case("data", "socket-named-png", says="regular")(crowd(lambda root: socket_at(root / "dog" / "z.png")))
case("data", "device-named-png", says="regular")(crowd(lambda root: (root / "dog" / "z.png").symlink_to("/dev/zero")))
case("data", "loop-named-png")(crowd(lambda root: loop(root / "dog" / "z.png")))
case("data", "dangling-png", says="does not exist")(crowd(lambda root: (root / "dog" / "z.png").symlink_to("nowhere")))
case("data", "folder-loop", opens=True)(crowd(lambda root: (root / "dog" / "more").symlink_to("..")))
case("data", "class-loop", opens=True)(crowd(lambda root: loop(root / "zebra")))
case("data", "class-name-not-utf8")(
    crowd(lambda root: (root / "dog").rename(os.fsdecode(os.fsencode(root) + b"/\xff")))
)
case("data", "one-class", says="one class")(crowd(lambda root: (root / "dog").rename(root / ".dog")))
case("data", "empty-class")(crowd(lambda root: (root / "empty").mkdir()))
case("data", "empty-folder")(lambda folder: folder)
case("data", "fifo", says="regular")(special(os.mkfifo, N))
case("data", "device", says="regular")(lambda folder: Path("/dev/zero"))
case("data", "loop")(special(loop, N))
case("data", "absent")(lambda folder: folder / N)
case("data", "long-name")(lambda folder: folder / ("x" * 5000))

# -- data: IDX and CIFAR ------------------------------------------------------------------------------------------


def idx(*shape: int, kind: int = 8, content: bytes | None = None) -> bytes:
    head = struct.pack(">HBB", 0, kind, len(shape)) + b"".join(struct.pack(">I", n) for n in shape)
    return head + (bytes(math.prod(shape)) if content is None else content)


I = "d-images-idx3-ubyte"  # noqa: E741


def pair(folder: Path, images: bytes, labels: bytes | None = None, suffix: str = "") -> Path:
    (folder / f"t10k-images-idx3-ubyte{suffix}").write_bytes(images)
    (folder / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(
        labels if labels is not None else idx(4, content=bytes([0, 1] * 2))
    )
    return folder


def packed(count: int) -> bytes:
    """A gzip of that many MiB of zeros."""
    with gzip.GzipFile(fileobj=(buffer := io.BytesIO()), mode="wb", compresslevel=1) as archive:
        for _ in range(count):
            archive.write(bytes(2**20))
    return buffer.getvalue()


def idx_case(id: str, images: Callable[[], bytes], labels: bytes | None = None, suffix: str = "") -> None:
    case("data", f"idx-{id}")(lambda folder: pair(folder, images(), labels, suffix))


idx_case("huge-shape", lambda: idx(2**32 - 1, 2**32 - 1, 2**32 - 1, content=bytes(99)))
idx_case("cut", lambda: idx(4, 8, 8)[:-9])
idx_case("cut-in-header", lambda: idx(4, 8, 8)[:9])
idx_case("trailing", lambda: idx(4, 8, 8) + b"x")
idx_case("unknown-type", lambda: idx(4, 8, 8, kind=7))
idx_case("many-axes", lambda: struct.pack(">HBB", 0, 8, 255) + b"\0\0\0\1" * 255 + b"\0")
idx_case("no-rows", lambda: idx(0, 8, 8), idx(0))
idx_case("uneven", lambda: idx(4, 8, 8), idx(3))
idx_case("one-class", lambda: idx(4, 8, 8), idx(4))
idx_case("empty", lambda: b"")
idx_case("gzip-bomb", lambda: gzip.compress(idx(4, 8, 8)) + packed(600), gzip.compress(idx(4)), ".gz")
idx_case("gzip-lies", lambda: gzip.compress(idx(2**24, 28, 28, content=b"") + bytes(99)), gzip.compress(idx(4)), ".gz")
idx_case("gzip-cut", lambda: gzip.compress(idx(4, 8, 8))[:-12], gzip.compress(idx(4)), ".gz")
idx_case("gzip-is-text", lambda: b"hello", gzip.compress(idx(4)), ".gz")
idx_case("gzip-wrong-sum", lambda: gzip.compress(idx(4, 8, 8))[:-8] + bytes(8), gzip.compress(idx(4)), ".gz")
file("data", "idx-one-file", I, idx(4, 8, 8))
file("data", "gzip-bomb-alone", "d.csv.gz", lambda: packed(600))


def cifar(folder: Path, batch: bytes, names: bytes = b"cat\ndog\n") -> Path:
    (folder / "test_batch.bin").write_bytes(batch)
    (folder / "batches.meta.txt").write_bytes(names)
    for part in range(1, 6):
        (folder / f"data_batch_{part}.bin").write_bytes(batch)
    return folder


case("data", "cifar-cut")(lambda folder: cifar(folder, bytes(3073 * 4 - 5)))
case("data", "cifar-empty")(lambda folder: cifar(folder, b""))
case("data", "cifar-label-255")(lambda folder: cifar(folder, (b"\xff" + bytes(3072)) * 4))
case("data", "cifar-names-not-utf8")(
    lambda folder: cifar(folder, (b"\0" + bytes(3072) + b"\1" + bytes(3072)) * 2, b"\xff\n\xfe\n")
)


@case("data", "cifar-python-pickle")
def _cifar_pickle(folder: Path) -> Path:
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": gadgets(folder)["mkdir"]}))
    (folder / "batches.meta").write_bytes(pickle.dumps(gadgets(folder)["mkdir"]))
    return folder


# -- data: CSV and Parquet ----------------------------------------------------------------------------------------

C = "d.csv"
ROWS = b"a,b,label\n1,2,x\n3,4,y\n5,6,x\n7,8,y\n"
file("data", "csv-ragged", C, ROWS + b"1,2,3,4,5,6\n")
file("data", "csv-short-row", C, ROWS + b"1\n")
file("data", "csv-not-utf8", C, ROWS + b"9,9,\xff\xfe\n")
file("data", "csv-utf16", C, ROWS.decode().encode("utf-16"))
file("data", "csv-nul", C, ROWS + b"1,\0,x\n")
file("data", "csv-text", C, ROWS + b"one,2,x\n")
file("data", "csv-nan", C, ROWS + b"nan,inf,x\n")
file("data", "csv-huge-number", C, ROWS + b"1e999,2,x\n")
file("data", "csv-huge-int", C, ROWS + b"9" * 9000 + b",2,x\n")
file("data", "csv-missing-value", C, ROWS + b",2,x\n")
file("data", "csv-header-alone", C, b"a,b,label\n")
file("data", "csv-no-columns", C, b"\n\n\n\n")
file("data", "csv-empty", C, b"")
file("data", "csv-repeated-columns", C, ROWS.replace(b"a,b,", b"a,a,"))
file("data", "csv-long-line", C, lambda: b"a,b,label\n" + b"x" * (40 * 2**20))
file("data", "csv-open-quote", C, lambda: b'a,b,label\n"' + b"1,2,x\n" * 2_000_000)
file(
    "data",
    "csv-many-columns",
    C,
    lambda: b",".join(b"c%d" % k for k in range(200_000)) + b"\n" + b",".join([b"1"] * 200_000),
)
file("data", "csv-one-class", C, b"a,b,label\n1,2,x\n3,4,x\n")
file("data", "csv-all-classes", C, lambda: b"a,label\n" + b"".join(b"%d,c%d\n" % (k, k) for k in range(50_000)))
file("data", "csv-is-png", C, GOOD)
file("data", "csv-is-pickle", C, pickle.dumps({}))
case("data", "csv-fifo", says="regular")(special(os.mkfifo, C))


def parquet(columns: dict[str, Any], **how: Any) -> Callable[[], bytes]:
    def made() -> bytes:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), buffer := io.BytesIO(), **how)
        return buffer.getvalue()

    return made


Q = "d.parquet"
TABLE = parquet({"a": [1.0, 2.0, 3.0, 4.0], "label": ["x", "y", "x", "y"]})
file("data", "parquet-empty", Q, b"")
file("data", "parquet-noise", Q, b"PAR1" + bytes(range(256)) * 9 + b"PAR1")
file("data", "parquet-cut", Q, lambda: TABLE()[:-30])
file("data", "parquet-huge-footer", Q, lambda: TABLE()[:-8] + struct.pack("<I", 2**32 - 1) + b"PAR1")
file("data", "parquet-flipped", Q, lambda: TABLE()[:60] + bytes(40) + TABLE()[100:])
file(
    "data",
    "parquet-bomb",
    Q,
    lambda: parquet({"a": np.zeros(60_000_000), "label": np.zeros(60_000_000, np.int8)}, compression="zstd")(),
)
file("data", "parquet-nested", Q, parquet({"a": [[1.0], [2.0, 3.0]] * 2, "label": ["x", "y"] * 2}))
file("data", "parquet-text", Q, parquet({"a": ["one", "two"] * 2, "label": ["x", "y"] * 2}))
file("data", "parquet-nulls", Q, parquet({"a": [1.0, None] * 2, "label": ["x", "y"] * 2}))
file("data", "parquet-no-rows", Q, parquet({"a": [1.0][:0], "label": ["x"][:0]}))
file("data", "parquet-is-csv", Q, ROWS)

# -- data: folders of Hugging Face --------------------------------------------------------------------------------


def hugging(folder: Path, info: bytes, state: bytes, arrow: bytes = b"") -> Path:
    (folder / "dataset_info.json").write_bytes(info)
    (folder / "state.json").write_bytes(state)
    (folder / "data-00000-of-00001.arrow").write_bytes(arrow)
    return folder


STATEFUL = b'{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "test"}'
case("data", "hf-noise")(lambda folder: hugging(folder, b"{}", STATEFUL, bytes(range(256))))
case("data", "hf-empty")(lambda folder: hugging(folder, b"{}", STATEFUL))
case("data", "hf-deep")(lambda folder: hugging(folder, b"[" * 200_000, b"[" * 200_000))
case("data", "hf-not-utf8")(lambda folder: hugging(folder, b"\xff", b"\xff"))
case("data", "hf-slip")(lambda folder: hugging(folder, b"{}", STATEFUL.replace(b"data-00000", b"../../../etc/passwd")))
case("data", "hf-script")(
    lambda folder: hugging(folder, b'{"builder_name": "x"}', b"{}") and (folder / "x.py").write_text("1/0") and folder
)

# -- recipes ------------------------------------------------------------------------------------------------------

T = "r.toml"
file("recipe", "empty", T, b"")
file("recipe", "not-utf8", T, b'name = "\xff"\n')
file("recipe", "deep", T, b"a = " + b"[" * 100_000)
file("recipe", "deep-keys", T, b"a" + b".a" * 50_000 + b" = 1\n")
file("recipe", "deep-tables", T, b"[a" + b".a" * 20_000 + b"]\n")
file("recipe", "huge-int", T, b"epochs = " + b"9" * 9000 + b"\n")
file("recipe", "huge-number", T, b'name = "x"\nepochs = 99999999999999999999999\n')
file("recipe", "nan", T, b"epochs = nan\n")
file("recipe", "repeated-key", T, b"epochs = 1\nepochs = 2\n")
file("recipe", "nul", T, b"name = \0\n")
file("recipe", "long-line", T, lambda: b"#" + b"x" * 20 * 2**20)
file("recipe", "json", T, b'{"name": "x"}')
file("recipe", "pickle", T, pickle.dumps({}))
file("recipe", "unknown-key", T, b"epoch = 3\n", says="did you mean")
case("recipe", "fifo")(special(os.mkfifo, T))
case("recipe", "folder")(special(Path.mkdir, T))
case("recipe", "absent")(lambda folder: folder / T)

# -- requirements -------------------------------------------------------------------------------------------------

A = "requirements.toml"


def rule(text: str) -> bytes:
    return f"[[require]]\nrule = {json.dumps(text)}\n".encode()


file("requirements", "empty", A, b"")
file("requirements", "nothing", A, b"require = []\n", says="requires nothing")
file("requirements", "noise", A, bytes(range(256)))
file("requirements", "not-utf8", A, b'[[require]]\nrule = "\xff"\n')
file("requirements", "deep", A, b"require = " + b"[" * 100_000)
file("requirements", "deep-tables", A, b"[a" + b".a" * 20_000 + b"]\n")
file("requirements", "many-tables", A, b"[[require]]\n" * 90_000)
file("requirements", "long", A, lambda: b"#" * 20 * 2**20, says="allowed")
file("requirements", "pickle", A, pickle.dumps(Gadget(os.system, "touch executed")))
file("requirements", "json", A, b'{"require": []}')
file("requirements", "png", A, GOOD)
file("requirements", "unknown-key", A, rule("accuracy > 0.5") + b"becuase = 'x'\n", says="did you mean")
file("requirements", "unknown-setting", A, rule("accuracy > 0.5") + b"[settings]\nbudgets = 3\n", says="did you mean")
file("requirements", "huge-budget", A, rule("accuracy > 0.5") + b"[settings]\nbudget = " + b"9" * 9000 + b"\n")
file("requirements", "negative-budget", A, rule("accuracy > 0.5") + b"[settings]\nbudget = -1\n", says="budget")
file("requirements", "rule-is-table", A, b"[[require]]\n[require.rule]\na = 1\n", says="rule")
file("requirements", "no-rule", A, b"[[require]]\nbecause = 'x'\n", says="rule")
file("requirements", "code", A, rule("__import__('os').system('touch executed') > 0"))
file("requirements", "terminal", A, rule("\x1b[2J\x07 > 0.5"))
file("requirements", "unknown-measure", A, rule("x" * 100_000 + " > 0.5"))
file("requirements", "slow-match", A, rule("a" + " " * 50_000 + "!" + " " * 50_000))
file("requirements", "many-brackets", A, rule("[" * 100_000 + " > 0.5"))
file("requirements", "long-number", A, rule("accuracy >= " + "9" * 100_000))
file("requirements", "huge-exponent", A, rule("accuracy >= 1e999999999"))
file("requirements", "nan", A, rule("accuracy >= nan"))
file("requirements", "radius-zero-by-zero", A, rule("robust_accuracy[linf,0/0] >= 0.5"), says="radius")
file("requirements", "radius-huge", A, rule("robust_accuracy[linf,1e999999999] >= 0.5"), says="radius")
case("requirements", "fifo")(special(os.mkfifo, A))
case("requirements", "folder")(special(Path.mkdir, A))
case("requirements", "absent", says="there is no")(lambda folder: folder / A)

# -- reports, run folders, trainings ------------------------------------------------------------------------------

R = "report.json"
HEAD = b'{"kind": "audit", "schema_version": 1'
file("report", "empty", R, b"")
file("report", "cut", R, HEAD)
file("report", "not-utf8", R, HEAD + b', "command": "\xff"}')
file("report", "deep", R, HEAD + b', "findings": ' + b"[" * 300_000)
file("report", "deep-whole", R, b"[" * 300_000 + b"]" * 300_000)
file("report", "future", R, b'{"kind": "audit", "schema_version": 99}', says="schema")
file("report", "huge-version", R, b'{"kind": "audit", "schema_version": 1' + b"0" * 5000 + b"}")
file("report", "other-kind", R, b'{"kind": "recipe", "schema_version": 1}', says="kind")
file("report", "a-list", R, b"[]")
file("report", "a-pickle", R, pickle.dumps({}))
file("report", "long-line", R, lambda: HEAD + b', "command": "' + b"x" * (70 * 2**20) + b'"}')
case("report", "folder-without")(lambda folder: folder)
case("report", "fifo")(special(os.mkfifo, R))
case("report", "loop")(special(loop, R))


@case("report", "arrays-hostile")
def _arrays(folder: Path) -> Path:
    (folder / R).write_bytes(HEAD + b"}")
    (folder / "arrays.safetensors").write_bytes(tensors({"a": entry(0, 2**40, [2**40], "U8")}))
    return folder


@case("report", "arrays-fifo")
def _arrays_fifo(folder: Path) -> Path:
    (folder / R).write_bytes(HEAD + b"}")
    os.mkfifo(folder / "arrays.safetensors")
    return folder


def manifest(content: bytes) -> Make:
    return lambda folder: special(lambda path: path.write_bytes(content), "manifest.json")(folder).parent


case("run", "manifest-empty")(manifest(b""))
case("run", "manifest-not-utf8")(manifest(b'{"pellucid": "\xff"}'))
case("run", "manifest-deep")(manifest(b"[" * 300_000))
case("run", "manifest-a-list")(manifest(b"[1]"))
case("run", "manifest-wrong-types")(manifest(b'{"pellucid": [], "schema": true, "version": 1, "status": {}}'))
case("run", "manifest-huge")(manifest(b'{"pellucid": "' + b"x" * 70 * 2**20))
case("run", "manifest-fifo")(lambda folder: special(os.mkfifo, "manifest.json")(folder).parent)
case("run", "absent")(lambda folder: folder / "absent")


def checkpoint(state: bytes, weights: bytes = WEIGHTS, name: str = "epoch-00001") -> Make:
    def made(folder: Path) -> Path:
        text = {
            "pellucid": "train",
            "schema": 1,
            "version": "0.1.0",
            "status": "partial",
            "durations": {},
            "command": "",
        }
        (folder / "manifest.json").write_text(json.dumps({**text, "created": "2026-01-01"}))
        inside = folder / "checkpoints" / name
        inside.mkdir(parents=True)
        (inside / "state.json").write_bytes(state)
        (inside / "model.safetensors").write_bytes(weights)
        (inside / "optimizer.safetensors").write_bytes(weights)
        return folder

    return made


PLACE = b'{"epoch": 1, "step": 2, "seconds": 0, "optimizer": {"state": {}, "param_groups": []}, "weighting": {}}'
case("training", "state-empty")(checkpoint(b""))
case("training", "state-a-list")(checkpoint(b"[]"))
case("training", "state-deep")(checkpoint(b"[" * 300_000))
case("training", "state-not-utf8")(checkpoint(b"\xff"))
case("training", "other-weights")(checkpoint(PLACE))
case("training", "weights-cut")(checkpoint(PLACE, WEIGHTS[:-5]))
case("training", "weights-a-pickle")(checkpoint(PLACE, pickle.dumps({})))
case("training", "foreign-folder")(
    lambda folder: special(lambda path: path.write_text("mine"), "notes.txt")(folder).parent
)
case("training", "recipe-broken")(
    lambda folder: checkpoint(PLACE)(folder) and (folder / "recipe.json").write_bytes(b"[" * 9000) and folder
)
case("training", "card-broken")(
    lambda folder: checkpoint(PLACE)(folder) and (folder / "model.json").write_bytes(b"[") and folder
)
