"""An exact density: the likeliest gates stay, as many as it allows, and every face agrees."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from sampled import one_in, sampled
from specs import specs
from torch import nn

import l0func as l0

ALL = specs()
every = pytest.mark.parametrize("name", ALL)


def random_locations(spec, seed=0):
    gates = {}
    for gate in spec.gates:
        key = l0.random.fold_in(l0.random.key(seed), gate.stream)
        gates[gate.name] = 2 * l0.random.normal(key, gate.shape)
    return gates


def open_share(params, gates, spec, **settings):
    """The share of entries of gated parameters that the summary says are open."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All gates of")
        table = l0.summary(params, gates, spec, **settings)
    rows = [table[p.path] for p in spec.gated()]
    return sum(row.realised_open for row in rows), sum(row.entries for row in rows)


def ordered(gates, spec):
    """Every gate as (-P(z != 0), name, index): sorted, the likeliest come first."""
    found = []
    for gate in spec.gates:
        chances = gate.distribution.prob_nonzero(gates[gate.name].double()).flatten().tolist()
        found += [(-chance, gate.name, i) for i, chance in enumerate(chances)]
    return sorted(found)


def with_first_open(gates, spec, count):
    """Gates that the louizos estimator opens: the first ones in the order, and no others."""
    values = {gate.name: torch.full((gate.size,), -50.0) for gate in spec.gates}
    for _, name, i in ordered(gates, spec)[:count]:
        values[name][i] = 50.0
    return {gate.name: values[gate.name].reshape(gate.shape) for gate in spec.gates}


@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.29, 1 / 3, 0.5, 0.777, 0.999, 1.0, 1])
def test_with_a_gate_for_each_entry_the_share_is_exact(density):
    params = {"a": torch.ones(10, 20), "b": torch.ones(30)}
    spec = l0.gate_spec(params)
    gates = random_locations(spec)
    count, total = open_share(params, gates, spec, density=density)
    # The text of a float says what its user meant: 0.29 of 100 is 29.
    assert count == math.floor(round(density * total, 6))


