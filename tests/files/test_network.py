"""Files of networks: what was saved is loaded, bit for bit; what is no such file is refused."""

from __future__ import annotations

import pytest
import torch
from groups import problem, random_gates
from strangers import STRANGERS
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import BY_NAME

import l0func as l0

CASES = {c.name: c for c in STRANGERS} | BY_NAME


def trained(params, gates, buffers, spec, fn, extra, steps, start):
    """Adam on a per-example loss, from a state or from nothing."""
    leaves = [t.requires_grad_() for t in (*params.values(), *gates.values())]
    adam = torch.optim.Adam(leaves, lr=0.02)
    if extra:
        state: dict = {}
        for path, t in extra.items():
            number, name = path.split(".")
            state.setdefault(int(number), {})[name] = t
        adam.load_state_dict({"state": state, "param_groups": adam.state_dict()["param_groups"]})
    rows = l0.per_example(l0.gated(fn, spec))
    (x,) = BY_NAME["mlp"].batch()
    for step in range(start, start + steps):
        keys = l0.random.split(l0.random.fold_in(l0.random.key(5), step), len(x))
        loss = F.mse_loss(rows(params, gates, buffers, keys, x), torch.ones(5, 3)) + l0.penalty(
            params, gates, spec
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    return params, gates, adam.state_dict()["state"]


def copies(tree: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in tree.items()}


def test_saved_loaded_and_continued_equals_uninterrupted_bit_for_bit(tmp_path):
    pytest.importorskip("safetensors")
    fn, params, buffers = l0.make_functional(BY_NAME["mlp"].build())
    spec = l0.gate_spec(
        params,
        {"0.*": l0.axis(0), "2.weight": l0.element()},
        distribution=l0.HardConcrete(temperature=0.5),
    )
    gates = l0.init_gates(l0.random.key(0), spec)
    whole, whole_gates, _ = trained(copies(params), copies(gates), buffers, spec, fn, None, 6, 0)
    half, half_gates, extra = trained(copies(params), copies(gates), buffers, spec, fn, None, 3, 0)
    l0.save(tmp_path / "half.safetensors", half, half_gates, buffers, spec, extra)
    back = l0.load(tmp_path / "half.safetensors")
    assert back.spec == spec
    assert list(back.params) == list(params)
    end, end_gates, _ = trained(
        back.params, back.gates, back.buffers, back.spec, fn, back.extra, 3, 3
    )
    assert all(torch.equal(end[n], whole[n]) for n in whole)
    assert all(torch.equal(end_gates[n], whole_gates[n]) for n in whole_gates)


def test_groups_attributes_and_buffers_survive_a_file(tmp_path):
    pytest.importorskip("safetensors")
    fn, params, buffers, spec, inputs = problem(CASES["encoder_of_linears"], torch.float32)
    gates = random_gates(spec, 0.5)
    l0.save(tmp_path / "net.safetensors", params, gates, buffers, spec)
    back = l0.load(tmp_path / "net.safetensors")
    small = l0.compact(fn, back.params, back.gates, back.buffers, back.spec)
    expected = l0.compact(fn, params, gates, buffers, spec)
    assert torch.equal(
        small.fn(small.params, small.buffers, *inputs),
        expected.fn(expected.params, expected.buffers, *inputs),
    )


def test_files_that_are_no_such_files_are_refused(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    path = tmp_path / "some.safetensors"
    library.save_file({"w": torch.ones(2)}, path)
    with pytest.raises(
        ValueError, match=r"was not written by l0func.save: its metadata says 'nothing'"
    ):
        l0.load(path)
    _, params, buffers = l0.make_functional(nn.Linear(2, 2))
    spec = l0.gate_spec(params)
    gates = l0.init_gates(l0.random.key(0), spec)
    l0.save(path, params, gates, buffers, spec)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        l0.load(path)
    with pytest.raises(FileNotFoundError):
        l0.load(tmp_path / "none.safetensors")
    other = tmp_path / "nan.safetensors"
    with pytest.raises(ValueError, match="NaN"):
        l0.save(other, params, {n: g * float("nan") for n, g in gates.items()}, buffers, spec)
    assert not other.exists()
