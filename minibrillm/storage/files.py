"""Arrays and JSON objects as files: whole or not at all, damage told in one line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from minibrillm.checks import UserError

Array = np.ndarray


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays under a temporary name, flush and rename; a full disk is a `UserError`."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        write_arrays(temporary, arrays)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error}") from None


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as a safetensors file, on the disk when this returns."""
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)
    flush(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, on the disk when this returns."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    flush(path)


def read_arrays(path: Path) -> dict[str, Array]:
    """Read a safetensors file; a missing or damaged one is a `UserError`.

    The arrays can be changed, the file does not change with them. Where the system allows it
    they are the file itself, mapped: parts of a large model that are never used cost no time
    after the check, and what is used can be dropped when memory runs short.
    """
    try:
        # Elsewhere a mapped file cannot be deleted, as old checkpoints are.
        return _map_arrays(path) if os.name == "posix" else dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is the run complete?") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is damaged or cut short ({error})") from None


def _map_arrays(path: Path) -> dict[str, Array]:
    with safe_open(path, framework="numpy"):
        pass  # it refuses a damaged header and a file cut short
    arrays = {}
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        header.pop("__metadata__", None)
        for name, about in header.items():
            kind, bits = about["dtype"][0], int(about["dtype"][1:])  # such as F32, I64
            dtype = np.dtype(f"<{kind.lower()}{bits // 8}")
            offset, shape = start + about["data_offsets"][0], tuple(about["shape"])
            arrays[name] = np.memmap(file, dtype, "c", offset, shape).view(np.ndarray)
    return arrays


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing or damaged file is a `UserError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is the run complete?") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (expected a JSON object)")
    return value


def rename(source: Path, target: Path) -> None:
    """Rename a folder, patiently: on Windows a virus scanner may hold a fresh file for a moment."""
    for wait in (0.05, 0.2, 0.8):
        try:
            source.rename(target)
            return
        except PermissionError:
            time.sleep(wait)
    source.rename(target)


def flush(path: Path) -> None:
    """Bring a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Bring what was renamed in a folder to the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
