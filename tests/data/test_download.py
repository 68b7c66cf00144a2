import functools
import gzip
import hashlib
import http.server
import threading

import pytest

from pellucid import data
from pellucid.core import DataError, DataMissing
from pellucid.data import _download, _fashion_mnist, _places


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A little web server that holds four small files; their digests take the place of the real ones."""
    monkeypatch.setattr(_places, "SYSTEM", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PELLUCID_DATA", raising=False)
    monkeypatch.setattr(_fashion_mnist, "COUNTS", {"train": 2, "test": 2})
    served = tmp_path / "home"
    served.mkdir()
    packed, decoded = {}, {}
    for stem in _fashion_mnist.DECODED:
        raw = bytes(16 + 2 * 784) if "images" in stem else bytes(8) + bytes([0, 1])
        (served / f"{stem}.gz").write_bytes(gzip.compress(raw, mtime=0))
        packed[f"{stem}.gz"] = hashlib.sha256((served / f"{stem}.gz").read_bytes()).hexdigest()
        decoded[stem] = hashlib.sha256(raw).hexdigest()
    monkeypatch.setattr(_download, "PACKED", packed)
    monkeypatch.setattr(_fashion_mnist, "DECODED", decoded)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", served
        server.shutdown()


def test_files_are_fetched_checked_and_then_found(home):
    with pytest.raises(DataMissing, match="get it with `pellucid data get fashion-mnist`"):
        data.verify("fashion-mnist")
    seen = []
    folder = data.download(
        "fashion-mnist", homes=("http://127.0.0.1:9/", home[0]), on_step=lambda k, n: seen.append((k, n))
    )
    assert seen[-1] == (4, 4)
    assert data.verify("fashion-mnist") == folder
    assert len(data.load("fashion-mnist", split="train")) == 2


def test_a_wrong_file_is_refused_and_not_kept(home, tmp_path):
    (home[1] / "t10k-labels-idx1-ubyte.gz").write_bytes(b"another file")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz could not be downloaded .*PELLUCID_DATA"):
        data.download("fashion-mnist", homes=home[:1])
    assert not list(tmp_path.rglob("cache/**/t10k-labels*"))


def test_unknown_names_are_refused():
    for function in (data.download, data.verify):
        with pytest.raises(DataError, match="no data set 'mnist' to get or verify"):
            function("mnist")