@pytest.mark.parametrize("name", sampled(ALL, one_in(3)))
@pytest.mark.parametrize("density", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_share_is_the_nearest_of_all_prefixes_that_is_not_above(name, density):
    params, spec = ALL[name]
    gates = random_locations(spec)
    sizes = []
    for count in range(sum(gate.size for gate in spec.gates) + 1):
        opened, total = open_share(params, with_first_open(gates, spec, count), spec)
        sizes.append(opened)
    allowed = [size for size in sizes if size <= density * total + 1e-6]
    if not allowed:
        with pytest.raises(ValueError, match=r"cannot be reached: with every gate closed"):
            l0.summary(params, gates, spec, density=density)
        return
    assert open_share(params, gates, spec, density=density) == (max(allowed), total)


@every
def test_prune_keeps_what_the_summary_announces_with_the_means_of_count(name):
    params, spec = ALL[name]
    gates = random_locations(spec)
    opened, total = open_share(params, gates, spec, density=1.0)
    assert opened == total
    everything = l0.prune(params, gates, spec, density=1.0)
    means = l0.apply_masks(params, l0.mean_masks(gates, spec))
    torch.testing.assert_close(everything, means)
    ones = {path: torch.ones_like(p) for path, p in params.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All gates of")
        half = l0.prune(ones, gates, spec, density=0.6)
    kept = sum(int(half[p.path].count_nonzero()) for p in spec.gated())
    assert kept == open_share(params, gates, spec, density=0.6)[0]


def test_a_density_of_the_expected_count_is_the_estimator_count():
    params = {"w": torch.ones(40)}
    spec = l0.gate_spec(params)
    gates = random_locations(spec)
    by_count = l0.prune(params, gates, spec, "count")["w"]
    density = by_count.count_nonzero().item() / 40
    assert torch.equal(l0.prune(params, gates, spec, density=density)["w"], by_count)


def test_ties_go_by_name_and_index():
    params = {name: torch.ones(3) for name in ("b", "a", "c")}
    spec = l0.gate_spec(params)
    gates = {name: torch.zeros(3) for name in params}
    with pytest.warns(UserWarning, match="All gates of 'c' are closed"):
        kept = l0.prune(params, gates, spec, density=5 / 9)
    opened = {name: (w != 0).tolist() for name, w in kept.items()}
    assert opened["a"] == [True] * 3
    assert opened["b"] == [True, True, False]
    assert opened["c"] == [False] * 3


def test_gates_of_unlike_distributions_compare_by_their_chance():
    params = {"a": torch.ones(2), "b": torch.ones(2)}
    spec = l0.gate_spec(params, distribution={"a": l0.HardConcrete(), "b": l0.BernoulliGate()})
    # P(z != 0) of hard concrete is above .8 at 0, that of a Bernoulli gate is .5.
    gates = {"a": torch.tensor([0.0, -3.0]), "b": torch.tensor([0.5, 3.0])}
    kept = l0.prune(params, gates, spec, density=0.5)
    assert {name: (w != 0).tolist() for name, w in kept.items()} == {
        "a": [True, False],
        "b": [False, True],
    }


def test_a_gate_that_hardly_ever_opens_stays_open_if_it_is_kept():
    params = {"w": torch.ones(3)}
    spec = l0.gate_spec(params)
    gates = {"w": torch.tensor([-400.0, -300.0, 1.0])}
    assert open_share(params, gates, spec, density=1.0) == (3, 3)
    assert open_share(params, gates, spec, density=2 / 3) == (2, 3)


def test_patterns_have_a_share_each():
    params = {"fc1.weight": torch.ones(10, 10), "fc2.weight": torch.ones(50), "b": torch.ones(4)}
    spec = l0.gate_spec(params, {"fc*": l0.element()})
    gates = random_locations(spec)
    table = l0.summary(params, gates, spec, density={"fc1.*": 0.1, "*": 0.5})
    assert [table[name].realised_open for name in params] == [10, 25, 4]


def units():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(4, 5)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=l0.unit_groups(net, x))
    return fn, params, buffers, spec, random_locations(spec), x


@pytest.mark.parametrize("density", [0.15, 0.3, 0.6, 0.9, {"0.*": 0.5, "*": 0.4}])
def test_compact_removes_what_prune_closes(density):
    fn, params, buffers, spec, gates, x = units()
    pruned = l0.prune(params, gates, spec, density=density)
    small = l0.compact(fn, params, gates, buffers, spec, density=density)
    torch.testing.assert_close(small.fn(small.params, {}, x), fn(pruned, {}, x))
    gated = [p.path for p in spec.gated()]
    left = sum(small.params[path].numel() for path in gated)
    assert left == open_share(params, gates, spec, density=density)[0]


def test_units_under_several_patterns_stay_if_all_keep_them():
    _, params, _, spec, gates, _ = units()
    density = {"0.*": 0.5, "2.*": 0.5, "4.*": 0.5}
    table = l0.summary(params, gates, spec, density=density)
    for layer in ("0", "2", "4"):
        rows = [table[p.path] for p in spec.gated() if p.path.startswith(layer)]
        share = sum(row.realised_open for row in rows) / sum(row.entries for row in rows)
        assert 0 < share <= 0.5


@pytest.mark.parametrize(
    ("density", "error", "message"),
    [
        (1.5, ValueError, r"in \[0, 1\].*'\*' has 1\.5"),
        (-0.1, ValueError, r"in \[0, 1\], such as 0\.1 for 10 %"),
        (math.nan, ValueError, "has nan"),
        (math.inf, ValueError, "has inf"),
        ("10%", TypeError, "is a number in .*'10%'"),
        (True, TypeError, "has True"),
        ([0.1], TypeError, r"has \[0\.1\]"),
        (torch.tensor([0.1]), TypeError, r"has tensor\(\[0\.1"),
        (torch.tensor(1.5), ValueError, r"in \[0, 1\], such as 0\.1 for 10 %"),
        ({}, ValueError, "at least one pattern"),
        ({"w": None}, TypeError, "'w' has None"),
        ({"w": 2.0}, ValueError, "'w' has 2.0"),
        ({"w": 0.5}, ValueError, r"No pattern gives a density to the gated parameter 'v'"),
        ({"x*": 0.5, "*": 0.1}, ValueError, r"'x\*' matches no gated parameter"),
        ({"*": 0.5, "w": 0.1}, ValueError, r"'w' decides nothing.*narrower pattern first"),
    ],
)
@pytest.mark.parametrize("call", [l0.prune, l0.summary])
def test_a_density_that_means_nothing_is_refused(call, density, error, message):
    params = {"w": torch.ones(4), "v": torch.ones(4)}
    spec = l0.gate_spec(params)
    with pytest.raises(error, match=message):
        call(params, random_locations(spec), spec, density=density)


@pytest.mark.parametrize("call", [l0.prune, l0.summary])
def test_a_density_stands_alone_and_needs_gates(call):
    params = {"w": torch.ones(4), "v": torch.ones(4)}
    spec = l0.gate_spec(params)
    with pytest.raises(ValueError, match="Give one of the two"):
        call(params, random_locations(spec), spec, "count", density=0.5)
    with pytest.raises(ValueError, match="gate locations of 'w' are NaN"):
        call(params, {"w": torch.full((4,), math.nan), "v": torch.ones(4)}, spec, density=0.5)
    partly = l0.gate_spec(params, {"w": l0.axis(0, 0, 2)})
    with pytest.raises(ValueError, match=r"every gate closed 0\.5 is still there, because 'w'"):
        call(params, random_locations(partly), partly, density=0.25)


def test_a_density_may_be_a_tensor_without_dimensions():
    params = {"w": torch.ones(40), "v": torch.ones(8)}
    spec = l0.gate_spec(params)
    gates = random_locations(spec)
    for density in (0.25, {"w": 0.5, "v": 0.25}):
        as_tensor = torch.utils._pytree.tree_map(torch.tensor, density)
        pruned = l0.prune(params, gates, spec, density=as_tensor)
        for path, expected in l0.prune(params, gates, spec, density=density).items():
            assert torch.equal(pruned[path], expected)


def test_tied_weights_count_once():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    _, params, _ = l0.make_functional(net)
    spec = l0.gate_spec(params)
    assert open_share(params, random_locations(spec), spec, density=0.25) == (4, 16)
