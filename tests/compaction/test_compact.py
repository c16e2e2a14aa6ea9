"""Laws 6 and 7: the compacted network equals the pruned one and has the announced size."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from groups import problem, random_gates
from strangers import STRANGERS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import BY_NAME, CASES

import l0func as l0
from l0func import axis, blocks
from l0func.internal import tree

STRUCTURED = [*CASES, *STRANGERS]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def tensors(value: Any) -> list[Tensor]:
    return [t for _, t in tree.walk(value) if isinstance(t, Tensor)]


def entries(params: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in params)


def shapes_of(params: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {path: p.shape for path, p in params.items()}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", STRUCTURED, ids=repr)
def test_the_compacted_network_equals_the_pruned_one_at_every_density(case, dtype):
    found = problem(case, dtype)
    if found is None:
        assert case in CASES
        return
    fn, params, buffers, spec, inputs = found
    for density in (0.01, 0.3, 0.6, 0.9, 0.99):
        gates = random_gates(spec, density)
        pruned = l0.prune(params, gates, spec)
        expected = tensors(fn(pruned, buffers, *inputs))
        small, less, state = l0.compact(fn, params, gates, buffers, spec)
        module = l0.to_module(small, less, state)
        for output in (small(less, state, *inputs), module(*inputs)):
            for a, b in zip(tensors(output), expected, strict=True):
                assert (a - b).abs().max() <= TOLERANCE[dtype] * b.abs().max()
        announced = l0.summary(params, gates, spec).total.realised_open
        assert entries(less.values()) == announced
        assert entries(module.parameters()) == announced
        for path, p in less.items():
            assert tuple(p.shape) == small.shapes[path]


@pytest.mark.parametrize("estimator", ["louizos", "median", "mean", "count"])
def test_what_stays_is_what_the_estimator_keeps(estimator):
    fn, params, buffers, spec, inputs = problem(BY_NAME["cnn"], torch.float64)
    gates = {"0": torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64)}
    small, less, state = l0.compact(fn, params, gates, buffers, spec, estimator)
    announced = l0.summary(params, gates, spec, estimator).total.realised_open
    assert entries(less.values()) == announced
    expected = fn(l0.prune(params, gates, spec, estimator), buffers, *inputs)
    torch.testing.assert_close(small(less, state, *inputs), expected, rtol=1e-10, atol=1e-12)


def test_attributes_follow_their_tensors():
    by_name = {c.name: c for c in STRANGERS}
    fn, params, buffers, spec, _ = problem(by_name["separable"], torch.float32)
    gates = {gate.name: torch.full(gate.shape, -20.0) for gate in spec.gates}
    for name, n in (("stem.0", 4), ("expand.0", 5), ("squeeze", 2)):
        gates[name][:n] = 3.0
    module = l0.to_module(*l0.compact(fn, params, gates, buffers, spec))
    assert (module.stem[0].out_channels, module.stem[1].num_features) == (4, 4)
    depthwise = module.depthwise[0]
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (5, 5, 5)
    assert (module.head.in_features, module.head.out_features) == (4, 3)
    fn, params, buffers, spec, _ = problem(by_name["resnext"], torch.float32)
    gates = {"enter": torch.tensor([3.0, -20.0, -20.0, 3.0])}
    module = l0.to_module(*l0.compact(fn, params, gates, buffers, spec))
    assert (module.grouped.groups, module.norm1.num_groups, module.norm1.num_channels) == (2, 2, 6)


def test_equal_widths_stay_one_recurrent_layer_and_unequal_ones_become_a_chain():
    fn, params, buffers, spec, inputs = problem(BY_NAME["lstm"], torch.float32)
    first = torch.tensor([3.0, -20.0, 3.0, -20.0])
    same = {"rnn.weight_ih_l0": first, "rnn.weight_ih_l1": -first - 17.0}
    module = l0.to_module(*l0.compact(fn, params, same, buffers, spec))
    assert type(module.rnn) is nn.LSTM
    assert (module.rnn.hidden_size, module.rnn.input_size) == (2, 3)
    unequal = {"rnn.weight_ih_l0": first, "rnn.weight_ih_l1": torch.tensor([3.0, 3.0, 3.0, -20.0])}
    module = l0.to_module(*l0.compact(fn, params, unequal, buffers, spec))
    assert module.rnn.hidden_sizes == (2, 3)
    expected = fn(l0.prune(params, unequal, spec), buffers, *inputs)
    torch.testing.assert_close(module(*inputs), expected)


def test_a_compacted_function_is_as_pure_as_the_one_that_went_in():
    fn, params, buffers, spec, inputs = problem(BY_NAME["cnn"], torch.float32)
    gates = {"0": torch.tensor([3.0, -20.0, 3.0])}
    before = copy.deepcopy((params, gates, buffers))
    small, less, state = l0.compact(fn, params, gates, buffers, spec)
    for a, b in zip(tensors((params, gates, buffers)), tensors(before), strict=True):
        assert torch.equal(a, b)
    assert not {p.data_ptr() for p in less.values()} & {p.data_ptr() for p in params.values()}
    gradient = torch.func.grad(lambda p: small(p, state, *inputs).square().sum())(less)
    assert shapes_of(gradient) == shapes_of(less)
    rows = torch.func.vmap(small, in_dims=(None, None, 0))(less, state, inputs[0][:, None])
    torch.testing.assert_close(rows[:, 0], small(less, state, *inputs))
    again = l0.make_functional(l0.to_module(small, less, state))
    assert torch.equal(again.fn(again.params, again.buffers, *inputs), small(less, state, *inputs))


def test_a_row_that_is_zero_keeps_its_bias():
    module = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)).double()
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, {"0.weight": axis(0)})
    gates = {"0.weight": torch.tensor([3.0, -20.0, 3.0, -20.0], dtype=torch.float64)}
    small, less, state = l0.compact(fn, params, gates, buffers, spec)
    assert shapes_of(less) == shapes_of(params)
    x = torch.randn(5, 3, dtype=torch.float64)
    expected = fn(l0.prune(params, gates, spec), buffers, x)
    torch.testing.assert_close(small(less, state, x), expected, rtol=0, atol=1e-15)


def test_a_layer_that_closes_is_an_error_or_a_constant():
    fn, params, buffers, spec, inputs = problem(BY_NAME["cnn"], torch.float64)
    gates = {"0": torch.full((3,), -20.0, dtype=torch.float64)}
    with pytest.raises(
        ValueError, match=r"All 3 units of '0' are closed, so that nothing is left of '0.weight"
    ):
        l0.compact(fn, params, gates, buffers, spec)
    small, less, state = l0.compact(fn, params, gates, buffers, spec, empty="constant")
    output = small(less, state, *inputs)
    torch.testing.assert_close(output, params["4.bias"].expand(5, 2))
    with pytest.warns(UserWarning, match=r"All gates of '0\.weight'"):
        pruned = l0.prune(params, gates, spec)
    torch.testing.assert_close(output, fn(pruned, buffers, *inputs))
    with pytest.raises(ValueError, match="'raise', 'constant', 'remove' or None; got 'keep'"):
        l0.compact(fn, params, gates, buffers, spec, empty="keep")


def linears(**owns: Any) -> tuple[Any, ...]:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    fn, params, buffers = l0.make_functional(module)
    groups = {"h": l0.group({"3.weight": axis(1)}, owns)}
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    return fn, params, {"h": torch.tensor([3.0, -20.0, 3.0, 3.0])}, buffers, spec


FULL = {
    p: axis(0)
    for p in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
}


@pytest.mark.parametrize("missing", ["0.bias", "1.weight", "1.running_var"])
def test_a_group_that_forgets_a_slice_is_refused_by_the_module(missing):
    with pytest.raises(
        ValueError, match=r"(Linear|BatchNorm1d) '[01]' cannot be made smaller: .* not the same"
    ):
        l0.compact(*linears(**{p: r for p, r in FULL.items() if p != missing}))


def test_heads_and_groups_go_as_a_whole():
    fn, params, buffers = l0.make_functional(nn.MultiheadAttention(4, 2, bias=False))
    spec = l0.gate_spec(
        params,
        groups={"h": l0.group({"out_proj.weight": axis(1)}, {"in_proj_weight": axis(0, 0, 4)})},
    )
    with pytest.raises(ValueError, match="loses some slices of a head"):
        l0.compact(fn, params, {"h": torch.tensor([3.0, -20.0, 3.0, 3.0])}, buffers, spec)
    convs = nn.Conv2d(4, 4, 1, groups=2), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1)
    fn, params, buffers = l0.make_functional(nn.Sequential(*convs))
    owned = {path: axis(0) for path in ("0.weight", "0.bias", "1.weight", "1.bias")}
    spec = l0.gate_spec(params, groups={"h": l0.group({"2.weight": axis(1)}, owned)})
    with pytest.raises(ValueError, match="loses some slices of a group"):
        l0.compact(fn, params, {"h": torch.tensor([3.0, -20.0, 3.0, 3.0])}, buffers, spec)


def test_a_layer_norm_over_gated_units_is_refused_by_name():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    fn, params, buffers = l0.make_functional(module)
    owned = {path: axis(0) for path in ("0.weight", "0.bias", "1.weight", "1.bias")}
    spec = l0.gate_spec(params, groups={"h": l0.group({"2.weight": axis(1)}, owned)})
    with pytest.raises(
        ValueError, match="LayerNorm '1' cannot be made smaller: it normalises over"
    ):
        l0.compact(fn, params, {"h": torch.tensor([3.0, -20.0, 3.0, 3.0])}, buffers, spec)


def test_a_recurrent_group_with_half_its_slices_is_refused():
    fn, params, buffers = l0.make_functional(nn.LSTM(3, 4))
    rows = {f"{kind}_l0": l0.tiles(0, 4) for kind in ("weight_ih", "bias_ih", "bias_hh")}
    spec = l0.gate_spec(params, groups={"h": l0.group({"weight_hh_l0": axis(1)}, rows)})
    with pytest.raises(ValueError, match="'weight_ih_l0' and 'weight_hh_l0' lose different units"):
        l0.compact(fn, params, {"h": torch.tensor([3.0, -20.0, 3.0, 3.0])}, buffers, spec)


@pytest.mark.parametrize(
    ("attrs", "match"),
    [
        (
            {"0.out_feature": 1},
            r"'0.out_feature', which no module has; the closest is '0.out_features'",
        ),
        (
            {"0.out_features": 2},
            "make '0.out_features' 2, and the slices that its tensors keep make it 3",
        ),
        ({"0.out_features": "1"}, "an integer; group 'h' says '1'"),
        ({"0.training": 1}, "take 1 from '0.training', which is True"),
    ],
)
def test_attrs_that_do_not_fit_are_refused(attrs, match):
    fn, params, gates, buffers, _ = linears()
    spec = l0.gate_spec(
        params, groups={"h": l0.group({"3.weight": axis(1)}, FULL, attrs)}, buffers=buffers
    )
    with pytest.raises(ValueError, match=match):
        l0.compact(fn, params, gates, buffers, spec)


def test_what_belongs_to_another_network_is_refused():
    fn, params, gates, buffers, spec = linears(**FULL)
    other = l0.make_functional(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)))
    with pytest.raises(ValueError, match=r"'1.bias' is in the spec and not in the function"):
        l0.compact(other.fn, params, gates, buffers, spec)
    with pytest.raises(ValueError, match="shape"):
        l0.compact(fn, params | {"0.bias": torch.zeros(5)}, gates, buffers, spec)
    with pytest.raises(ValueError, match="shape"):
        l0.compact(fn, params, {"h": torch.zeros(5)}, buffers, spec)
    with pytest.raises(ValueError, match="NaN"):
        l0.compact(fn, params, {"h": torch.full((4,), float("nan"))}, buffers, spec)
    lacking = (
        r"'1.num_batches_tracked' is in the function's buffers and not in .*from make_functional"
    )
    with pytest.raises(ValueError, match=lacking):
        l0.compact(fn, params, gates, {}, spec)
    with pytest.raises(ValueError, match=r"'q' is in the buffers given and not in the function's"):
        l0.compact(fn, params, gates, buffers | {"q": torch.ones(1)}, spec)
    with pytest.raises(TypeError, match="got function"):
        l0.compact(lambda *a: a, params, gates, buffers, spec)
    with pytest.raises(TypeError, match="got Linear"):
        l0.to_module(nn.Linear(2, 2), params, buffers)


def test_shared_key_rows_go_when_all_of_their_sharers_are_closed():
    module = nn.ModuleDict({"q": nn.Linear(4, 8), "k": nn.Linear(4, 4), "o": nn.Linear(8, 4)})
    fn, params, buffers = l0.make_functional(module)
    owns = {"q.weight": blocks(0, 2), "q.bias": blocks(0, 2)}
    shared = {"k.weight": blocks(0, 2, sharers=2), "k.bias": blocks(0, 2, sharers=2)}
    spec = l0.gate_spec(
        params, groups={"heads": l0.group({"o.weight": blocks(1, 2)}, owns | shared)}
    )
    one, two = torch.tensor([-20.0, 3.0, 3.0, 3.0]), torch.tensor([-20.0, -20.0, 3.0, 3.0])
    shapes = [l0.compact(fn, params, {"heads": g}, buffers, spec).fn.shapes for g in (one, two)]
    assert [s["q.weight"] for s in shapes] == [(6, 4), (4, 4)]
    assert [s["k.weight"] for s in shapes] == [(4, 4), (2, 4)]


def six_hidden_layers(width: int) -> tuple[Any, ...]:
    layers = []
    for _ in range(6):
        layers += [nn.Linear(width, width), nn.ReLU()]
    fn, params, buffers = l0.make_functional(nn.Sequential(*layers, nn.Linear(width, 10)))
    groups = {}
    for i in range(6):
        owns = {f"{2 * i}.weight": axis(0), f"{2 * i}.bias": axis(0)}
        groups[f"h{i}"] = l0.group({f"{2 * i + 2}.weight": axis(1)}, owns)
    return fn, params, buffers, l0.gate_spec(params, groups=groups)


class CountedOperations(TorchDispatchMode):
    """A context that counts the operations of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_twenty_five_million_parameters_are_compacted_in_as_many_operations_as_a_few():
    counts = []
    for width in (2048, 8):
        fn, params, buffers, spec = six_hidden_layers(width)
        gates = random_gates(spec, 0.5)
        with CountedOperations() as operations:
            l0.compact(fn, params, gates, buffers, spec)
        counts.append(operations.count)
        assert width == 8 or sum(p.numel() for p in params.values()) > 25e6
    assert counts[0] == counts[1] < 1000


