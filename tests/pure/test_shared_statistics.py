"""A vmap around a norm in training: its running statistics are mapped too, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l0func as l0

NORMS = {
    "batch": lambda: nn.BatchNorm1d(6),
    "instance": lambda: nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
}


def network(norm: str):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 6, 3), NORMS[norm](), nn.Conv1d(6, 1, 1))
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"1.*": None, "*": l0.element()})
    gates = l0.init_gates(l0.random.key(0), spec)
    keys, x = l0.random.split(l0.random.key(1), 3), torch.randn(4, 2, 8)
    return l0.gated(fn, spec), params, gates, buffers, keys, x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("call", ["plain", "with_buffers"])
def test_statistics_that_all_masks_share_are_refused_by_path(norm, call):
    apply, params, gates, buffers, keys, x = network(norm)
    called = apply if call == "plain" else apply.with_buffers
    mapped = torch.vmap(called, in_dims=(None, None, None, 0, None))
    with pytest.raises(ValueError, match=r"'1.running_mean'.* Map the buffers too"):
        mapped(params, gates, buffers, keys, x)


@pytest.mark.parametrize("call", ["plain", "with_buffers"])
def test_statistics_that_all_batches_share_are_refused_without_gates_too(call):
    apply, params, _, buffers, _, x = network("batch")
    called = apply.fn if call == "plain" else apply.fn.with_buffers
    with pytest.raises(ValueError, match=r"'1.running_mean'.* Map the buffers too"):
        torch.vmap(called, in_dims=(None, None, 0))(params, buffers, torch.stack([x, 2 * x]))


@pytest.mark.parametrize("norm", NORMS)
def test_mapped_statistics_are_those_of_a_loop(norm):
    apply, params, gates, buffers, keys, x = network(norm)
    stacked = {path: b.expand(3, *b.shape).clone() for path, b in buffers.items()}
    mapped = torch.vmap(apply.with_buffers, in_dims=(None, None, 0, 0, None))
    outputs, new = mapped(params, gates, stacked, keys, x)
    for i, key in enumerate(keys):
        output, own = apply.with_buffers(params, gates, buffers, key, x)
        torch.testing.assert_close(outputs[i], output)
        for path, buffer in own.items():
            torch.testing.assert_close(new[path][i], buffer)


def test_eval_mode_needs_no_mapped_statistics():
    apply, params, gates, buffers, keys, x = network("batch")
    evaluated = l0.gated(apply.fn.eval(), apply.spec)
    mapped = torch.vmap(evaluated, in_dims=(None, None, None, 0, None))
    loop = [evaluated(params, gates, buffers, key, x) for key in keys]
    torch.testing.assert_close(mapped(params, gates, buffers, keys, x), torch.stack(loop))
