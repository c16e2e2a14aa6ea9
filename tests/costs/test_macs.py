"""Counts of multiply-adds against torch's counter, closed forms, averages over masks, and
compacted networks.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from groups import problem, random_gates
from sampled import one_in, sampled
from strangers import STRANGERS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from zoo import BY_NAME, CASES

import l0func as l0
from l0func.costs.macs import macs_of
from l0func.internal.tree import map_tensors

# Bilinear forms are products that torch's counter has no entry for.
COUNTED = [c for c in (*CASES, *STRANGERS) if c.name != "bilinear"]


def by_torch(module: nn.Module, inputs: tuple) -> float:
    """Half of torch's count, by kernels that it has formulas for: those of the CPU."""
    module, inputs = deepcopy(module).cpu(), map_tensors(torch.Tensor.cpu, inputs)
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_sdp_use_flash(False)
    try:
        with torch.device("cpu"), FlopCounterMode(display=False) as counter:
            module(*inputs)
    finally:
        torch._C._set_mkldnn_enabled(True)
        torch._C._set_sdp_use_flash(True)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("case", COUNTED, ids=repr)
def test_dense_counts_are_those_of_torchs_counter(case):
    module = case.build().eval()
    fn, params, buffers = l0.make_functional(module)
    counts = l0.count_macs(fn, params, buffers, *case.batch())
    assert counts.total == by_torch(module, case.batch())
    assert counts.total == sum(counts.by_parameter.values()) + sum(p.macs for p in counts.products)


@pytest.mark.on_cpu
def test_a_bilinear_form_is_its_two_products():
    case = BY_NAME["bilinear"]
    fn, params, buffers = l0.make_functional(case.build())
    # On a card the second product is a sum of products of entries, which nobody counts.
    # einsum contracts x1 first, 5 rows of 4 × 3 × 2, and then x2.
    assert l0.count_macs(fn, params, buffers, *case.batch()).total == 5 * (4 * 3 * 2 + 4 * 2)


@pytest.mark.parametrize("case", [*CASES, *STRANGERS], ids=repr)
def test_realised_counts_are_those_of_the_compacted_module(case):
    found = problem(case, torch.float32)
    if found is None:
        assert case in CASES
        return
    fn, params, buffers, spec, inputs = found
    counts = l0.count_macs(fn, params, buffers, *inputs)
    for density in (0.1, 0.5, 0.9):
        gates = random_gates(spec, density)
        small = l0.compact(fn, params, gates, buffers, spec)
        assert l0.realised_macs(gates, spec, counts) == l0.count_macs(*small, *inputs).total


@pytest.mark.parametrize("name", ["cnn", "lstm", "attention", "encoder_eval", "tied"])
def test_expected_counts_are_the_average_over_masks(name):
    case = BY_NAME[name]
    module = case.build().eval()
    fn, params, buffers = l0.make_functional(module)
    groups = None if name == "tied" else l0.unit_groups(module, case.batch())
    spec = l0.gate_spec(
        params,
        {"*weight": l0.element()} if groups is None else None,
        groups=groups,
        buffers=buffers,
    )
    gates = {
        n: g + 0.5
        for n, g in l0.init_gates(l0.random.key(0), spec, droprate=0.4, noise=1.0).items()
    }
    counts = l0.count_macs(fn, params, buffers, *case.batch())

    def realised(key: torch.Tensor) -> torch.Tensor:
        hard = {
            g.name: g.distribution.sample(l0.random.fold_in(key, g.stream), gates[g.name]) != 0
            for g in spec.gates
        }
        return macs_of({n: h.double() for n, h in hard.items()}, spec, counts)

    drawn_counts = torch.vmap(realised)(l0.random.split(l0.random.key(1), 4000))
    error = drawn_counts.std() / len(drawn_counts) ** 0.5
    assert abs(drawn_counts.mean() - l0.expected_macs(gates, spec, counts)) < 5 * error