# With examples the result is run and compared.


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.c(h + self.b(torch.relu(h)))


@pytest.mark.parametrize(
    ("left", "match"),
    [(3, "does not run on the examples"), (1, "does not run|is not the pruned one's")],
)
def test_residual_branches_that_would_disagree_are_an_error(left, match):
    fn, params, buffers = l0.make_functional(Skip())
    owns = {"a.weight": axis(0), "a.bias": axis(0)}
    spec = l0.gate_spec(params, groups={"h": l0.group({"b.weight": axis(1)}, owns)})
    gates = {"h": torch.where(torch.arange(4) < left, 3.0, -20.0)}
    with pytest.raises(ValueError, match=match):
        l0.compact(fn, params, gates, buffers, spec, example_inputs=torch.randn(3, 3))


def test_a_head_size_that_does_not_divide_is_refused():
    module = nn.ModuleDict({"v": nn.Linear(4, 8), "o": nn.Linear(8, 4)})
    _, params, _ = l0.make_functional(module)
    groups = {"heads": l0.group({"o.weight": blocks(1, 3)}, {"v.weight": blocks(0, 3)})}
    rule = r"On 'o.weight': blocks\(dim=1, size=3\) needs a size that divides the 8 indices"
    with pytest.raises(ValueError, match=rule):
        l0.gate_spec(params, groups=groups)


