"""However loud an answer, the signal it sends on is shorter than the bound (MODEL.md, eq. 6)."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import VARIANTS, random_ids, random_model, without_bound
from small_trainings import TEXT

from minibrillm.functional import bound_of, saturate, saturate_backward
from minibrillm.model import BriLLM
from minibrillm.runs import load
from minibrillm.storage import save_checkpoint

BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"])


@BACKENDS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variant", ["mini, tight", "released, bound", "mini, 4-grams"])
def test_no_signal_is_longer_than_the_bound(variant: str, dtype: type, backend: str) -> None:
    """MODEL.md, "How large a signal can grow", where matrices are as large as numbers allow."""
    model = random_model(VARIANTS[variant], dtype=dtype, backend=backend)
    bound = bound_of(model.parameters)
    tokens = random_ids(4 * 40, 9, np.random.default_rng(1)).reshape(4, 40)
    for factor in (0.1, 1, 40, 1e6):
        for name, array in model.parameters.items():
            if name.endswith(("weight", "bias")) and name != "node_bias":
                array *= factor
        path = model.path(tokens)
        rounding = 1 + 20 * np.finfo(dtype).eps
        assert np.linalg.norm(path.signal, axis=-1).max() <= bound * rounding
        largest = max(bound, float(np.abs(path.incoming[:, 0]).max()))
        assert np.abs(path.incoming).max() <= largest * rounding
        assert np.isfinite(model.nll(tokens)[0]).all()
    loud = np.linalg.norm(path.signal, axis=-1) > 0.9 * bound
    assert loud.any(), "no signal came near the bound: nothing was tested"


def test_a_quiet_answer_goes_on_as_it_is_and_of_a_loud_one_the_direction() -> None:
    y = np.random.default_rng(0).normal(size=(5, 7))
    np.testing.assert_allclose(saturate(1e-3 * y, 8.0), 1e-3 * y, rtol=1e-5)
    loud = saturate(1e9 * y, 8.0)
    np.testing.assert_allclose(loud, 8 * y / np.linalg.norm(y, axis=1)[:, None], rtol=1e-9)
    np.testing.assert_array_equal(saturate(y, 0.0), y)
    assert np.isfinite(saturate(np.full(4, 1e30, np.float32), 8.0)).all()


def test_the_gradient_of_a_saturated_signal_is_that_of_central_differences() -> None:
    rng = np.random.default_rng(0)
    y, ds = rng.normal(size=(6, 5)) * 10 ** rng.uniform(-2, 2, (6, 1)), rng.normal(size=(6, 5))
    (found, d_log_bound), step = saturate_backward(ds, y, 1.3), 1e-6
    for index in np.ndindex(y.shape):
        change = np.zeros_like(y)
        change[index] = step * max(abs(y[index]), 1e-3)
        slope = ((saturate(y + change, 1.3) - saturate(y - change, 1.3)) * ds).sum()
        assert found[index] == pytest.approx(slope / (2 * change[index]), rel=1e-5, abs=1e-8)
    wider, tighter = (saturate(y, 1.3 * math.exp(x)) for x in (step, -step))
    slope = ((wider - tighter) * ds).sum(axis=1) / (2 * step)
    np.testing.assert_allclose(d_log_bound, slope, rtol=1e-6, atol=1e-9)
    unbounded, nothing = saturate_backward(ds, y, 0.0)
    np.testing.assert_array_equal(unbounded, ds)
    assert not nothing.any()


def test_a_checkpoint_from_before_the_bound_has_none(tmp_path: Path) -> None:
    model = without_bound(BriLLM.from_text(TEXT, d_node=4, backend="numpy"))
    folder = save_checkpoint(tmp_path, model)
    about = folder / "model.json"
    written = about.read_text(encoding="utf-8")
    older = re.sub(r',\s*"signal_bound": 0.0', "", written)
    assert older != written
    about.write_text(older, encoding="utf-8")
    assert load(tmp_path).config.signal_bound == 0
