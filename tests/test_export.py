"""Out of the library: files, torch.export, ONNX, sparse rows; what comes back computes the same."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import torch
from strangers import STRANGERS
from test_compact import drawn, problem
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import BY_NAME

import l0func as l0
from l0func.functional import Functional

MODERN = hasattr(torch.compiler, "is_compiling")
CASES = {c.name: c for c in STRANGERS} | BY_NAME
EXPORTED = ["cnn", "residual", "unet", "separable", "resnext", "encoder_of_linears", "attention", "transformer"]


def compacted(name: str) -> tuple[nn.Module, tuple, Functional]:
    fn, params, buffers, spec, inputs = problem(CASES[name], torch.float32)
    small = l0.compact(fn, params, drawn(spec, 0.5), buffers, spec)
    return l0.to_module(*small).eval(), inputs, small


@pytest.mark.skipif(not MODERN, reason="torch 2.1 exports by another interface")
@pytest.mark.parametrize("name", [*EXPORTED, "gru", "tagger_lstm"])
def test_a_compacted_module_goes_through_torch_export(name):
    module, inputs, _ = compacted(name)
    exported = torch.export.export(module, inputs)
    torch.testing.assert_close(exported.module()(*inputs), module(*inputs))


@pytest.mark.skipif(not MODERN, reason="torch 2.1 exports by another interface")
@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_computes_what_the_compacted_module_does(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    module, inputs, _ = compacted(name)
    torch.onnx.export(module, inputs, tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    (output, *_) = session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
    torch.testing.assert_close(torch.as_tensor(output), module(*inputs).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["unet", "tagger_gru", "transformer"])
def test_a_state_dict_round_trip_is_bit_equal(name):
    module, inputs, small = compacted(name)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = l0.to_module(small.fn, {n: torch.zeros_like(p) for n, p in small.params.items()}, small.buffers).eval()
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(*inputs), module(*inputs))


@pytest.mark.parametrize("name", ["unet", "transformer"])
def test_a_compacted_module_goes_through_safetensors(name, tmp_path):
    library = pytest.importorskip("safetensors.torch")
    module, inputs, small = compacted(name)
    library.save_file(module.state_dict(), tmp_path / "net.safetensors")
    other = l0.to_module(small.fn, {n: torch.zeros_like(p) for n, p in small.params.items()}, small.buffers).eval()
    other.load_state_dict(library.load_file(tmp_path / "net.safetensors"))
    assert torch.equal(other(*inputs), module(*inputs))


def test_an_exported_network_needs_no_l0func_to_run(tmp_path):
    if not MODERN:
        pytest.skip("torch 2.1 exports by another interface")
    module, inputs, _ = compacted("transformer")
    torch.export.save(torch.export.export(module, inputs), tmp_path / "net.pt2")
    torch.save((inputs, module(*inputs).detach()), tmp_path / "example.pt")
    code = (
        "import sys, torch; sys.modules['l0func'] = None\n"
        f"inputs, expected = torch.load({str(tmp_path / 'example.pt')!r})\n"
        f"net = torch.export.load({str(tmp_path / 'net.pt2')!r}).module()\n"
        "torch.testing.assert_close(net(*inputs), expected)\n"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["cnn", "resnext", "separable"])
def test_a_plain_module_is_made_of_torchs_classes_only(name):
    module, _, _ = compacted(name)
    own = type(CASES[name].build()).__module__
    assert all(type(m).__module__.startswith(("torch.", own)) for m in module.modules())


# Files


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
        loss = F.mse_loss(rows(params, gates, buffers, keys, x), torch.ones(5, 3)) + l0.penalty(params, gates, spec)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return params, gates, adam.state_dict()["state"]


def copies(tree: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in tree.items()}


def test_saved_loaded_and_continued_equals_uninterrupted_bit_for_bit(tmp_path):
    pytest.importorskip("safetensors")
    fn, params, buffers = l0.make_functional(BY_NAME["mlp"].build())
    spec = l0.gate_spec(params, {"0.*": l0.axis(0), "2.weight": l0.element()}, distribution=l0.HardConcrete(temperature=0.5))
    gates = l0.init_gates(l0.random.key(0), spec)
    whole, whole_gates, _ = trained(copies(params), copies(gates), buffers, spec, fn, None, 6, 0)
    half, half_gates, extra = trained(copies(params), copies(gates), buffers, spec, fn, None, 3, 0)
    l0.save(tmp_path / "half.safetensors", half, half_gates, buffers, spec, extra)
    back = l0.load(tmp_path / "half.safetensors")
    assert back.spec == spec
    assert list(back.params) == list(params)
    end, end_gates, _ = trained(back.params, back.gates, back.buffers, back.spec, fn, back.extra, 3, 3)
    assert all(torch.equal(end[n], whole[n]) for n in whole)
    assert all(torch.equal(end_gates[n], whole_gates[n]) for n in whole_gates)


def test_groups_attributes_and_buffers_survive_a_file(tmp_path):
    pytest.importorskip("safetensors")
    fn, params, buffers, spec, inputs = problem(CASES["encoder_of_linears"], torch.float32)
    gates = drawn(spec, 0.5)
    l0.save(tmp_path / "net.safetensors", params, gates, buffers, spec)
    back = l0.load(tmp_path / "net.safetensors")
    small = l0.compact(fn, back.params, back.gates, back.buffers, back.spec)
    expected = l0.compact(fn, params, gates, buffers, spec)
    assert torch.equal(small.fn(small.params, small.buffers, *inputs), expected.fn(expected.params, expected.buffers, *inputs))


def test_files_that_are_no_such_files_are_refused(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    path = tmp_path / "some.safetensors"
    library.save_file({"w": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"was not written by l0func.save: its metadata says 'nothing'"):
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


# Sparse rows


def test_sparse_rows_compute_what_the_zeros_did():
    fn, params, buffers = l0.make_functional(nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5)))
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    pruned = l0.prune(params, drawn(spec, 0.1), spec)
    sparse = l0.to_sparse_csr(pruned)
    x = torch.randn(7, 40)
    torch.testing.assert_close(fn(sparse, buffers, x), fn(pruned, buffers, x))
    for path, p in pruned.items():
        assert sparse[path].layout == (torch.sparse_csr if p.dim() == 2 else torch.strided)
        assert torch.equal(sparse[path].to_dense() if p.dim() == 2 else sparse[path], p)
    assert sparse["0.weight"].values().numel() == int((pruned["0.weight"] != 0).sum())
    assert l0.to_sparse_csr(params)["0.weight"].layout == torch.strided
    with pytest.raises(ValueError, match=r"a share in \[0, 1\]; got max_density=2"):
        l0.to_sparse_csr(params, max_density=2)
