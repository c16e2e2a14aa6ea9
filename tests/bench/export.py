"""What removal is worth on the roads to production: an encoder as large as MiniLM's, whole and
with half of its heads and feed-forward units, eager, compiled, in onnxruntime and in int8.

    python tests/bench/export.py

Contenders take turns in one run; medians of the CPU time of one thread. The last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import transformers
from torch import Tensor, nn

import l0func as l0

ROWS, TOKENS, REPEATS = 16, 32, 15
SIZES = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12}


class Encoder(nn.Module):
    """The states of an encoder, as one tensor."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.bert(input_ids, attention_mask=attention_mask).last_hidden_state


def networks(layers: int = 6) -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    """The whole encoder, the same one without every other unit, and inputs."""
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=1000, num_hidden_layers=layers, **SIZES)
    bert = transformers.BertModel(config, add_pooling_layer=False)
    whole, ids = Encoder(bert).eval(), torch.randint(3, 1000, (ROWS, TOKENS))
    inputs = (ids, torch.ones_like(ids))
    groups = l0.unit_groups(whole, ids[:2, :8], inputs[1][:2, :8])
    fn, params, buffers = l0.make_functional(whole)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    gates = {name: 9.0 - 18.0 * (torch.arange(n) % 2) for name, n in groups.sizes.items()}
    small = l0.to_module(*l0.compact(fn, params, gates, buffers, spec)).eval()
    return whole, small, inputs


def in_onnxruntime(module: nn.Module, inputs: tuple[Tensor, ...], file: Path) -> Callable[[], Any]:
    torch.onnx.export(module, inputs, file, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def in_int8(module: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)


def roads(module: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> dict[str, Any]:
    """The calls to measure, by the names of their roads."""
    compiled, int8 = torch.compile(module), in_int8(module)
    return {
        "eager": lambda: module(*inputs),
        "compiled": lambda: compiled(*inputs),
        "onnxruntime": in_onnxruntime(module, inputs, folder / "model.onnx"),
        "int8": lambda: int8(*inputs),
    }


def medians(contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Milliseconds of CPU time, by the contenders' names; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            start = time.process_time()
            contender()
            times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(own[2:]) for name, own in times.items()}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    whole, small, inputs = networks()
    contenders: dict[str, Callable[[], Any]] = {}
    for name, module in (("whole", whole), ("smaller", small)):
        folder = Path(tempfile.mkdtemp())
        found = roads(module, inputs, folder)
        contenders |= {f"{name} {road}": call for road, call in found.items()}
    with torch.no_grad():
        times = medians(contenders, REPEATS)
    result: dict[str, Any] = {}
    for road in ("eager", "compiled", "onnxruntime", "int8"):
        dense, smaller = times[f"whole {road}"], times[f"smaller {road}"]
        result[road] = {"whole": dense, "smaller": smaller, "ratio": dense / smaller}
        print(f"{road:12} {dense:8.1f} ms {smaller:8.1f} ms   {dense / smaller:.2f} x faster")
    macs = [l0.count_macs(*l0.make_functional(net), *inputs).total for net in (whole, small)]
    result["macs"] = macs[0] / macs[1]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