class Shared(nn.Module):
    """One layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.twice, self.leave = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.enter(x))
        h = torch.relu(self.twice(h))
        return self.leave(torch.relu(self.twice(h)))


def test_weights_used_at_two_places_have_one_group_and_two_are_an_error():
    groups = l0.unit_groups(Shared(), torch.randn(3, 3))
    assert groups.sizes == {"enter": 4}
    assert dict(groups["enter"].multiplies).keys() == {"twice.weight", "leave.weight"}
    fn, params, buffers = l0.make_functional(Shared())
    enter_rows = {"enter.weight": axis(0), "enter.bias": axis(0)}
    twice_rows = {"twice.weight": axis(0), "twice.bias": axis(0)}
    first = l0.group({"twice.weight": axis(1)}, enter_rows)
    second = l0.group({"leave.weight": axis(1)}, twice_rows)
    spec = l0.gate_spec(params, groups={"first": first, "second": second})
    gates = {
        "first": torch.tensor([3.0, -20.0, 3.0, 3.0]),
        "second": torch.tensor([3.0, 3.0, -20.0, -20.0]),
    }
    with pytest.raises(ValueError, match="does not run on the examples"):
        l0.compact(fn, params, gates, buffers, spec, example_inputs=torch.randn(3, 3))


@pytest.mark.skipif(
    not hasattr(nn, "RMSNorm"), reason="torch 2.4 was the first to have nn.RMSNorm"
)
def test_an_rms_norm_over_fewer_units_makes_up_for_those_that_went():
    module = nn.Sequential(nn.Linear(3, 8), nn.RMSNorm(8, eps=0.3), nn.Linear(8, 2))
    fn, params, buffers = l0.make_functional(module.double())
    writers = {"0.weight": axis(0), "0.bias": axis(0)}
    readers = {"1.weight": axis(0), "2.weight": axis(1)}
    spec = l0.gate_spec(params, groups={"h": l0.group(writers, readers)})
    gates = {"h": torch.tensor([3.0, -20.0, 1.0, -20.0, -20.0, 0.5, 2.0, -20.0]).double()}
    small = l0.compact(fn, params, gates, buffers, spec)
    x = torch.randn(5, 3, dtype=torch.float64)
    pruned = l0.prune(params, gates, spec)
    output, expected = small.fn(small.params, {}, x), fn(pruned, buffers, x)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(small.params["1.weight"], pruned["1.weight"][[0, 2, 5, 6]] * 2**0.5)
    module = l0.to_module(*small)
    assert (module[1].normalized_shape, module[1].eps) == ((4,), 0.6)
