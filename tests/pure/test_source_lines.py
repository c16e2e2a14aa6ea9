"""A refusal inside a module's forward names the line of the module's source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0
from l0func.internal.arose import passed_by
from l0func.internal.source_line import source_line

X = torch.tensor([[-9.0] * 4, [9.0] * 4, [9.0] * 4])
KEY = l0.random.key(0)


class Calls(nn.Module):
    def __init__(self, step: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.w, self.step = nn.Parameter(torch.ones(4)), step
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Any:
        return self.step(self, x * self.w)


def drops(net: Any, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5)


def draws_globally(net: Any, x: Tensor) -> Tensor:
    return torch.poisson(x.abs())


def renormalises(net: Any, x: Tensor) -> Tensor:
    return F.embedding(torch.tensor([0, 1, 2]), x, max_norm=1.0)


def normalises(net: Any, x: Tensor) -> Tensor:
    return net.norm(x)


def packs(net: Any, x: Tensor) -> Any:
    return nn.utils.rnn.pack_padded_sequence(x[..., None], torch.tensor([4]), batch_first=True)


def branches(net: Any, x: Tensor) -> Tensor:
    return -x if x.sum() > 1 else x


def plain(net: Any) -> Any:
    fn, params, buffers = l0.make_functional(net)
    return fn(params, buffers, X)


def in_rows(net: Any, chunk_size: int | None = None) -> Any:
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"w": l0.element()})
    gates = l0.init_gates(KEY, spec)
    rows = l0.per_example(l0.gated(fn, spec), chunk_size=chunk_size)
    return rows(params, gates, buffers, l0.random.split(KEY, 3), X)


def in_chunks(net: Any) -> Any:
    return in_rows(net, chunk_size=2)


def traced(net: Any) -> Any:
    return l0.unit_groups(net, X)


CASES: list[Any] = [
    (plain, drops, "no key to draw from"),
    (plain, draws_globally, "draws from the global generator"),
    (plain, renormalises, "rewrites its weight"),
    (in_chunks, normalises, "BatchNorm in training mode"),
    (in_rows, packs, "A packed sequence.*gives the module"),
    (in_rows, branches, "needs one value for the whole call"),
    (traced, branches, "depends on inputs or parameters"),
]


@pytest.mark.parametrize(("call", "step", "words"), CASES)
def test_a_refusal_names_the_line_in_the_module_s_source(call: Any, step: Any, words: str):
    match = rf"{words} \(test_source_lines\.py:\d+, in {step.__name__}: "
    with pytest.raises(ValueError, match=match):
        call(Calls(step))


@pytest.mark.parametrize(("package", "rest"), [(torch, "vision"), (l0, "_nets")])
def test_a_folder_whose_name_begins_like_a_library_is_the_users(package, rest):
    filename = f"{Path(package.__file__).parent}{rest}/net.py"
    names = {}
    exec(compile("def forward(self):\n    raise RuntimeError", filename, "exec"), names)
    with pytest.raises(RuntimeError) as caught:
        names["forward"](None)
    assert "net.py:2, in forward" in source_line(caught.value)
    [passed, _] = passed_by(caught.value)
    assert (passed.function, passed.by_torch) == ("forward", False)
