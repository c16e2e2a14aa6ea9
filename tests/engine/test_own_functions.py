"""Every torch function with a way of its own has a case and a use that it refuses, by name."""

from __future__ import annotations

import re
from typing import Any

import pytest
import steps
import torch
from own_functions import BACKWARDS, CASES
from page_of_operations import page
from refused_uses import NEVER, REFUSED_USES
from torch import Tensor
from wrong_on_gated import WRONG, Wrong

import l0func as l0

# torch's notes on its own functions: vmap loops over some.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

KINDS: dict[str, dict[str, Any]] = page.FUNCTIONS
FUNCTIONS: dict[str, Any] = {k: f for kind in KINDS.values() for k, f in kind.items()}
NOT_IN_ROWS = {*BACKWARDS, "torch: _pack_padded_sequence"}
RULES = {"entries": l0.element(), "rows": l0.axis(0), "columns": l0.axis(1)}
HERE = {label for label in CASES if label in FUNCTIONS}


def test_every_function_has_a_case_and_a_refusal():
    assert set(page.function_names()) == set(page.function_cases())
    assert set(page.function_names()) == set(page.function_refusals())
    assert not NEVER.keys() & REFUSED_USES.keys()


def step(label: str) -> steps.Step:
    return lambda h: CASES[label](FUNCTIONS[label], h).double() + h.sum() * 0


@pytest.mark.parametrize("label", sorted(HERE))
def test_a_function_gives_what_it_gives_in_plain_torch(label):
    steps.check(step(label), rows=label not in NOT_IN_ROWS)


@pytest.mark.parametrize("label", [label for label in REFUSED_USES if label in FUNCTIONS])
def test_a_use_that_cannot_be_right_in_rows_is_refused_by_name(label):
    use, words = REFUSED_USES[label]

    def refused(h: Tensor) -> Tensor:
        use(FUNCTIONS[label], h)
        return h

    in_chunks = {"chunk_size": 2} if words.startswith("BatchNorm") else {}
    name = label.partition(": ")[2]
    with pytest.raises((RuntimeError, ValueError)) as refusal:
        steps.in_rows(refused, **in_chunks)
    assert re.search(words.replace("{name}", name), str(refusal.value), re.DOTALL)


# A card finds a row that is not there in the middle of its work, and computes nothing after it.
STOPS_A_CARD = dict.fromkeys([("F: embedding", 0), ("F: embedding", 1)], pytest.mark.on_cpu)
CALLS = [
    pytest.param(label, wrong, id=f"{label} {number}", marks=STOPS_A_CARD.get((label, number), ()))
    for label in sorted(WRONG.keys() & KINDS["gated"].keys())
    for number, wrong in enumerate(WRONG[label])
]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize(("label", "wrong"), CALLS)
def test_a_call_on_a_gated_parameter_that_torch_refuses_is_refused(label, wrong: Wrong, rule):
    params = {"w": torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6)}
    x = torch.linspace(0, 2, 36, dtype=torch.float64).reshape(3, 2, 6)
    function = FUNCTIONS[label]
    torch_refuses = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)
    with pytest.raises(torch_refuses):
        wrong(function, params["w"], x[0])
    spec = l0.gate_spec(params, {"w": rule})
    gates = l0.init_gates(l0.random.key(1), spec)
    apply = l0.gated(lambda p, buffers, x: (wrong(function, p["w"], x), x)[1], spec)
    with pytest.raises(torch_refuses):
        torch.vmap(lambda key, row: apply(params, gates, {}, key, row))(steps.KEYS, x)


def test_statistics_of_the_batch_are_those_of_all_rows_by_every_name():
    class Normed(torch.nn.Module):
        def __init__(self, norm: Any) -> None:
            super().__init__()
            self.scale, self.norm = torch.nn.Parameter(torch.ones(3, 1)), norm

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x * self.scale)

    def by_torch(h: Tensor) -> Tensor:
        running = torch.zeros(3), torch.ones(3)
        return torch.batch_norm(h, None, None, *running, True, 0.1, 1e-5, False)

    x = torch.randn(4, 3, 5)
    fn, params, buffers = l0.make_functional(Normed(by_torch))
    spec = l0.gate_spec(params, {"*": None})
    rows = l0.per_example(l0.gated(fn, spec))
    ours = rows(params, {}, buffers, l0.random.split(l0.random.key(0), 4), x)
    torch.testing.assert_close(ours, torch.nn.BatchNorm1d(3)(x).detach())
    for name in ("native_batch_norm", "_native_batch_norm_legit"):
        f = getattr(torch, name)
        norm = Normed(lambda h, f=f: f(h, None, None, None, None, True, 0.1, 1e-5)[0])
        if name != "native_batch_norm":
            norm = Normed(lambda h, f=f: f(h, None, None, True, 0.1, 1e-5)[0])
        fn, params, buffers = l0.make_functional(norm)
        rows = l0.per_example(l0.gated(fn, spec))
        with pytest.raises(ValueError, match=f"'{name}' in training mode .*batch_norm"):
            rows(params, {}, buffers, l0.random.split(l0.random.key(0), 4), x)
