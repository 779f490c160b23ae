"""Downloads are checked, kept, gone on with, and say what to do where there is no connection."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from minibrillm.checks import UserError
from minibrillm.text import DOWNLOADS, Download, corpus_path, fetch_corpus, locate


def written(folder: Path, content: bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one content, in the way a test asks for."""

    content: ClassVar[bytes] = b""
    cut_at: ClassVar[int | None] = None  # bytes of the body after which the connection ends
    ranges: ClassVar[bool] = True
    status: ClassVar[int] = 200
    asked: ClassVar[list[str | None]] = []  # the Range of every request

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        type(self).asked.append(wanted)
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if first > len(self.content) - 1 and wanted:
            self.send_error(416)
            return
        if self.status != 200:
            self.send_error(self.status)
            return
        body = self.content[first:]
        self.send_response(206 if wanted and self.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cut_at])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Server]]:
    """A server on this machine, and two corpora of it, "plain" and "table"."""
    header, row = "dynasty\tauthor\ttitle\tbody\n", "元\t某\t题\t清蟾半露。\n"
    table = (header + 1500 * row).encode()
    handler = type("Handler", (Server,), {"content": table, "asked": []})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.server_port}/text"
    digest = hashlib.sha256(table).hexdigest()
    poems = hashlib.sha256((1500 * "清蟾半露。\n").encode()).hexdigest()
    plain = Download("plain", url, "plain.txt", digest, "plain.txt", digest)
    column = DOWNLOADS["yuan"].extract
    monkeypatch.setitem(DOWNLOADS, "plain", plain)
    monkeypatch.setitem(
        DOWNLOADS, "table", Download("table", url, "table.all", digest, "table.txt", poems, column)
    )
    monkeypatch.setenv("MINIBRILLM_CACHE", str(tmp_path / "cache"))
    yield handler
    listening.shutdown()
    listening.server_close()
    thread.join()


def cached(tmp_path: Path) -> set[str]:
    return {p.name for p in (tmp_path / "cache").iterdir()}


def test_a_corpus_is_downloaded_once(server: type[Server], tmp_path: Path) -> None:
    path = fetch_corpus("plain")
    assert path == tmp_path / "cache" / "plain.txt"
    assert path.read_bytes() == server.content
    assert fetch_corpus("plain") == corpus_path("plain") == locate("plain") == path
    assert server.asked == [None]
    assert cached(tmp_path) == {"plain.txt"}


def test_the_text_of_a_table_is_taken_out(server: type[Server], tmp_path: Path) -> None:
    path = fetch_corpus("table", progress=True)
    assert path.read_text(encoding="utf-8") == 1500 * "清蟾半露。\n"
    path.unlink()
    assert fetch_corpus("table") == path  # made anew of the file in the cache
    assert server.asked == [None]
    assert cached(tmp_path) == {"table.all", "table.txt"}


def test_a_wrong_hash_is_refused_and_nothing_kept(server: type[Server], tmp_path: Path) -> None:
    server.content = server.content.replace("半".encode(), "全".encode())
    expected = DOWNLOADS["plain"]
    with pytest.raises(UserError) as refused:
        fetch_corpus("plain")
    for part in (expected.sha256, expected.url, str(tmp_path / "cache" / "plain.txt")):
        assert part in str(refused.value)
    assert cached(tmp_path) == set()
    with pytest.raises(UserError, match="not on this machine; run: minibrillm corpus fetch plain"):
        corpus_path("plain")


def test_a_cut_connection_is_gone_on_with(server: type[Server], tmp_path: Path) -> None:
    server.cut_at = 20_000  # a part of so many bytes comes in pieces of 4,096
    with pytest.raises(UserError, match="broke off; 16,384 bytes are kept; try again, or save it"):
        fetch_corpus("plain")
    assert cached(tmp_path) == {"plain.txt.part"}
    server.cut_at = None
    assert fetch_corpus("plain").read_bytes() == server.content
    assert server.asked == [None, "bytes=16384-"]
    assert cached(tmp_path) == {"plain.txt"}


def test_a_server_that_only_sends_whole_files(server: type[Server]) -> None:
    server.cut_at, server.ranges = 20_000, False
    with pytest.raises(UserError, match="16,384 bytes are kept"):
        fetch_corpus("plain")
    server.cut_at = None
    assert fetch_corpus("plain").read_bytes() == server.content
    assert server.asked == [None, "bytes=16384-", None]


@pytest.mark.parametrize("longer", [b"", b"and more"], ids=["whole", "too long"])
def test_a_part_that_cannot_be_gone_on_with(
    server: type[Server], tmp_path: Path, longer: bytes
) -> None:
    (tmp_path / "cache").mkdir()
    part = tmp_path / "cache" / "plain.txt.part"
    part.write_bytes(server.content + longer)
    assert fetch_corpus("plain").read_bytes() == server.content
    assert not part.exists()


def test_a_part_of_something_else_is_thrown_away(server: type[Server], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "plain.txt.part").write_bytes(b"something else")
    assert fetch_corpus("plain").read_bytes() == server.content


def test_no_connection_says_what_to_do(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://127.0.0.1:9/text"  # nobody listens there
    old = DOWNLOADS["plain"]
    monkeypatch.setitem(
        DOWNLOADS, "plain", Download("", url, old.file, old.sha256, old.file, old.sha256)
    )
    with pytest.raises(UserError) as refused:
        fetch_corpus("plain")
    place = tmp_path / "cache" / "plain.txt"
    assert str(refused.value).startswith(f"no connection to {url} (")
    assert str(refused.value).endswith(f"; try again, or save it by other means as {place}")
    place.write_bytes(server.content)  # as it says
    assert fetch_corpus("plain") == place


def test_a_server_that_refuses(server: type[Server], tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(UserError, match=r"the server refused http\S+ \(404\); try again"):
        fetch_corpus("plain")
    assert cached(tmp_path) == set()


def test_what_is_cached_works_offline_and_damage_is_seen(
    server: type[Server], tmp_path: Path
) -> None:
    path = fetch_corpus("plain")
    server.status = 500
    assert fetch_corpus("plain") == path
    path.write_bytes(b"damaged")
    with pytest.raises(
        UserError, match="the corpus plain is damaged; run: minibrillm corpus fetch"
    ):
        corpus_path("plain")
    server.status = 200
    assert fetch_corpus("plain").read_bytes() == server.content


def test_a_cache_that_cannot_be_written(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, b"a file")
    monkeypatch.setenv("MINIBRILLM_CACHE", str(file / "below"))
    with pytest.raises(UserError, match="cannot write to"):
        fetch_corpus("plain")


def test_unknown_names(tmp_path: Path) -> None:
    for find in (fetch_corpus, corpus_path):
        with pytest.raises(UserError, match="no corpus 'nothing'; choose one of tinyshakespeare"):
            find("nothing")
    with pytest.raises(UserError, match=r"no corpus of that name \(there are bundled, tinysh"):
        locate(tmp_path / "nothing")
    assert locate(written(tmp_path, b"text")) == tmp_path / "text.txt"


def test_downloads_are_pinned() -> None:
    for known in DOWNLOADS.values():
        assert any(
            len(part) == 40 and set(part) <= set("0123456789abcdef")
            for part in known.url.split("/")
        )
        assert len(known.sha256) == len(known.text_sha256) == 64
        assert (known.extract is None) == (known.file == known.text_file)
        assert (known.extract is None) == (known.sha256 == known.text_sha256)
