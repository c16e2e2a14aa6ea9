"""A compacted network is saved in one process, and loaded in another by its class alone."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import full_sized
import pytest
import torch
from full_sized import PLAIN, TRANSFORMERS, WAYS, built, inputs_of, output_of
from sampled import one_in, sampled
from torch import Tensor, nn

import l0func as l0


@functools.cache
def compacted(name: str, ends: bool) -> l0.pure.functional.Functional:
    """A network without random units of each group; with ends, every third group loses all."""
    torch.manual_seed(0)
    module = built(name)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    groups = l0.unit_groups(module, **inputs_of(name))
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    gates: dict[str, Tensor] = {}
    for number, (group, size) in enumerate(groups.sizes.items()):
        closed = size if ends and number % 3 == 1 else (size // 2, 1, size // 3)[number % 3]
        gates[group] = torch.full((size,), 4.0)
        gates[group][torch.randperm(size)[:closed]] = -4.0
    examples = inputs_of(name) if ends else None
    return l0.compact(fn, params, gates, buffers, spec, example_inputs=examples)


def save(folder: Path, name: str, small: l0.pure.functional.Functional, way: str) -> None:
    if way == "l0.save":
        spec = l0.gate_spec(small.params, {"*": None})
        l0.save(folder / f"{name}.l0", small.params, {}, small.buffers, spec)
    elif way == "state dict":
        torch.save(l0.to_module(*small).state_dict(), folder / f"{name}.pt")
    else:
        l0.to_module(*small).save_pretrained(folder / name)


def run_elsewhere(folder: Path, saved: list[tuple[str, str]]) -> dict[tuple[str, str], Tensor]:
    """The outputs of the networks, by name and way, that another process loads."""
    (folder / "saved.json").write_text(json.dumps(saved))
    call = [sys.executable, full_sized.__file__, str(folder)]
    # A convolution rounds otherwise on another number of threads.
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    result = subprocess.run(call, capture_output=True, text=True, check=False, env=threads)
    assert result.returncode == 0, result.stderr[-2000:]
    return torch.load(folder / "outputs.pt", weights_only=True)


def assert_there_and_back(folder: Path, names: Iterable[str], ways: Any, ends: bool) -> None:
    expected: dict[tuple[str, str], Tensor] = {}
    for name in names:
        small = compacted(name, ends)
        whole = sum(p.numel() for p in built(name).parameters())
        assert sum(p.numel() for p in small.params.values()) < whole
        for way in ways:
            save(folder, name, small, way)
            expected[name, way] = output_of(l0.to_module(*small).eval(), name)
    outputs = run_elsewhere(folder, list(expected))
    for saved in expected:
        assert torch.equal(outputs[saved], expected[saved]), saved


def test_networks_of_torch_come_back_bit_for_bit(tmp_path):
    assert_there_and_back(tmp_path, PLAIN, ("state dict", "l0.save"), ends=False)


@pytest.mark.parametrize(
    ("names", "ends"),
    [
        (("bert", "gpt2"), False),
        pytest.param(TRANSFORMERS, False, marks=pytest.mark.slow),
        pytest.param(TRANSFORMERS, True, marks=pytest.mark.slow),
    ],
    ids=["two", "all", "all with ends"],
)
def test_transformers_come_back_bit_for_bit(tmp_path, names, ends):
    pytest.importorskip("transformers")
    assert_there_and_back(tmp_path, names, WAYS, ends)


@pytest.mark.parametrize("name", ["resnet", "encoder"])
def test_networks_with_blocks_that_ended_come_back_bit_for_bit(tmp_path, name):
    assert_there_and_back(tmp_path, [name], ["l0.save"], ends=True)


@pytest.mark.parametrize("name", sampled([*PLAIN, *TRANSFORMERS], one_in(3)))
def test_all_sizes_in_attributes_are_those_of_the_compacted_module(name):
    if name in TRANSFORMERS:
        pytest.importorskip("transformers")
    module = l0.to_module(*compacted(name, ends=False))
    loaded = l0.resize_to(built(name), module.state_dict())
    assert kinds(loaded) == kinds(module)
    differing = {path for path, size in sizes(module).items() if sizes(loaded)[path] != size}
    # T5's first layers read their head count only without a bias for positions.
    assert all(name == "t5" and path.endswith("n_heads") for path in differing), differing


def kinds(module: nn.Module) -> dict[str, type]:
    return {path: type(child) for path, child in module.named_modules()}


def sizes(module: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {}
    for path, child in module.named_modules():
        for name, value in vars(child).items():
            if isinstance(value, int | tuple | float):
                found[f"{path}.{name}"] = value
    return found
