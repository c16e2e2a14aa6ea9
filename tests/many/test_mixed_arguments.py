"""Plain tensors beside DTensors, and DTensors on two meshes, are named by their arguments."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from device import RELEASE
from processes import processes
from torch import nn

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard

X = torch.linspace(-1, 1, 15).reshape(5, 3)
KEY = l0.random.key(1)


def _net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def _own(params: Any, buffers: Any, x: Any, *, scale: Any = None) -> Any:
    y = x @ params["0.weight"].T
    return y if scale is None else y * scale


class _Given:
    """Everything in both layouts."""

    def __init__(self) -> None:
        whole, pair = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2))
        fn, self.params, self.buffers = l0.make_functional(_net())
        self.fn = fn.eval()
        self.spec = l0.gate_spec(self.params)
        self.gates = l0.init_gates(l0.random.key(0), self.spec)
        self.laid = {path: laid_out(p, whole, [Shard(0)]) for path, p in self.params.items()}
        self.laid_gates = l0.place_gates(self.spec, self.laid, self.gates)
        same = [Replicate()]
        self.laid_buffers = {path: laid_out(b, whole, same) for path, b in self.buffers.items()}
        self.x, self.other_x = laid_out(X, whole, same), laid_out(X, pair, same * 2)
        self.key = laid_out(KEY, whole, same)
        self.apply, self.own = l0.gated(self.fn, self.spec), l0.gated(_own, self.spec)
        self.rows = l0.per_example(self.apply)
        self.keys = l0.random.split(KEY, 5)


PLAIN_INPUT = (
    r"'0\.weight' in params is a DTensor, .*beside it: '0' in inputs\. .*distribute_tensor"
)
CASES: dict[str, tuple[Callable[[_Given], Any], str]] = {
    "pure, input": (lambda g: g.fn(g.laid, g.laid_buffers, X), PLAIN_INPUT),
    "pure, buffers": (
        lambda g: g.fn(g.laid, g.buffers, g.x),
        r"beside it: '1\.running_mean' in buffers",
    ),
    "pure, params": (
        lambda g: g.fn(g.params, g.laid_buffers, g.x),
        r"'0' in inputs is a DTensor, .*beside it: '0\.weight' in params",
    ),
    "pure, one param": (
        lambda g: g.fn({**g.laid, "1.weight": g.params["1.weight"]}, g.laid_buffers, g.x),
        r"beside it: '1\.weight' in params\.",
    ),
    "pure, two meshes": (
        lambda g: g.fn(g.laid, g.laid_buffers, g.other_x),
        r"'0\.weight' in params is a DTensor on .*on another mesh: '0' in inputs, .*no two meshes",
    ),
    "pure with buffers": (lambda g: g.fn.with_buffers(g.laid, g.laid_buffers, X), PLAIN_INPUT),
    "gated, input": (
        lambda g: g.apply(g.laid, g.laid_gates, g.laid_buffers, KEY, X),
        PLAIN_INPUT,
    ),
    "gated, test time": (
        lambda g: g.apply(g.laid, g.laid_gates, g.laid_buffers, None, X),
        PLAIN_INPUT,
    ),
    "gated with buffers": (
        lambda g: g.apply.with_buffers(g.laid, g.laid_gates, g.laid_buffers, KEY, X),
        PLAIN_INPUT,
    ),
    "gated, params": (
        lambda g: g.apply(g.params, g.gates, g.laid_buffers, KEY, g.x),
        r"'0' in inputs is a DTensor, .*beside it: '0\.weight' in params",
    ),
    "gated, two meshes": (
        lambda g: g.apply(g.laid, g.laid_gates, g.laid_buffers, KEY, g.other_x),
        r"on another mesh: '0' in inputs",
    ),
    "own function": (lambda g: g.own(g.laid, g.laid_gates, {}, KEY, X), PLAIN_INPUT),
    "own function, keyword": (
        lambda g: g.own(g.laid, g.laid_gates, {}, KEY, g.x, scale=torch.ones(4)),
        r"beside it: 'scale' in keyword inputs",
    ),
    "key": (
        lambda g: g.apply(g.laid, g.laid_gates, g.laid_buffers, g.key, g.x),
        "A key is a plain tensor, the same in every process",
    ),
    "rows, input": (
        lambda g: g.rows(g.params, g.gates, g.buffers, g.keys, g.x),
        r"per_example needs whole tensors, and '0' in inputs is a DTensor",
    ),
    "rows, buffers": (
        lambda g: g.rows(g.params, g.gates, g.laid_buffers, g.keys, X),
        r"needs whole tensors, and '1\.running_mean' in buffers is a DTensor",
    ),
    "rows, keys": (
        lambda g: g.rows(
            g.params, g.gates, g.buffers, laid_out(g.keys, g.x.device_mesh, [Replicate()]), X
        ),
        "A key is a plain tensor",
    ),
    "rows, compiled": (
        lambda g: torch.compile(g.rows, backend="eager")(
            g.laid, g.laid_gates, g.buffers, g.keys, X
        ),
        r"per_example over DTensors runs eagerly: .*torch\.compiler\.disable",
    ),
}


def _messages() -> dict[str, str]:
    given, found = _Given(), dict[str, str]()
    for name, (call, _) in CASES.items():
        try:
            call(given)
            found[name] = "nothing was refused"
        except ValueError as error:
            found[name] = str(error)
    # What fits still runs, and so does a function that lays plain inputs out itself.
    if RELEASE >= (2, 13):
        # Before, torch normalises no batch that is a DTensor.
        placed = given.fn(given.laid, given.laid_buffers, given.x)
        whole = given.fn(given.params, given.buffers, X)
        torch.testing.assert_close(l0.gather(placed), whole)

    def lays_out(params: Any, buffers: Any, x: Any) -> Any:
        mesh = params["0.weight"].device_mesh
        return laid_out(x, mesh, [Replicate()]) @ params["0.weight"].T

    l0.gated(lays_out, given.spec)(given.laid, given.laid_gates, {}, KEY, X)
    return found


def test_arguments_in_layouts_that_torch_does_not_combine_are_named():
    first, second = processes(2).run(_messages)
    assert first == second
    for name, (_, words) in CASES.items():
        assert re.search(words, first[name]), (name, first[name])


def test_another_error_beside_dtensors_keeps_its_words():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        l0.make_functional(nn.Linear(3, 2)).fn(
            *l0.make_functional(nn.Linear(3, 2))[1:], torch.ones(2, 4)
        )
