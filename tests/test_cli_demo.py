"""The command `demo`."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from conftest import Command, is_refused

from minibrillm.cli import demo
from minibrillm.runs import load_training


def test_demo(minibrillm: Command, tmp_path: Path) -> None:
    said = minibrillm("demo", "--steps", 1, "--out", tmp_path / "run")
    assert (said.code, said.err) == (0, "")
    for part in ("not trained on, Chinese:", "not trained on, English:", "begins with '一天早上'"):
        assert part in said.out
    assert said.out.count("BriLLM of step 1, document by document") == 2
    assert re.search(r"^一天早上.+$", said.out, re.MULTILINE)
    assert re.search(r"^One morning.+$", said.out, re.MULTILINE)
    for language in ("zh", "en"):
        assert load_training(tmp_path / "run" / language).step == 1


def next_commands(said: str) -> list[list[str]]:
    """The three commands that the demo ends with, as a shell reads them."""
    lines = said.splitlines()[-6:]
    assert "Three commands to try next" in lines[0]
    assert all(line.startswith("  ") for line in lines[1::2])
    return [shlex.split(line) for line in lines[1::2]]


@pytest.mark.skipif(os.name == "nt", reason="its shell has other quotes")
@pytest.mark.parametrize("out", [None, "kept here"])
def test_what_the_demo_says_to_try_next_works(
    minibrillm: Command, tmp_path: Path, out: str | None
) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)  # in the way
    keep = () if out is None else ("--out", out)
    said = minibrillm("demo", "--steps", 1, *keep)
    (first, train, *named), (second, generate, *prompt), (jupyter, notebook) = next_commands(
        said.out
    )
    assert (first, train, second, generate) == ("minibrillm", "train", "minibrillm", "generate")
    assert Path(prompt[0]) == (Path("runs/mine2") if out is None else Path(out, "en"))
    assert Path(prompt[0]).exists() == (out is not None)
    trained = minibrillm(train, *named, "--steps", 1)
    assert (trained.code, trained.err) == (0, "")
    made = minibrillm(generate, *prompt, "--tokens", 5)
    assert (made.code, made.err) == (0, "")
    assert made.out.startswith("One morning")
    assert jupyter == "jupyter-lab"
    assert importlib.util.find_spec("jupyterlab") is not None
    assert Path(notebook).is_file()
    assert Path(notebook.replace("/en/", "/zh/")).is_file()


@pytest.mark.parametrize(
    ("argv", "orig_argv", "which", "said"),
    [
        ("/b/minibrillm", [], "/b/minibrillm", ["minibrillm", "jupyter-lab"]),
        (".venv/bin/minibrillm", [], None, [".venv/bin/minibrillm", ".venv/bin/jupyter-lab"]),
        (
            "/p/minibrillm/__main__.py",
            ["a b/python", "-m", "minibrillm"],
            None,
            ["'a b/python' -m minibrillm", "'a b/python' -m jupyterlab"],
        ),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="its paths and quotes are others")
def test_commands_are_named_as_this_one_was_called(
    monkeypatch: pytest.MonkeyPatch,
    argv: str,
    orig_argv: list[str],
    which: str | None,
    said: list[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [argv])
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    monkeypatch.setattr(shutil, "which", lambda name: which)
    commands = [("minibrillm", "minibrillm"), ("jupyter-lab", "jupyterlab")]
    assert [demo.beside(*command) for command in commands] == said


def test_without_notebooks_the_demo_names_none(
    minibrillm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "first_notebook", lambda: None)
    *_, (program, command, *named) = next_commands(minibrillm("demo", "--steps", 1).out)
    assert (program, command) == ("minibrillm", "compare")
    compared = minibrillm(command, *named, "--minutes", 0.001)
    assert compared.code == 0
    assert "BriLLM mini-ngrams" in compared.out


@pytest.mark.parametrize("options", ["--steps 0", "--steps -3", "--seed -1", "--backend x"])
def test_impossible_demo(minibrillm: Command, options: str) -> None:
    is_refused(minibrillm("demo", *options.split()), options.split()[0].strip("-"))


def test_ctrl_c_in_the_demo_keeps_nothing(
    minibrillm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minibrillm.machine import Interrupted
    from minibrillm.training import Trainer

    def stop(self: Trainer, **settings: object) -> None:
        raise Interrupted("interrupted after step 1")

    monkeypatch.setattr(Trainer, "train", stop)
    said = minibrillm("demo", "--backend", "numpy")
    assert (said.code, said.err) == (130, "interrupted after step 1\n")