def test_expected_counts_can_be_the_penalty():
    case = BY_NAME["cnn"]
    module = case.build().eval()
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, case.batch()), buffers=buffers)
    gates = l0.init_gates(l0.random.key(0), spec)
    counts = l0.count_macs(fn, params, buffers, *case.batch())
    slope = torch.func.grad(lambda g: l0.expected_macs(g, spec, counts))(gates)["0"]
    # A channel is 9 × 16 positions × 5 images in the convolution and 16 columns × 2 rows × 5
    # images in the readout.
    p = spec.gates[0].distribution.prob_nonzero(gates["0"])
    torch.testing.assert_close(slope, p * (1 - p) * 5 * (9 * 16 + 16 * 2))


def test_counts_of_another_network_are_refused():
    fn, params, buffers = l0.make_functional(nn.Linear(3, 2))
    counts = l0.count_macs(fn, params, buffers, torch.ones(1, 3))
    other = l0.make_functional(nn.Linear(4, 2)).params
    spec = l0.gate_spec(other)
    with pytest.raises(ValueError, match="'weight' has 6 entries there, and 8 in the spec"):
        l0.expected_macs(l0.init_gates(l0.random.key(0), spec), spec, counts)
    spec = l0.gate_spec({"w": torch.ones(3)})
    with pytest.raises(ValueError, match="'weight' is in the counts and not in the spec"):
        l0.expected_macs(l0.init_gates(l0.random.key(0), spec), spec, counts)
    with pytest.raises(TypeError, match="got Linear"):
        l0.count_macs(nn.Linear(3, 2), params, buffers, torch.ones(1, 3))


@pytest.mark.parametrize(
    "rule",
    [
        l0.axis(1, 2, 7),
        l0.axis(-1),
        l0.blocks(0, 2),
        l0.blocks(1, 3, 1, 7),
        l0.tiles(1, 4),
        l0.element(),
    ],
)
def test_the_number_of_a_slices_gate_is_the_one_that_its_entries_have(rule):
    shape = (6, 8)
    index = rule.index(shape).expand(shape)
    for dim in (0, 1):
        for i in range(shape[dim]):
            numbers = set(index.select(dim, i).flatten().tolist())
            assert rule.number(i, dim, shape) == (numbers.pop() if len(numbers) == 1 else -1)
    assert l0.blocks(0, 2, sharers=2).number(0, 0, shape) == -1


@pytest.mark.compiles
@pytest.mark.parametrize("name", sampled(["cnn", "attention", "lstm"], one_in(3)))
def test_expected_counts_are_mapped_and_compiled_like_any_penalty(name):
    case = BY_NAME[name]
    module = case.build().eval()
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, case.batch()), buffers=buffers)
    counts = l0.count_macs(fn, params, buffers, *case.batch())
    one, two = (l0.init_gates(l0.random.key(i), spec, noise=2.0) for i in range(2))

    def expected(gates: dict) -> torch.Tensor:
        return l0.expected_macs(gates, spec, counts)

    stacked = {n: torch.stack((one[n], two[n])) for n in one}
    torch.testing.assert_close(
        torch.vmap(expected)(stacked), torch.stack((expected(one), expected(two)))
    )
    step = torch.compile(torch.func.grad(expected), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(one), torch.func.grad(expected)(one))


def test_scores_count_with_the_gates_that_their_heads_are_wholly_behind():
    case = BY_NAME["attention"]
    fn, params, buffers = l0.make_functional(case.build())
    counts = l0.count_macs(fn, params, buffers, *case.batch())
    dense = {path: counts.by_parameter[path] for path in counts.uses}
    rows = [l0.blocks(0, 2, start, start + 4) for start in (0, 4, 8)]
    whole = l0.gate_spec(params, groups={"heads": l0.group({"mha.in_proj_weight": rows})})
    half = {"heads": torch.tensor([20.0, -20.0])}
    scores = counts.total - sum(dense.values())
    left = l0.realised_macs(half, whole, counts)
    assert left == dense["mha.in_proj_weight"] / 2 + dense["mha.out_proj.weight"] + scores / 2
    # A gate on every row closes no head, even if all rows of one close: only their own products
    # go.
    single = l0.gate_spec(params, {"mha.in_proj_weight": l0.axis(0)})
    closed = {"mha.in_proj_weight": torch.tensor([20.0, 20.0, -20.0, -20.0] * 3)}
    assert l0.realised_macs(closed, single, counts) == left + scores / 2
