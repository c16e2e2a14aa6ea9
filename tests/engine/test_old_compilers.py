"""A torch whose compiler cannot follow the library: every call refuses it by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l0func as l0
from l0func.internal import context, tree
from l0func.internal.context import compiles

NET = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
FN, PARAMS, BUFFERS = l0.make_functional(NET)
SPEC = l0.gate_spec(PARAMS, {"0.weight": l0.axis(0)})
GATES = l0.init_gates(l0.random.key(0), SPEC)
APPLY = l0.gated(FN, SPEC)
TESTED, APPLY_TESTED = FN.eval(), l0.gated(FN.eval(), SPEC)
ROWS = l0.per_example(APPLY)
MODULE = l0.L0Module(nn.Linear(4, 3), 1e-3, seed=0)
KEY, KEYS, X = l0.random.key(1), l0.random.split(l0.random.key(2), 5), torch.ones(5, 4)

CALLS = {
    "a draw": lambda: l0.random.uniform(KEY, 3),
    "masks": lambda: l0.sample_masks(KEY, GATES, SPEC),
    "a module": lambda: TESTED(PARAMS, BUFFERS, X),
    "a gated module": lambda: APPLY(PARAMS, GATES, BUFFERS, KEY, X),
    "a gated module at test time": lambda: APPLY_TESTED(PARAMS, GATES, BUFFERS, None, X),
    "rows": lambda: ROWS(PARAMS, GATES, BUFFERS, KEYS, X),
    "an L0Module": lambda: MODULE(X),
}


STOPS_BY_ITSELF = not compiles()
OLDEST = not hasattr(torch.compiler, "is_compiling")


@pytest.fixture
def _old_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_COMPILES", False)
    torch._dynamo.reset()


@pytest.mark.usefixtures("_old_compiler")
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_compiler_of_an_old_torch_is_refused_by_name(call, whole):
    if OLDEST or (whole and STOPS_BY_ITSELF and call is CALLS["an L0Module"]):
        pytest.skip("this compiler stops before it reaches the library's question")
    with pytest.raises(RuntimeError, match=r"l0func compiles on torch 2\.9 and later; this is"):
        torch.compile(call, backend="eager", fullgraph=whole)()


@pytest.mark.usefixtures("_old_compiler")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_same_calls_run_eagerly_there(call):
    found = [leaf for _, leaf in tree.walk(call())]
    assert found
    assert all(leaf.isfinite().all() for leaf in found)
