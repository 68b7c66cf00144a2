import hashlib

import pytest

from pellucid.core import DataError
from pellucid.data import _fetch
from pellucid.data._fetch import fetch

CONTENT = bytes(range(256)) * 40
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def source(server):
    """A server with one file, its manners, and its address."""
    (server[2] / "file").write_bytes(CONTENT)
    return server[0], f"{server[1]}file"


def got(url, path, **changes):
    fetch(url, path, **{"size": len(CONTENT), "digest": DIGEST, **changes})
    return path.read_bytes()


def test_a_cut_connection_is_opened_again_where_it_broke(source, tmp_path):
    handler, url = source
    handler.cut = 3000
    assert got(url, tmp_path / "a") == CONTENT
    assert handler.asked == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]


def test_a_later_call_goes_on(source, tmp_path):
    handler, url = source
    (tmp_path / "a.part").write_bytes(CONTENT[:10_000])
    seen = []
    assert got(url, tmp_path / "a", on_step=lambda done, total: seen.append((done, total))) == CONTENT
    assert handler.asked == ["bytes=10000-"]
    assert seen[0] == (10_000, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_what_came_before_ctrl_c_is_kept_and_a_later_call_goes_on(source, tmp_path):
    handler, url = source
    handler.cut = 3000

    def stop(done, total):
        if done >= 6000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        got(url, tmp_path / "a", on_step=stop)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("a")] == ["a.part"]
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:6000]
    assert got(url, tmp_path / "a") == CONTENT
    assert handler.asked[-2:] == ["bytes=6000-", "bytes=9000-"]


def test_a_server_without_ranges_sends_all_again(source, tmp_path):
    handler, url = source
    handler.ranges = False
    (tmp_path / "a.part").write_bytes(b"x" * 5000)
    assert got(url, tmp_path / "a") == CONTENT


def test_a_part_of_something_else_costs_one_more_try(source, tmp_path):
    handler, url = source
    (tmp_path / "a.part").write_bytes(b"x" * 5000)
    assert got(url, tmp_path / "a") == CONTENT
    assert handler.asked == ["bytes=5000-", None]
    (tmp_path / "b.part").write_bytes(b"x" * 50_000)  # longer than the whole
    assert got(url, tmp_path / "b") == CONTENT


def test_a_server_that_stops_is_given_up_and_the_part_kept(source, tmp_path):
    handler, url = source
    (tmp_path / "a.part").write_bytes(CONTENT[:4000])
    handler.cut = 0
    with pytest.raises(OSError, match="the connection was cut after 4,000 of 10,240 bytes"):
        got(url, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "a.part").stat().st_size == 4000


def test_no_server_is_said_at_once(tmp_path):
    with pytest.raises(OSError, match="refused"):
        got("http://127.0.0.1:9/file", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_wrong_content_is_not_kept(source, tmp_path):
    _, url = source
    with pytest.raises(DataError, match="not the file it should be: its sha256 differs"):
        got(url, tmp_path / "a", digest=f"sha256:{'0' * 64}")
    with pytest.raises(DataError, match="larger than 100 bytes"):
        got(url, tmp_path / "a", size=100)
    assert not (tmp_path / "a").exists()


def test_a_right_file_is_kept_without_asking(source, tmp_path):
    handler, url = source
    (tmp_path / "a").write_bytes(CONTENT)
    assert got(url, tmp_path / "a") == CONTENT
    assert handler.asked == []


def test_a_full_disk_is_not_tried_again(source, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_fetch, "_append", full)
    with pytest.raises(OSError, match="No space left"):
        got(source[1], tmp_path / "a")
