"""Compacted networks through torch.export, ONNX and state_dicts compute the same afterwards."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import torch
from groups import problem, random_gates
from sampled import one_in, sampled
from strangers import STRANGERS
from torch import nn
from zoo import BY_NAME

import l0func as l0
from l0func.pure.functional import Functional

MODERN = hasattr(torch.compiler, "is_compiling")
CASES = {c.name: c for c in STRANGERS} | BY_NAME
EXPORTED = [
    "cnn",
    "residual",
    "unet",
    "separable",
    "resnext",
    "encoder_of_linears",
    "attention",
    "transformer",
]


def compacted(name: str) -> tuple[nn.Module, tuple, Functional]:
    fn, params, buffers, spec, inputs = problem(CASES[name], torch.float32)
    small = l0.compact(fn, params, random_gates(spec, 0.5), buffers, spec)
    return l0.to_module(*small).eval(), inputs, small


def with_zeros(small: Functional) -> nn.Module:
    zeros = {path: torch.zeros_like(p) for path, p in small.params.items()}
    return l0.to_module(small.fn, zeros, small.buffers).eval()


@pytest.mark.skipif(not MODERN, reason="torch 2.1 exports by another interface")
@pytest.mark.parametrize("name", [*EXPORTED, "gru", "tagger_lstm"])
def test_a_compacted_module_goes_through_torch_export(name):
    module, inputs, _ = compacted(name)
    exported = torch.export.export(module, inputs)
    torch.testing.assert_close(exported.module()(*inputs), module(*inputs))


@pytest.mark.on_cpu
@pytest.mark.skipif(not MODERN, reason="torch 2.1 exports by another interface")
@pytest.mark.parametrize("name", sampled(EXPORTED, one_in(4)))
@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_computes_what_the_compacted_module_does(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    module, inputs, _ = compacted(name)
    torch.onnx.export(module, inputs, tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(
        str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [given.name for given in session.get_inputs()]
    arrays = [x.numpy() for x in inputs]
    (output, *_) = session.run(None, dict(zip(names, arrays, strict=True)))
    expected = module(*inputs).detach()
    torch.testing.assert_close(torch.as_tensor(output), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["unet", "tagger_gru", "transformer"])
def test_a_state_dict_round_trip_is_bit_equal(name):
    module, inputs, small = compacted(name)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = with_zeros(small)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(*inputs), module(*inputs))


@pytest.mark.parametrize("name", ["unet", "transformer"])
def test_a_compacted_module_goes_through_safetensors(name, tmp_path):
    library = pytest.importorskip("safetensors.torch")
    module, inputs, small = compacted(name)
    library.save_file(module.state_dict(), tmp_path / "net.safetensors")
    other = with_zeros(small)
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
        f"inputs, expected = torch.load({str(tmp_path / 'example.pt')!r}, weights_only=True)\n"
        f"net = torch.export.load({str(tmp_path / 'net.pt2')!r}).module()\n"
        "torch.testing.assert_close(net(*inputs), expected)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["cnn", "resnext", "separable"])
def test_a_plain_module_is_made_of_torchs_classes_only(name):
    module, _, _ = compacted(name)
    own = type(CASES[name].build()).__module__
    assert all(type(m).__module__.startswith(("torch.", own)) for m in module.modules())
