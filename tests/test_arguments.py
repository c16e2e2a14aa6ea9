"""Forgotten and swapped arguments are refused where they were passed, by their names."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed import get_rank

import l0func as l0

NET = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
FN, PARAMS, BUFFERS = l0.make_functional(NET)
SPEC = l0.gate_spec(PARAMS)
KEY = l0.random.key(0)
KEYS = l0.random.split(KEY, 5)
GATES = l0.init_gates(KEY, SPEC)
X = torch.ones(5, 4)
APPLY = l0.gated(FN, SPEC)
ROWS = l0.per_example(APPLY)
CONTROL = l0.lagrangian(SPEC, 0.5)
LIST = list(PARAMS.values())
ORDER = "params, gates, buffers, key, inputs"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FN(PARAMS, X), f"^buffers: .*a tensor of shape .5, 4.*{ORDER}"),
        (lambda: FN(X, BUFFERS), "^params: .*a tensor .*make_functional"),
        (lambda: FN(NET, BUFFERS, X), "^params: .*type Sequential.*make_functional"),
        (lambda: FN(dict, BUFFERS, X), "^params: .*type type"),
        (
            lambda: APPLY(PARAMS, GATES, KEY, X),
            r"key.*float32.*apply\(params, gates, buffers, key",
        ),
        (lambda: APPLY(PARAMS, GATES, BUFFERS, X), r"key.*float32.*apply\(params, gates"),
        (lambda: APPLY(PARAMS, GATES, BUFFERS, X, KEY), "key.*a tensor of torch.float32"),
        (lambda: APPLY(PARAMS, GATES, BUFFERS, 0, X), r"number 0.*l0func.random.key\(seed\)"),
        (lambda: APPLY(KEY, PARAMS, GATES, BUFFERS, X), "fourth argument is a key.*got dict"),
        (lambda: APPLY(PARAMS, KEY, BUFFERS, KEY, X), "^gates: .*a tensor .*init_gates"),
        (lambda: APPLY(PARAMS, GATES, X, KEY, X), "^buffers: .*a tensor of shape"),
        (lambda: ROWS(PARAMS, GATES, BUFFERS, None, X), "Fixed gates .*belong to the gated func"),
        (lambda: ROWS(PARAMS, GATES, BUFFERS, X, KEYS), r"key for every row.*rows\(params, gates"),
        (lambda: ROWS(PARAMS, GATES, KEYS, X), r"key for every row.*rows\(params, gates, buffers"),
        (lambda: ROWS(PARAMS, GATES, BUFFERS, 0, X), r"number 0.*split\(key, B\)"),
        (lambda: l0.gated(NET, SPEC), "got the module Sequential.*make_functional"),
        (lambda: l0.gated(nn.ReLU, SPEC), "a class.*ReLU"),
        (lambda: l0.gated(l0.make_functional(NET), SPEC), "Unpack it"),
        (lambda: l0.gated(SPEC, FN), "got GateSpec as fn"),
        (lambda: l0.gated(APPLY, SPEC), "has gates already"),
        (lambda: l0.gated(FN, GATES), "l0func.gate_spec; got dict"),
        (lambda: l0.per_example(FN, SPEC), r"l0func.gated\(fn, spec\)"),
        (lambda: l0.per_example(NET), r"got Sequential.*l0func.gated\(fn, spec\)"),
        (lambda: l0.per_example(SPEC), "got GateSpec"),
        (lambda: l0.per_example(ROWS), "mapped already"),
        (lambda: l0.per_example(APPLY, SPEC), "^in_dims says.*got GateSpec"),
        (lambda: l0.per_example(APPLY, in_dims="0"), "^in_dims says.*got str"),
        (lambda: l0.per_example(APPLY, out_dims=KEYS), "^out_dims says.*got Tensor"),
        (lambda: l0.per_example(APPLY, out_dims=True), "^out_dims says.*got bool"),
        (lambda: l0.per_example(APPLY, chunk_size=2.5), "chunk_size is an integer; got 2.5"),
        (lambda: l0.per_example(APPLY, gate_dims="0"), "gate_dims is an integer; got '0'"),
        (lambda: l0.gate_spec(NET), "^params: .*type Sequential.*make_functional"),
        (lambda: l0.gate_spec(NET.named_parameters()), "^params: .*generator.*make_functional"),
        (lambda: l0.gate_spec(l0.make_functional(NET)), "'fn' is PureModule.*make_functional"),
        (lambda: l0.gate_spec(PARAMS, {nn.Linear: l0.element()}), "patterns .*text.*Linear"),
        (lambda: l0.gate_spec(PARAMS, {"*": l0.element}), "the class element; call it"),
        (lambda: l0.gate_spec(PARAMS, [l0.element()]), "rules are .*got list"),
        (lambda: l0.init_gates(KEY, PARAMS), "l0func.gate_spec; got dict"),
        (lambda: l0.init_gates(KEY, SPEC, [0.1, 0.2]), r"droprate of '0.weight'.*\[0.1, 0.2\]"),
        (lambda: l0.init_gates(KEY, SPEC, "0.1"), "droprate of '0.weight'.*'0.1'"),
        (lambda: l0.init_gates(KEY, SPEC, {"*": None}), "droprate of '0.weight'.*None"),
        (lambda: l0.make_functional(FN), "PureModule. A pure function .*l0func.to_module"),
        (lambda: l0.unit_groups(FN, X), "The module, the first argument.*PureModule"),
        (lambda: l0.resize_to(PARAMS, NET), "The module, the first argument.*got dict"),
        (lambda: l0.save(PARAMS, GATES, BUFFERS, SPEC, "net"), "the first argument; got dict"),
        (lambda: CONTROL.penalty(GATES, CONTROL.init(GATES)), r"control.init\(gates\).*got dict"),
        (lambda: CONTROL.update(GATES, CONTROL.init(GATES)), r"control.init\(gates\).*got dict"),
        (lambda: CONTROL.hold(GATES, CONTROL.init(GATES)), r"control.init\(gates\).*got dict"),
        (lambda: CONTROL.is_low(GATES, CONTROL.init(GATES)), r"control.init\(gates\).*got dict"),
        (lambda: l0.L0Module(NET, 1e-3, rank="0"), r"rank is a whole number.*got '0' \(str\)"),
        (lambda: l0.L0Module(NET, 1e-3, rank=get_rank), r"torch.distributed.get_rank\(\).*functi"),
        (lambda: l0.L0Module(NET, 1e-3, rank=True), "rank is a whole number.*got True"),
        (lambda: l0.random.key("0"), "A seed is an integer; got '0'"),
        (lambda: l0.random.key(KEY), "A seed is an integer; got tensor"),
        (lambda: l0.random.fold_in(KEY, 1.5), "number for fold_in is an integer; got 1.5"),
        (lambda: l0.random.split(KEY, 2.0), "number of new keys is an integer; got 2.0"),
    ],
)
def test_an_argument_with_another_type_is_named(call, message):
    with pytest.raises(TypeError, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FN(BUFFERS, PARAMS, X), f"names in params.*module has '0.bias'.*{ORDER}"),
        (lambda: FN(PARAMS, GATES, X), f"names in buffers.*{ORDER}"),
        (lambda: FN({}, BUFFERS, X), "'0.bias' is in the module's params and not in the params"),
        (lambda: APPLY(PARAMS, BUFFERS, GATES, KEY, X), f"names in gates.*spec has.*{ORDER}"),
        (lambda: APPLY(PARAMS, GATES, PARAMS, KEY, X), f"names in buffers.*{ORDER}"),
        (lambda: l0.prune(LIST, GATES, SPEC), r"names in params.*list of tensors has no names"),
        (lambda: l0.prune(PARAMS, list(GATES.values()), SPEC), r"gates.*list of tensors"),
        (lambda: l0.summary(BUFFERS, GATES, SPEC), f"names in params.*{ORDER}"),
        (lambda: l0.compact(FN, PARAMS, GATES, PARAMS, SPEC), f"names in buffers.*{ORDER}"),
    ],
)
def test_names_that_fit_another_argument_are_a_swap(call, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


def test_groups_in_the_place_of_rules_are_sent_to_their_argument():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    params, groups = l0.make_functional(net).params, l0.unit_groups(net, X)
    with pytest.raises(TypeError, match=r"gate_spec\(params, groups=groups\)"):
        l0.gate_spec(params, groups)


@pytest.mark.parametrize("rules", [{}, {"1.*": None}, {"*.bias": None, "1.*": None}])
def test_rules_that_gate_nothing_are_refused(rules):
    with pytest.raises(ValueError, match="gate nothing: they name the parameters that have gates"):
        l0.gate_spec(PARAMS, rules)


def test_rules_that_exclude_every_parameter_are_a_spec_without_gates():
    assert l0.gate_spec(PARAMS, {"*": None}).gates == ()


def test_rules_that_only_exclude_may_stand_beside_groups():
    groups = {"h": l0.group({"2.weight": l0.axis(1)}, owns={"0.weight": l0.axis(0)})}
    spec = l0.gate_spec(PARAMS, {"*.bias": None}, groups=groups)
    assert [gate.name for gate in spec.gates] == ["h"]


COSTS = [("1e-3", TypeError), (None, TypeError), ([0.1], TypeError), (1j, TypeError)]
BAD = [(-1.0, ValueError), (math.nan, ValueError), (math.inf, ValueError)]


@pytest.mark.parametrize(("cost", "error"), [*COSTS, *BAD])
@pytest.mark.parametrize("setting", ["lam", "lam by pattern", "weight_decay"])
def test_a_cost_is_a_finite_number_of_at_least_0(cost, error, setting):
    costs = {"lam": {"lam": cost}, "lam by pattern": {"lam": {"0.*": 0.1, "*": cost}}}
    settings = costs.get(setting, {"weight_decay": cost})
    with pytest.raises(error, match=f"{setting.split()[0]}.* (is a number or|is a cost, finite)"):
        l0.penalty(PARAMS, GATES, SPEC, **settings)


def test_costs_of_other_number_types_count_like_floats():
    expected = l0.penalty(PARAMS, GATES, SPEC, 0.5, 0.25)
    for kind in (np.float32, np.float64, torch.tensor):
        assert torch.equal(l0.penalty(PARAMS, GATES, SPEC, kind(0.5), kind(0.25)), expected)
    assert torch.equal(l0.penalty(PARAMS, GATES, SPEC, np.int64(0)), torch.tensor(0.0))


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(7, 4), nn.LSTM(4, 3, num_layers=2)
        self.norm, self.head = nn.LayerNorm(3), nn.Linear(3, 2)


def test_summary_names_weights_without_gates():
    params = l0.make_functional(Text()).params
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    table = l0.summary(params, l0.init_gates(KEY, spec), spec)
    layers = [(f"lstm.weight_ih_l{i}", f"lstm.weight_hh_l{i}") for i in (0, 1)]
    assert sorted(table.ungated_weights) == sorted(chain.from_iterable(layers))
    assert str(table).splitlines()[-1].startswith("no gates on lstm.weight_")
    assert "and 1 more" in str(table)
    assert "no gates on lstm.weight_" in table._repr_html_()


def test_the_readme_pattern_gates_every_weight_of_an_lstm():
    params = l0.make_functional(Text()).params
    spec = l0.gate_spec(params, {"*weight*": l0.element()})
    table = l0.summary(params, l0.init_gates(KEY, spec), spec)
    assert table.ungated_weights == ()
    assert "no gates on" not in str(table)


def without(named, *paths):
    return {path: value for path, value in named.items() if path not in paths}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: l0.penalty(PARAMS, without(GATES, "0.bias"), SPEC),
            "^'0.bias' is in the spec's gates and not in the gates given; the closest",
        ),
        (
            lambda: l0.penalty(PARAMS, GATES | {"foo": X}, SPEC),
            "^'foo' is in the gates given and not in the spec's gates; the closest",
        ),
        (
            lambda: l0.penalty(without(PARAMS, "0.bias"), GATES, SPEC),
            "^'0.bias' is in the spec's params and not in the params given",
        ),
        (
            lambda: FN(PARAMS | {"foo": X}, BUFFERS, X),
            "^'foo' is in the params given and not in the module's params; [^.]*[.][^.]*[.]$",
        ),
        (
            lambda: FN(PARAMS, without(BUFFERS, "1.running_var"), X),
            "^'1.running_var' is in the module's buffers and not in the buffers given",
        ),
    ],
)
def test_a_name_that_one_side_lacks_is_told_with_both_sides(call, message):
    with pytest.raises(ValueError, match=message):
        call()


STATE = r"in its place pass dict\(net.named_parameters\(\)\) as params"


@pytest.mark.parametrize(
    "call",
    [
        lambda state: FN(state, BUFFERS, X),
        lambda state: FN(PARAMS, state, X),
        lambda state: APPLY(state, GATES, BUFFERS, KEY, X),
        lambda state: ROWS(state, GATES, BUFFERS, KEYS, X),
        lambda state: l0.prune(state, GATES, SPEC),
    ],
)
def test_a_state_dict_in_the_place_of_params_or_buffers_is_told_as_one(call):
    with pytest.raises(ValueError, match=STATE):
        call(NET.state_dict())


PART = l0.gate_spec(PARAMS, {"*.weight": l0.axis(0)})
PART_GATES = l0.init_gates(KEY, PART)


@pytest.mark.parametrize(
    ("call", "pair"),
    [
        (lambda: l0.penalty(PART_GATES, PARAMS, PART), "params and gates"),
        (lambda: l0.prune(PART_GATES, PARAMS, PART), "params and gates"),
        (lambda: l0.gated(FN, PART)(PART_GATES, PARAMS, BUFFERS, KEY, X), "gates and params"),
        (lambda: l0.mean_masks(PARAMS, PART), "gates and params"),
    ],
)
def test_exactly_the_names_of_another_argument_are_told_as_a_swap(call, pair):
    with pytest.raises(ValueError, match=f"{pair} look swapped.*{ORDER}"):
        call()
