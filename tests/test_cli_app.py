"""The command line as a whole: help, versions, one line for a mistake, a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import TEXT, Command, Result, is_refused
from typer.main import get_command

from minibrillm import __version__
from minibrillm.checks import ranges
from minibrillm.cli.app import app
from minibrillm.cli.terminal import in_options
from minibrillm.model import BriLLM


def test_info(minibrillm: Command) -> None:
    said = minibrillm("info")
    assert (said.code, said.err) == (0, "")
    facts = json.loads(minibrillm("info", "--json").out)
    assert facts["minibrillm"] == __version__
    assert facts["numpy"] == np.__version__
    assert facts["threads"] >= 1
    for name in ("python", "system", "numba", "threading layer", "BLAS", "Chinese font"):
        assert str(facts[name]) in said.out
        assert facts[name]


def test_version_and_help(minibrillm: Command) -> None:
    assert minibrillm("--version") == Result(0, f"minibrillm {__version__}\n", "")
    for name in ("-h", "--help"):
        said = minibrillm(name)
        assert said.code == 0
        for command in ("train", "demo", "evaluate", "generate", "parity", "info"):
            assert re.search(rf"^  {command}  ", said.out, re.MULTILINE)
            assert minibrillm(command, name).code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["train", "a.txt", "--fly"],
        ["train", "a.txt", "--steps", "many"],
        ["train", "a.txt", "--steps", "1.5"],
        ["train", "a.txt", "--minutes", "long"],
        ["train", "a.txt", "b.txt"],
        ["train", "a.txt", "--steps"],
        ["generate"],
        ["parity"],
        ["--fly"],
    ],
    ids=" ".join,
)
def test_usage(minibrillm: Command, arguments: list[str]) -> None:
    said = minibrillm(*arguments)
    assert (said.code, said.out) == (2, "")
    assert re.search(r"^Error: ", said.err, re.MULTILINE)
    assert "Traceback" not in said.err


def test_ctrl_c_outside_of_training(minibrillm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, encoding: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minibrillm.text.corpora.read_text", interrupted)
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    said = minibrillm("train", "a.txt")
    assert said.code == 130
    assert "Traceback" not in said.err


def test_a_file_that_the_system_refuses_is_one_line(minibrillm: Command) -> None:
    is_refused(minibrillm("train", "a" * 5000, "--steps", 1), "a" * 5000)


# What the library says, in the words of the command line


@pytest.mark.parametrize(
    ("library", "here"),
    [
        ("ModelConfig.d_node is 0; expected 1", "--d-node is 0; expected 1"),
        ("TrainConfig.seed is -1", "--seed is -1"),
        ("n_nodes is 1; expected 2", "--vocab-size is 1; expected 2"),
        ("train with signal_bound=8, or more", "train with --signal-bound 8, or more"),
        ("a new run with d_node=16 needs 2 GB", "a new run with --d-node 16 needs 2 GB"),
        ("a larger min_count leaves less", "a larger --min-count leaves less"),
        ("take a smaller learning_rate", "take a smaller --learning-rate"),
        ("knows 9 positions (max_positions)", "knows 9 positions (max_positions)"),
        ("take edges='three_part'", "take edges='three_part'"),
        ("there is no file top_k.txt", "there is no file top_k.txt"),
        ("runs/d_node is missing", "runs/d_node is missing"),
        ("d_node/a is missing", "d_node/a is missing"),
        ("the text has 9 tokens, no seed", "the text has 9 tokens, no seed"),
    ],
)
def test_settings_become_options(library: str, here: str) -> None:
    assert in_options(library) == here


def test_every_option_that_is_named_exists() -> None:
    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    known = {option for command in commands for each in command.params for option in each.opts}
    for name in (*ranges.MODEL, *ranges.TRAINING, *ranges.SAMPLING, "n_nodes", "n_tokens"):
        shown = in_options(f"{name} is 1").split()[0]
        assert shown in known or shown == name
        same = "--" + name.replace("_", "-")
        assert shown == same or same not in known or "_" not in name


def test_a_warning_is_one_line_and_no_more_than_a_screenful(
    minibrillm: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*arguments: object, **settings: object) -> Iterator[str]:
        warnings.warn("min_count is\nlow" + " and so on" * 99, stacklevel=1)
        yield "a"

    monkeypatch.setattr(BriLLM, "stream", warn)
    before = warnings.showwarning
    for _ in range(2):  # each time anew
        said = minibrillm("generate", trained, "--backend", "numpy")
        assert (said.code, said.out) == (0, "a\n")
        assert said.err.startswith("note: --min-count is low and so on")
        assert said.err.endswith(" …\n")
        assert said.err.count("\n") == 1
        assert len(said.err) < 320
    assert warnings.showwarning is before


# A process of its own


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "minibrillm", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_module_and_its_encoding(trained: Path) -> None:
    """Chinese comes out as UTF-8 even where Python would write another encoding."""
    tell = ("generate", trained, "--prompt", "妈妈", "--tokens", 5, "--backend", "numpy")
    made = process(*tell, PYTHONIOENCODING="ascii")
    assert (made.returncode, made.stderr) == (0, b"")
    assert made.stdout.decode("utf-8").startswith("妈妈")


def test_module_without_arguments_shows_help() -> None:
    said = process()
    assert b"Usage: python -m minibrillm" in said.stdout + said.stderr
    assert b"Traceback" not in said.stderr


def test_module_refuses_in_one_line() -> None:
    said = process("train", "没有.txt", PYTHONIOENCODING="ascii")
    line = said.stderr.decode("utf-8").replace("\r", "")
    is_refused(Result(said.returncode, said.stdout.decode("utf-8"), line), "没有.txt")


def test_starting_up_imports_little() -> None:
    """The version, the help and a mistake come at once: commands import what they need."""
    source = "import minibrillm.cli, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    found = set(json.loads(done.stdout))
    rooms = {name.split(".")[1] for name in found if name.startswith("minibrillm.")}
    assert rooms == {"checks", "cli", "face"}
    assert not found & {"numba", "scipy", "matplotlib", "torch", "tokenizers", "tqdm", "pooch"}
