"""A compacted transformer compiled, in onnxruntime and in int8 computes what it did before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sampled import one_in, sampled
from test_models_smaller import closing_a_third, examples_of
from tiny_models import build
from torch import Tensor, nn

import l0func as l0

NAMES = ["MiniLM", "DistilBERT", "ViT"]


class First(nn.Module):
    """A network's first output, from inputs by position."""

    def __init__(self, net: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.net(**dict(zip(self.names, inputs, strict=True)))[0]


def compacted(name: str) -> tuple[nn.Module, tuple[Tensor, ...], Tensor]:
    """A smaller network, its inputs, and the output of the network with zeros in its place."""
    net, examples = build(name), examples_of(name)
    groups = l0.unit_groups(net, examples)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    gates = closing_a_third(groups.sizes)
    small = l0.to_module(*l0.compact(fn, params, gates, buffers, spec)).eval()
    whole = First(net, list(examples))
    inputs = tuple(examples.values())
    zeros = {f"net.{path}": p for path, p in l0.prune(params, gates, spec).items()}
    with torch.no_grad():
        expected = torch.func.functional_call(whole, zeros, inputs)
    return First(small, list(examples)).eval(), inputs, expected


@pytest.mark.parametrize("name", sampled(NAMES, one_in(3)))
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_smaller_network_computes_what_the_pruned_one_does(name: str):
    module, inputs, expected = compacted(name)
    compiled = torch.compile(module, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", sampled(NAMES, one_in(3)))
@pytest.mark.filterwarnings("ignore")
@pytest.mark.on_cpu
def test_onnxruntime_computes_what_the_pruned_network_does(name: str, tmp_path: Path):
    runtime: Any = pytest.importorskip("onnxruntime")
    module, inputs, expected = compacted(name)
    file = tmp_path / "model.onnx"
    torch.onnx.export(module, inputs, file, dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    (output,) = session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
    torch.testing.assert_close(torch.from_numpy(output), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", sampled(NAMES, one_in(3)))
@pytest.mark.filterwarnings("ignore")
@pytest.mark.on_cpu
def test_int8_computes_what_it_does_in_the_pruned_network(name: str):
    module, inputs, expected = compacted(name)
    small, pruned = in_int8(module), in_int8(pruned_network(name))
    with torch.no_grad():
        output, of_pruned = small(*inputs), pruned(*inputs)
    assert distance(output, of_pruned) < 1e-6
    # Int8 has other numbers than float32: the comparison means something.
    assert 1e-5 < distance(of_pruned, expected) < 0.1


def in_int8(module: nn.Module) -> nn.Module:
    quantized = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
    assert any("quantized" in type(child).__module__ for child in quantized.modules())
    return quantized


def pruned_network(name: str) -> nn.Module:
    net, examples = build(name), examples_of(name)
    groups = l0.unit_groups(net, examples)
    _, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    net.load_state_dict(l0.prune(params, closing_a_third(groups.sizes), spec), strict=False)
    return First(net, list(examples)).eval()


def distance(output: Tensor, expected: Tensor) -> float:
    return float((output - expected).norm() / expected.norm())
