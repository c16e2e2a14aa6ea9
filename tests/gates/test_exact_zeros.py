"""prune: what is behind a closed gate is a plain zero, and every dtype stays."""

from __future__ import annotations

import pytest
import torch

import l0func as l0
from l0func import axis, element
from l0func.gates.masks import deterministic_gates

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_behind_closed_gates_have_no_sign(dtype):
    params = {"w": -torch.ones(4, 3, dtype=dtype)}
    spec = l0.gate_spec(params, {"w": axis(0)})
    gates = {"w": torch.tensor([9.0, -9.0, 9.0, -9.0]).to(spec.gates[0].dtype)}
    w = l0.prune(params, gates, spec)["w"]
    assert w.dtype == dtype
    real = torch.view_as_real(w) if dtype.is_complex else w
    assert torch.equal((w != 0).any(1), torch.tensor([True, False, True, False]))
    assert not bool(torch.signbit(real[1]).any())


def test_owned_and_multiplied_entries_agree_with_a_loop():
    torch.manual_seed(0)
    params = {"a": torch.randn(3, 2), "b": torch.randn(3, 3), "flags": torch.ones(3).bool()}
    groups = {"u": l0.group({"b": axis(1)}, {"a": axis(0), "b": axis(0), "flags": axis(0)})}
    spec = l0.gate_spec(params, {"a": element()}, groups=groups)
    gates = {"u": torch.tensor([1.0, -9.0, 0.3]), "a": torch.randn(3, 2) * 4}
    z = deterministic_gates(gates, spec, "louizos")
    pruned = l0.prune(params, gates, spec)
    for i in range(3):
        open_row = bool(z["u"][i] != 0)
        assert bool(pruned["flags"][i]) == open_row
        for j in range(2):
            expected = params["a"][i, j] * z["a"][i, j] * open_row
            torch.testing.assert_close(pruned["a"][i, j], expected)
        for j in range(3):
            # On the diagonal a unit meets itself: its gate counts once.
            expected = params["b"][i, j] * z["u"][j] * (open_row or i == j)
            torch.testing.assert_close(pruned["b"][i, j], expected)
