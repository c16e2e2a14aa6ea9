"""Every public call that takes params or gates refuses DTensors by name, or takes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out, meshes
from processes import processes
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

WITHOUT_TENSORS = {
    *("BernoulliGate", "CustomGate", "GateDistribution", "GateSpec", "GaussianGate"),
    *("HardConcrete", "HardKuma", "Lagrangian", "LagrangianState", "LatencyTable", "MacCounts"),
    *("Optimizer", "TrainState", "Training", "Tree", "UnitGroups", "axes", "axis", "blocks"),
    *("element", "group", "init_gates", "kernel_in_use", "lagrangian", "load", "schedules"),
    *("tiles", "use_kernel", "whole", "optimizer", "training"),
}
TAKES = {
    *("L0Module", "apply_masks", "check_agreement", "clip_norm", "compensate"),
    "deterministic_masks",
    *("expected_l0", "expected_l2", "expected_macs", "expected_ms", "expected_sparsity"),
    *("gate_spec", "gated", "gather", "load_shards", "make_functional", "mean_masks", "penalty"),
    *("place_gates", "prune", "realised_macs", "realised_ms", "sample_masks", "save_shards"),
    *("squared_mean", "summary"),
}
NET = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
X = torch.ones(2, 4)


def _calls(folder: str) -> dict[str, Any]:
    """A call with DTensors for every name that refuses them."""
    mesh = meshes(2)[0]
    fn, params, buffers = l0.make_functional(NET)
    spec = l0.gate_spec(params)
    bernoulli = spec.with_distribution(l0.BernoulliGate())
    whole = l0.init_gates(l0.random.key(0), spec)
    p = {path: laid_out(t, mesh, [Shard(0)]) for path, t in params.items()}
    gates = l0.place_gates(spec, p, whole)
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    for path, t in p.items():
        layer, _, name = path.rpartition(".")
        setattr(net.get_submodule(layer), name, torch.nn.Parameter(t))
    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    state = l0.training(lambda *_: X.sum(), adam, adam).init(l0.random.key(0), p, gates, {})
    keys, key = l0.random.split(l0.random.key(0), 2), l0.random.key(1)
    rows = l0.per_example(l0.gated(fn, spec))
    sharded = fully_shard(torch.nn.Linear(4, 4), mesh=mesh)
    path, counts = f"{folder}/file", l0.count_macs(fn, params, buffers, X)
    return {
        "all_reduce_mean": lambda: l0.all_reduce_mean(p, 2),
        "arm": lambda: l0.arm(lambda *_: X.sum(), bernoulli)(p, gates, buffers, key),
        "compact": lambda: l0.compact(fn, p, gates, buffers, spec),
        "count_macs": lambda: l0.count_macs(fn, p, buffers, X),
        "deterministic_masks count": lambda: l0.deterministic_masks(gates, spec, "count"),
        "gated count": lambda: l0.gated(fn, spec, estimator="count")(p, gates, {}, None, X),
        "lagrangian count": lambda: l0.lagrangian(spec, 0.5, estimator="count").init(gates),
        "prune count": lambda: l0.prune(p, gates, spec, "count"),
        "prune density": lambda: l0.prune(p, gates, spec, density=0.5),
        "prune densities": lambda: l0.prune(p, gates, spec, density={"*": 0.5}),
        "realised_macs count": lambda: l0.realised_macs(gates, spec, counts, "count"),
        "summary count": lambda: l0.summary(p, gates, spec, "count"),
        "summary density": lambda: l0.summary(p, gates, spec, density=0.5),
        "diverged": lambda: l0.diverged(state),
        "init_params": lambda: l0.init_params(key, p, {"*": "zeros_"}),
        "latency_table": lambda: l0.latency_table(net, {}, X),
        "load_state": lambda: l0.load_state(path, state, spec),
        "make_functional of FSDP": lambda: l0.make_functional(sharded),
        "per_example": lambda: rows(p, gates, buffers, keys, laid_out(X, mesh, [Shard(0)])),
        "plot": lambda: l0.plot.open_probability(gates, spec),
        "plot of a weight": lambda: l0.plot.filters(p["0.weight"]),
        "plot of a history": lambda: l0.plot.trajectories([0], [gates["0.weight"]]),
        "refit": lambda: l0.refit(fn, p, gates, buffers, spec, X),
        "resize_to": lambda: l0.resize_to(NET, p),
        "save": lambda: l0.save(path, p, gates, buffers, spec),
        "save_state": lambda: l0.save_state(path, state, spec),
        "stack": lambda: l0.stack([state, state]),
        "to_module": lambda: l0.to_module(fn, p, buffers),
        "to_sparse_csr": lambda: l0.to_sparse_csr(p),
        "unit_groups": lambda: l0.unit_groups(net, X),
        "unstack": lambda: l0.unstack(state),
    }


def _refusals(folder: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, call in _calls(folder).items():
        try:
            call()
            found[name] = "nothing was refused"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def test_every_public_name_takes_dtensors_or_refuses_them_by_name(tmp_path):
    for refusals in processes(2).run(_refusals, str(tmp_path)):
        names = {name.partition(" ")[0] for name in refusals}
        assert names | WITHOUT_TENSORS | TAKES == set(l0.__all__)
        for name, text in refusals.items():
            assert text.startswith("ValueError"), (name, text)
            assert ("DTensor" in text and "gather" in text) or "fully_shard" in text, (name, text)
    assert not list(tmp_path.iterdir())
