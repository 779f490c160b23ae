"""Public texts, downloaded on demand and checked: nothing is taken that is not the very text."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibrillm.checks import UserError


@dataclass(frozen=True)
class Download:
    """A public text that is downloaded on demand, and checked.

    Parameters
    ----------
    about : str
    url : str
        Names a commit, so that what it holds cannot change.
    file : str
        Name in the cache.
    sha256 : str
        Of that file.
    text_file, text_sha256 : str
        The text made of it, and what must come out.
    extract : callable, optional
        Makes the text of the file; without it the file is the text.
    """

    about: str
    url: str
    file: str
    sha256: str
    text_file: str
    text_sha256: str
    extract: Callable[[bytes], bytes] | None = None


def _last_column(data: bytes) -> bytes:
    """The fourth column of a table with tabs and a header: one poem a line."""
    lines = data.decode("utf-8").splitlines()[1:]
    return ("\n".join(line.split("\t")[3] for line in lines) + "\n").encode("utf-8")


_SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

DOWNLOADS: dict[str, Download] = {
    "tinyshakespeare": Download(
        "40,000 lines of Shakespeare's plays, English, public domain; 1.1 million characters",
        "https://raw.githubusercontent.com/karpathy/char-rnn/"
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        "tinyshakespeare.txt",
        _SHAKESPEARE,
        "tinyshakespeare.txt",
        _SHAKESPEARE,
    ),
    "yuan": Download(
        "poems of the Yuan dynasty, Chinese, public domain, one a line; 850 thousand characters",
        "https://raw.githubusercontent.com/DevinZ1993/Chinese-Poetry-Generation/"
        "1b87fa388adefaf187cf49368ed1ea5aafe93b1e/raw_data/yuan.all",
        "yuan.all",
        "73608d494f2203fcd50cc981e61701e73cb5cf014438a875dcbbd5514a3546d4",
        "yuan.txt",
        "c06e218f5dab6a8025409ab9e53284da51f26d6259cb5b804d754dd8ead738ce",
        _last_column,
    ),
}


def cache_folder() -> Path:
    """Where downloads are kept: ``MINIBRILLM_CACHE``, or the system's folder for such files."""
    import pooch

    return Path(os.environ.get("MINIBRILLM_CACHE") or pooch.os_cache("minibrillm"))


def downloaded_path(name: str) -> Path:
    """The file of a corpus that `fetch_corpus` has brought, checked again.

    Raises
    ------
    UserError
        No such corpus, or it is not on this machine, or it is damaged.
    """
    known = _known_download(name)
    path = cache_folder() / known.text_file
    if _sha256(path) != known.text_sha256:
        state = "damaged" if path.exists() else "not on this machine"
        raise UserError(f"the corpus {name} is {state}; run: minibrillm corpus fetch {name}")
    return path


def _known_download(name: str) -> Download:
    if name not in DOWNLOADS:
        raise UserError(f"there is no corpus {name!r}; choose one of {', '.join(DOWNLOADS)}")
    return DOWNLOADS[name]


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def fetch_corpus(name: str, progress: bool = False) -> Path:
    """Download a corpus unless it is in the cache already, check it, and return its file.

    What arrived before a connection was cut is kept and the rest asked for the next time; a file
    counts only once its sha256 is right.

    Parameters
    ----------
    name : str
        A key of `DOWNLOADS`.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    UserError
        No connection, a wrong checksum, or a cache that cannot be written: says where the file
        is expected, so that it can be put there by other means.
    """
    known = _known_download(name)
    folder = cache_folder()
    text = folder / known.text_file
    if _sha256(text) == known.text_sha256:
        return text
    try:
        file = _fetch(known, folder, progress)
        if known.extract is not None:
            _write_whole(text, known.extract(file.read_bytes()))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
    return text


def _fetch(known: Download, folder: Path, progress: bool) -> Path:
    """The checked file of a download, by pooch."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    part = folder / f"{known.file}.part"
    store = pooch.create(folder, "", registry={known.file: f"sha256:{known.sha256}"})
    store.urls = {known.file: known.url}

    def resume(url: str, output: str, _: Any) -> None:
        headers = {"Accept-Encoding": "identity"}
        if part.exists():
            headers["Range"] = f"bytes={part.stat().st_size}-"
        with part.open("ab") as end:
            pooch.HTTPDownloader(progress, 4096, headers=headers)(url, end, store)
        part.replace(output)

    otherwise = f"try again, or save it by other means as {folder / known.file}"
    resumed = part.exists()
    try:
        try:
            store.fetch(known.file, downloader=resume)
        except (ValueError, requests.HTTPError):
            if not resumed:
                raise
            part.unlink(missing_ok=True)  # the beginning was not that of this file: once more
            store.fetch(known.file, downloader=resume)
    except requests.HTTPError as error:
        part.unlink(missing_ok=True)
        status = "an error" if error.response is None else error.response.status_code
        raise UserError(f"the server refused {known.url} ({status}); {otherwise}") from None
    except requests.ConnectionError as error:
        raise UserError(f"no connection to {known.url} ({_reason(error)}); {otherwise}") from None
    except requests.RequestException as error:
        kept = f"; {part.stat().st_size:,} bytes are kept" if part.exists() else ""
        raise UserError(f"the download of {known.url} broke off{kept}; {otherwise}") from error
    except ValueError:
        raise UserError(
            f"what came from {known.url} has not the sha256 {known.sha256} and was not kept; "
            f"{otherwise}"
        ) from None
    return folder / known.file


def _reason(error: BaseException) -> str:
    """The innermost cause of a failed connection, in a few words."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    reason = getattr(error, "reason", error)
    return re.sub(r"^.*?: ", "", str(reason))


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
