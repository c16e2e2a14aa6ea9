"""A density given to L0Module decides what stays, as in the functions of the core."""

from __future__ import annotations

import pytest
import torch
from device import seeded_generator
from torch import nn

import l0func as l0


def _net(**settings):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    net = l0.L0Module(layers, lam=1e-3, seed=0, **settings)
    with torch.no_grad():
        for log_alpha in net.gates().values():
            log_alpha.normal_(generator=seeded_generator(log_alpha.numel()))
    return net


@pytest.mark.filterwarnings("ignore:All gates of:UserWarning")
@pytest.mark.parametrize("estimator", ["louizos", "median", "mean", "count"])
@pytest.mark.parametrize("density", [0.25, 1.0, {"*.weight": 0.2, "*": 0.6}])
def test_the_compacted_module_has_exactly_the_entries_that_prune_keeps_at_a_density(
    estimator, density
):
    net = _net(estimator=estimator)
    pruned = l0.prune(net.weights(), net.gates(), net.spec, density=density)
    small = net.compacted(density=density)
    assert dict(small.named_parameters()).keys() == pruned.keys()
    for path, kept in pruned.items():
        assert torch.equal(small.get_parameter(path), kept)


@pytest.mark.filterwarnings("ignore:All gates of:UserWarning")
@pytest.mark.parametrize("estimator", ["louizos", "mean"])
def test_the_summary_at_a_density_counts_what_prune_keeps(estimator):
    net = _net(estimator=estimator)
    pruned = l0.prune(net.weights(), net.gates(), net.spec, density=0.25)
    table = net.summary(density=0.25)
    assert table.estimator == "density 0.25"
    assert table.total.realised_open == sum(int(p.count_nonzero()) for p in pruned.values())
    for row in table.rows:
        assert row.realised_open == int(pruned[row.name].count_nonzero())


def test_without_a_density_the_summary_is_that_of_the_modules_own_estimator():
    net = _net(estimator="median")
    assert net.summary() == l0.summary(net.weights(), net.gates(), net.spec, "median")


def test_a_density_removes_the_units_that_compact_removes_at_it():
    layers = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    fn, params, buffers = l0.make_functional(layers)
    found = l0.unit_groups(layers, torch.ones(2, 8))
    net = l0.L0Module(layers, lam=1e-3, groups=found, seed=0)
    gates = net.gates()
    small = net.compacted(density=0.5)
    alike = l0.compact(fn, params, gates, buffers, net.spec, density=0.5)
    shapes = {path: p.shape for path, p in small.named_parameters()}
    assert shapes == {path: p.shape for path, p in alike.params.items()}
    assert shapes["0.weight"][0] < 12


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match=r"share of entries that stay, in \[0, 1\]"):
        _net().compacted(density=share)
    with pytest.raises(ValueError, match=r"share of entries that stay, in \[0, 1\]"):
        _net().summary(density=share)
