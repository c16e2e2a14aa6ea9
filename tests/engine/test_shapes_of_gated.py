"""Views, reshapes and slices of a gated parameter are those of the masked one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import l0func as l0
from l0func import random
from l0func.engine.parameter import GatedParameter

KEYS = random.split(random.key(5), 3)
View = Callable[[Tensor], Tensor]
FLATTENED: dict[str, View] = {
    f"flatten({first}, {last})": lambda w, a=first, b=last: w.flatten(a, b)
    for first, last in [*product(range(4), repeat=2), (-3, -1), (-4, 1)]
    if first % 4 <= last % 4
}
WIDER: dict[str, View] = {
    f"unsqueeze({dim})": lambda w, dim=dim: w.unsqueeze(dim) for dim in range(-5, 5)
}
FLATTER: dict[str, View] = {
    f"squeeze({dim})": lambda w, dim=dim: w.squeeze(dim) for dim in range(-4, 4)
}
TURNED: dict[str, View] = {
    "transpose(0, 1)": lambda w: w.transpose(0, 1),
    "transpose(-1, 1)": lambda w: w.transpose(-1, 1),
    "permute(3, 0, -3, 2)": lambda w: w.permute(3, 0, -3, 2),
    "permute(0, 1, 2, 3)": lambda w: w.permute(0, 1, 2, 3),
    "contiguous()": lambda w: w.contiguous(),
}
PARTS: dict[str, View] = {
    **{f"select(0, {i})": lambda w, i=i: w.select(0, i) for i in range(-3, 3)},
    **{f"narrow({d}, -1, 1)": lambda w, d=d: w.narrow(d, -1, 1) for d in range(-4, 4)},
    "narrow(0, 1, 2)": lambda w: w.narrow(0, 1, 2),
    "narrow(-1, 2, 3)": lambda w: w.narrow(-1, 2, 3),
    "[1:]": lambda w: w[1:],
    "[-2:-1]": lambda w: w[-2:-1],
    "[2:1]": lambda w: w[2:1],
    "[::2]": lambda w: w[::2],
    "[-1]": lambda w: w[-1],
}
VIEWS = FLATTENED | WIDER | FLATTER | TURNED | PARTS
RULES = {"entries": l0.element(), "rows and planes": [l0.axis(0), l0.axis(2)]}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_of_a_gated_parameter_is_that_of_the_masked_one(view: View, rule: Any):
    torch.manual_seed(0)
    params = {"w": torch.randn(3, 1, 4, 5)}
    spec = l0.gate_spec(params, {"w": rule})
    gates = l0.init_gates(random.key(1), spec, droprate=0.3, noise=1.0)
    apply = l0.gated(lambda p, buffers, x: view(p["w"]) + x, spec)
    found = torch.vmap(lambda key, x: apply(params, gates, {}, key, x))(KEYS, torch.zeros(3))
    for row, key in zip(found, KEYS, strict=True):
        masked = l0.apply_masks(params, l0.sample_masks(key, gates, spec))
        torch.testing.assert_close(row, view(masked["w"]))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", ["squeezed", "reshaped"])
def test_the_gate_of_a_dimension_of_size_one_stays_when_that_dimension_goes(name: str, place: int):
    shape = [4, 3]
    shape.insert(place, 1)
    params = {"w": torch.ones(shape)}
    spec = l0.gate_spec(params, {"w": l0.axis(place)})
    gates = l0.init_gates(random.key(1), spec)

    def fn(p: dict[str, Tensor], buffers: Any, x: Tensor) -> Tensor:
        w = p["w"].squeeze(place) if name == "squeezed" else p["w"].reshape(4, 3)
        return F.linear(x, w)

    apply, x = l0.gated(fn, spec), torch.ones(3, 2, 3)
    found = torch.vmap(lambda key, row: apply(params, gates, {}, key, row))(KEYS, x)
    for i, key in enumerate(KEYS):
        masked = l0.apply_masks(params, l0.sample_masks(key, gates, spec))
        torch.testing.assert_close(found[i], fn(masked, {}, x[i]))


CUTS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "chunk(1)": lambda w: w.chunk(1),
    "chunk(3)": lambda w: w.chunk(3),
    "split(2)": lambda w: w.split(2),
    "split([n, 0])": lambda w: w.split([w.shape[0], 0]),
    "split([n // 2, rest])": lambda w: w.split([w.shape[0] // 2, -(-w.shape[0] // 2)]),
}


@pytest.mark.parametrize("rows", [0, 1, 4, 7])
@pytest.mark.parametrize("rule", [l0.element(), l0.axis(1)], ids=str)
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_a_gated_parameter_is_cut_into_the_pieces_of_a_tensor_and_none_is_laid_out(
    cut: Any, rule: Any, rows: int, monkeypatch: pytest.MonkeyPatch
):
    params = {"w": torch.randn(rows, 3)}
    spec = l0.gate_spec(params, {"w": rule})
    gates = l0.init_gates(random.key(1), spec)

    def fn(p: dict[str, Tensor], buffers: Any, x: Tensor) -> list[Tensor]:
        return [F.linear(x, piece) for piece in cut(p["w"])]

    def laid_out(*a: Any) -> Any:
        raise AssertionError("a mask for every row")

    if rows:
        monkeypatch.setattr(GatedParameter, "dense", laid_out)
    x = torch.randn(3, 2, 3)
    apply = l0.gated(fn, spec)
    found = torch.vmap(lambda key, row: apply(params, gates, {}, key, row))(KEYS, x)
    for i, key in enumerate(KEYS):
        masked = l0.apply_masks(params, l0.sample_masks(key, gates, spec))
        torch.testing.assert_close([y[i] for y in found], fn(masked, {}, x[i]))


@pytest.mark.parametrize("sampling", ["exact", "local_reparam"])
def test_a_gated_parameter_is_described_without_being_laid_out(sampling, monkeypatch):
    monkeypatch.setattr(GatedParameter, "dense", None)
    params = {"w": torch.randn(4, 3)}
    spec = l0.gate_spec(params, {"w": l0.element()})
    gates = l0.init_gates(random.key(1), spec)

    def described(p, buffers, x):
        w = p["w"]
        assert (len(w), w.size(0), w.dim(), w.numel()) == (4, 4, 2, 12)
        return F.linear(x, w)

    rows = l0.per_example(l0.gated(described, spec, sampling=sampling))
    assert rows(params, gates, {}, KEYS, torch.randn(3, 3)).shape == (3, 4)
