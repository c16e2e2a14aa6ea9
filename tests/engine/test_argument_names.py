"""Operations on gated parameters take every argument name that torch takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import l0func as l0

RULES = {"entries": l0.element(), "rows": l0.axis(0), "columns": l0.axis(1)}
KEYS = l0.random.split(l0.random.key(5), 3)
NAN = torch.full((4,), float("nan"), dtype=torch.float64)

SPELLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mm": lambda w, x: torch.mm(input=x, mat2=w.t()),
    "Tensor.mm": lambda w, x: x.mm(mat2=w.t()),
    "mv": lambda w, x: torch.mv(w, vec=x[0]),
    "matmul": lambda w, x: torch.matmul(x, other=w.t()),
    "addmm": lambda w, x: torch.addmm(x[:, :4], mat1=x, mat2=w.t()),
    "addmv": lambda w, x: torch.addmv(x[0, :4], mat=w, vec=x[0]),
    "addmm of beta 0": lambda w, x: torch.addmm(NAN.to(x), x, w.t(), beta=0),
    "addmv of beta 0": lambda w, x: torch.addmv(NAN.to(x), w, x[0], beta=0),
    "swapaxes": lambda w, x: x @ torch.swapaxes(w, axis0=0, axis1=1),
    "transpose": lambda w, x: x @ w.transpose(dim0=0, dim1=1),
    "permute": lambda w, x: x @ torch.permute(w, dims=(1, 0)),
    "Tensor.permute": lambda w, x: x @ w.permute(dims=(1, 0)),
    "flatten": lambda w, x: F.linear(x, torch.flatten(w[:, :, None], start_dim=1, end_dim=2)),
    "squeeze": lambda w, x: F.linear(x, torch.squeeze(w[:, None], dim=1)),
    "squeeze of an axis": lambda w, x: F.linear(x, torch.squeeze(w[:, None], axis=1)),
    "unsqueeze of an axis": lambda w, x: F.conv1d(x[:, :, None], torch.unsqueeze(w, axis=-1)),
    "view": lambda w, x: F.linear(x, w.view(size=(4, 6))),
    "view of a type": lambda w, x: F.linear(x, w.view(dtype=torch.float64)),
    "narrow": lambda w, x: F.linear(x, torch.narrow(w, dim=0, start=1, length=2)),
    "select at a tensor": lambda w, x: x @ w.view(1, 4, 6).select(0, torch.tensor(0)).t(),
    "chunk": lambda w, x: F.linear(x, torch.chunk(w, chunks=2, dim=0)[1]),
    "split": lambda w, x: F.linear(x, w.split(split_size=[1, 3], dim=0)[1]),
    "mul": lambda w, x: F.linear(x, torch.mul(input=w, other=2.0)),
    "conv1d": lambda w, x: F.conv1d(input=x[:, :, None], weight=w[..., None], padding=1),
}


def views_rows_as_types() -> bool:
    """Whether this torch's vmap views a row as another type, as torch 2.1's does not."""
    try:
        torch.vmap(lambda row: row.view(dtype=torch.float64))(NAN)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SPELLINGS)
def test_a_named_argument_gives_what_it_gives_on_the_masked_parameter(name: str, rule: str):
    if name == "view of a type" and not views_rows_as_types():
        pytest.skip("this torch's vmap views no row as another type")
    torch.manual_seed(0)
    params = {"w": torch.randn(4, 6, dtype=torch.float64)}
    spec = l0.gate_spec(params, {"w": RULES[rule]})
    gates = l0.init_gates(l0.random.key(1), spec, droprate=0.3, noise=1.0)
    x = torch.randn(3, 2, 6, dtype=torch.float64)
    apply = l0.gated(lambda p, buffers, x: SPELLINGS[name](p["w"], x), spec)
    ours = torch.vmap(lambda key, row: apply(params, gates, {}, key, row))(KEYS, x)
    for i, key in enumerate(KEYS):
        weight = l0.apply_masks(params, l0.sample_masks(key, gates, spec))["w"]
        torch.testing.assert_close(ours[i], SPELLINGS[name](weight, x[i]))


def test_a_result_for_an_argument_is_not_lost():
    params = {"w": torch.ones(4, 6)}
    spec = l0.gate_spec(params, {"w": l0.axis(0)})
    gates = l0.init_gates(l0.random.key(1), spec)

    def added(p: dict[str, Tensor], buffers: object, x: Tensor) -> Tensor:
        out = torch.zeros(2, 4)
        torch.addmm(x[:, :4], x, p["w"].t(), out=out)
        return out

    rows = l0.per_example(l0.gated(added, spec), in_dims=0)
    with pytest.raises(ValueError, match=r"out= \(.*in added.*without out="):
        rows(params, gates, {}, KEYS, torch.ones(3, 1, 6).expand(3, 2, 6))
