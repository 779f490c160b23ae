"""No killed process and no full disk spoils the last checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from minibrillm.runs import load, load_training
from minibrillm.storage import latest_checkpoint

# a killed process

SAVE_FOREVER = """
import sys
from pathlib import Path
from minibrillm.model import BriLLM
from minibrillm.storage import TrainingState, latest_checkpoint, save_checkpoint

run = Path(sys.argv[1])
model = BriLLM.from_text("the cat sat on the mat. " * 9, d_node=4, backend="numpy")
last = latest_checkpoint(run)
step = int(last.name[5:]) if last else 0
print("ready", flush=True)
while True:
    step += 1
    for array in model.parameters.values():
        array[...] = step
    arrays = {f"mean.{name}": array for name, array in model.parameters.items()}
    save_checkpoint(run, model, TrainingState(step, arrays, {"twice": 2 * step}))
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = [tmp_path / f"run{k}" for k in range(4)]
    reached = dict.fromkeys(runs, 0)
    found = 0
    for _ in range(5):  # 4 runs × 5 rounds: 20 kills
        children = [start(SAVE_FOREVER, str(run)) for run in runs]
        for run, child in zip(runs, children, strict=True):
            assert child.stdout is not None
            try:
                assert child.stdout.readline() == "ready\n"
                time.sleep(rng.uniform(0, 0.05))
            finally:
                child.kill()
                child.wait()
                child.stdout.close()
            last = latest_checkpoint(run)
            if last is None:
                assert reached[run] == 0
                continue
            found += 1
            state, model = load_training(run), load(run, backend="numpy")
            assert state.step >= reached[run]
            assert last.name == f"step-{state.step:08d}"
            assert state.settings == {"twice": 2 * state.step}
            for name, array in {**model.parameters, **state.arrays}.items():
                assert (array == state.step).all(), name
            reached[run] = state.step
    assert found >= 10  # else the kills came too early to show anything
    assert min(reached.values()) > 0


# a full disk

FILL_THE_DISK = """
import json, resource, signal, sys
from pathlib import Path
import numpy as np
from minibrillm.checks import UserError
from minibrillm.model import BriLLM
from minibrillm.runs import load, load_training
from minibrillm.storage import TrainingState, save_arrays, save_checkpoint

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write that does not fit is then an OSError
run = Path(sys.argv[1])
model = BriLLM.from_text("the cat sat on the mat. " * 9, d_node=4, backend="numpy")
arrays = {f"mean.{name}": np.zeros(20000) for name in model.parameters}  # the largest file

def save(step):
    for array in model.parameters.values():
        array[...] = step
    save_checkpoint(run, model, TrainingState(step, arrays, {}))

def attempt(size, action):
    limit(size)
    try:
        action()
    except UserError as error:
        return str(error)
    finally:
        limit(resource.RLIM_INFINITY)
    return "no error"

save(1)
said = {}
sizes = {p.name: p.stat().st_size for p in (run / "checkpoints" / "step-00000001").iterdir()}
for name, size in sizes.items():
    said[name] = attempt(size - 1, lambda: save(2))
    kept = load(run, "numpy")
    assert all((array == 1).all() for array in kept.parameters.values())
    assert load_training(run).step == 1
    left = [p.name for p in (run / "checkpoints").iterdir()]
    assert left == ["step-00000001"], left
save_arrays(run / "text.safetensors", {"a": np.zeros(10)})
said["text.safetensors"] = attempt(
    1000, lambda: save_arrays(run / "text.safetensors", {"a": np.ones(1000)})
)
assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "text.safetensors"]
save(3)
assert load_training(run).step == 3
print(json.dumps([sizes, said]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_spares_the_last_checkpoint(tmp_path: Path) -> None:
    child = start(FILL_THE_DISK, str(tmp_path / "run"))
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    sizes, said = json.loads(out)
    # Each limit lets every smaller file pass: the save fails in another place each time.
    assert len(set(sizes.values())) == 4
    assert len(said) == 5
    for name, message in said.items():
        assert message.startswith("cannot write"), name
        assert "File too large" in message, name
    assert "earlier checkpoints are untouched" in said["model.safetensors"]
    kept = load_file(tmp_path / "run" / "text.safetensors")
    assert np.array_equal(kept["a"], np.zeros(10))
