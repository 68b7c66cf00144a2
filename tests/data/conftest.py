import functools
import gzip
import hashlib
import http.server
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pellucid import data
from pellucid.data import _download, _mnist, _places


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without any data set."""
    monkeypatch.setattr(_places, "SYSTEM", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PELLUCID_DATA", raising=False)
    monkeypatch.setattr(_places, "_usual", lambda: tmp_path / "cache" / "pellucid" / "data")
    return tmp_path


@pytest.fixture
def little(monkeypatch, nowhere):
    """Fashion-MNIST with 6 + 4 images: the contents of its files, and the facts that fit them."""
    contents = {}
    for prefix, count in (("train", 6), ("t10k", 4)):
        contents[f"{prefix}-images-idx3-ubyte"] = bytes(16) + bytes(k % 256 for k in range(count * 784))
        contents[f"{prefix}-labels-idx1-ubyte"] = bytes(8) + bytes(range(count))
    facts = replace(
        data.FashionMNIST.facts,
        digests={name: hashlib.sha256(raw).hexdigest() for name, raw in contents.items()},
        sizes={name: len(raw) for name, raw in contents.items()},
    )
    monkeypatch.setattr(data.FashionMNIST, "facts", facts)
    monkeypatch.setitem(_download.NAMED, "fashion-mnist", facts)
    _mnist._decoded.cache_clear()
    return contents


@pytest.fixture
def packed(little):
    """The files of the little set as they lie at its home."""
    return {f"{name}.gz": gzip.compress(raw, mtime=0) for name, raw in little.items()}


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `cut` bytes into an answer the connection breaks, and ranges are honored unless told not to."""

    cut: int | None = None
    ranges = True
    asked: list[str | None]

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = self.translate_path(self.path)
        self.asked.append(self.headers.get("Range"))
        try:
            content = Path(path).read_bytes()
        except OSError:
            self.send_error(404)
            return
        start, asked = 0, self.headers.get("Range")
        if asked and type(self).ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest if type(self).cut is None else rest[: type(self).cut])
        self.close_connection = True


@pytest.fixture
def server(tmp_path):
    """A web server: the handler's class (to change its manners), its address, and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = type("Handler", (_Server,), {"asked": []})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    ) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield handler, f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
