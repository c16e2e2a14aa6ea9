"""Wrong uses of shards and groups are refused in every process, by the name of what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out, meshes
from one_mesh import mesh_of
from processes import processes
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

untyped_distributed: Any = distributed
torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
FN, PARAMS, BUFFERS = l0.make_functional(NET)
SPEC = l0.gate_spec(PARAMS)
GATES = l0.init_gates(l0.random.key(0), SPEC)
COUNTS = l0.count_macs(FN, PARAMS, BUFFERS, torch.ones(2, 4))
KEY = l0.random.key(1)
TERMS = r"DTensor '[a-z.]*0\.weight' has the placement Partial\(sum\): .* terms of a sum"


def _training() -> l0.Training:
    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    return l0.training(lambda *_: torch.zeros(()), adam, adam)


def _state(params: Any = PARAMS, gates: Any = GATES) -> l0.TrainState:
    return _training().init(l0.random.key(2), params, gates, BUFFERS)


def _refusals(calls: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "nothing was refused"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _partial(tree: dict[str, Any], mesh: Any) -> dict[str, Any]:
    return {path: DTensor.from_local(t.detach(), mesh, [Partial()]) for path, t in tree.items()}


def _every(tree: dict[str, Any], mesh: Any, placement: Any) -> dict[str, Any]:
    return {path: laid_out(t.detach(), mesh, [placement]) for path, t in tree.items()}


def _calls_with_gates(p: Any, g: Any) -> dict[str, Any]:
    """Public calls that compute from gates."""
    control = l0.lagrangian(SPEC, 0.5)
    first = control.init(GATES)
    return {
        "sample_masks": lambda: l0.sample_masks(KEY, g, SPEC),
        "mean_masks": lambda: l0.mean_masks(g, SPEC),
        "deterministic_masks": lambda: l0.deterministic_masks(g, SPEC),
        "gated": lambda: l0.gated(FN, SPEC)(p, g, {}, KEY, torch.ones(2, 4)),
        "expected_l0": lambda: l0.expected_l0(g, SPEC),
        "expected_sparsity": lambda: l0.expected_sparsity(g, SPEC),
        "expected_macs": lambda: l0.expected_macs(g, SPEC, COUNTS),
        "realised_macs": lambda: l0.realised_macs(g, SPEC, COUNTS),
        "lagrangian init": lambda: control.init(g),
        "lagrangian penalty": lambda: control.penalty(first, g),
        "lagrangian update": lambda: control.update(first, g),
        "lagrangian hold": lambda: control.hold(first, g),
        "lagrangian is_low": lambda: control.is_low(first, g),
    }


def _calls_with_both(p: Any, g: Any, folder: str) -> dict[str, Any]:
    """Public calls that compute from params and gates."""
    whole = l0.sample_masks(KEY, GATES, SPEC)
    return {
        "apply_masks": lambda: l0.apply_masks(p, whole),
        "prune": lambda: l0.prune(p, g, SPEC),
        "compensate": lambda: l0.compensate(p, g, SPEC),
        "expected_l2": lambda: l0.expected_l2(p, g, SPEC),
        "squared_mean": lambda: l0.squared_mean(p, g, SPEC),
        "penalty": lambda: l0.penalty(p, g, SPEC, weight_decay=0.1),
        "summary": lambda: l0.summary(p, g, SPEC),
        "place_gates": lambda: l0.place_gates(SPEC, p, g),
        "training init": lambda: _state(p, g),
        "save_shards": lambda: l0.save_shards(
            f"{folder}/none", _state()._replace(params=p, gates=g), SPEC
        ),
        "load_shards": lambda: l0.load_shards(
            f"{folder}/whole", _state()._replace(params=p, gates=g), SPEC
        ),
    }


def _partial_refusals(folder: str) -> list[dict[str, str]]:
    mesh = meshes(2)[0]
    l0.save_shards(f"{folder}/whole", _state(), SPEC)
    rows = _every(PARAMS, mesh, Shard(0))
    params, gates = _partial(PARAMS, mesh), _partial(GATES, mesh)
    placed = l0.place_gates(SPEC, rows, GATES)
    first = _calls_with_both(params, placed, folder)
    others = _calls_with_both(rows, gates, folder)
    del others["apply_masks"]
    others["apply_masks"] = lambda: l0.apply_masks(rows, gates)
    return [_refusals(first), _refusals(others | _calls_with_gates(rows, gates))]


def test_partial_sums_are_refused_by_name_in_every_public_call(tmp_path):
    for refusals in processes(2).run(_partial_refusals, str(tmp_path)):
        assert [len(found) for found in refusals] == [11, 24]
        for found in refusals:
            for name, text in found.items():
                assert text.startswith("ValueError"), (name, text)
                assert re.search(TERMS, text), (name, text)
    assert not (tmp_path / "none").exists()


def _layouts(mesh: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    """Params and gates that do not lie beside each other."""
    rows = _every(PARAMS, mesh, Shard(0))
    last = {name: laid_out(t, mesh, [Shard(t.dim() - 1)]) for name, t in GATES.items()}
    elsewhere = {name: laid_out(t, other, [Replicate(), Shard(0)]) for name, t in GATES.items()}
    return {
        "gates plain": (rows, GATES),
        "params plain": (PARAMS, _every(GATES, mesh, Shard(0))),
        "params whole": (_every(PARAMS, mesh, Replicate()), _every(GATES, mesh, Shard(0))),
        "gates whole, plain": (_every(PARAMS, mesh, Replicate()), GATES),
        "another dimension": (rows, last),
        "another mesh": (rows, elsewhere),
    }


def _mismatches(folder: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for kind, (p, g) in _layouts(*meshes(2)).items():
        calls = _calls_with_both(p, g, folder)
        for stays in ("training init", "save_shards", "load_shards", "place_gates"):
            del calls[stays]
        calls["apply_masks"] = lambda p=p, g=g: l0.apply_masks(p, l0.sample_masks(KEY, g, SPEC))
        calls["gated"] = lambda p=p, g=g: l0.gated(FN, SPEC)(p, g, {}, KEY, torch.ones(2, 4))
        found[kind] = _refusals(calls)
    return found


def test_params_and_gates_in_layouts_that_do_not_match_are_refused_by_name(tmp_path):
    first, second = processes(2).run(_mismatches, str(tmp_path))
    assert first == second
    for kind, refusals in first.items():
        assert len(refusals) == 8
        for name, text in refusals.items():
            assert text.startswith("ValueError"), (kind, name, text)
            assert "'0.weight'" in text, (kind, name, text)
            assert "place_gates" in text or "gather" in text, (kind, name, text)


def _wrapped(hidden: int) -> l0.L0Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 2))
    return l0.L0Module(net, lam=1e-3, seed=0)


def _uneven() -> dict[str, str]:
    mesh = mesh_of((2,))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    calls: dict[str, Any] = {}
    for hidden in (5, 1):
        net = _wrapped(hidden)
        parallelize_module(net.module, mesh, plan)
        calls[f"{hidden}"] = lambda net=net: net(torch.ones(3, 4))
    even = _wrapped(6)
    parallelize_module(even.module, mesh, plan)
    torch.testing.assert_close(even(torch.ones(3, 4)), _wrapped(6)(torch.ones(3, 4)))
    # The mistake is another one: torch's own words stay.
    calls["wrong input"] = lambda: even(torch.ones(3, 7))
    sharded = fully_shard(nn.Sequential(nn.Linear(4, 4)), mesh=mesh)
    calls["fully_shard first"] = lambda: l0.L0Module(sharded, lam=1e-3)
    return _refusals(calls)


def test_layers_that_cannot_be_shared_out_are_named():
    first, second = processes(2).run(_uneven)
    assert first == second
    for hidden, sizes in (("5", "4 or 6"), ("1", "2 or 4")):
        words = rf"'0\.weight' of shape \({hidden}, 4\) is cut over 2 .*such as {sizes}"
        assert re.search(words, first[hidden]), first[hidden]
        assert first[hidden].startswith("ValueError")
    assert first["wrong input"].startswith("RuntimeError")
    assert re.search("wrap the module in an L0Module, and fully_shard", first["fully_shard first"])


def _folders(folder: str) -> dict[str, str]:
    state, rank = _state(), distributed.get_rank()
    path = Path(folder)
    l0.save_shards(path / "good", state, SPEC)
    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    momentum = l0.optimizer(torch.optim.SGD, lr=0.1, momentum=0.9)
    other_training = l0.training(lambda *_: torch.zeros(()), momentum, adam)
    begun = other_training.init(KEY, PARAMS, GATES, BUFFERS)._replace(step=state.step + 1)
    if rank == 0:
        (path / "half").mkdir()
        (path / "half" / "__0_0.distcp").write_bytes(b"12")
        (path / "foreign").mkdir()
        (path / "foreign" / ".metadata").write_bytes(b"no pickle")
        (path / "file").write_text("a file")
    untyped_distributed.barrier()
    l0.save_shards(path / "lost", state, SPEC)
    if rank == 0:
        next((path / "lost").glob("*.distcp")).unlink()
    untyped_distributed.barrier()
    narrow = l0.gate_spec({**PARAMS, "0.bias": torch.zeros(5)})
    names = {path.replace("2.", "3."): p for path, p in PARAMS.items()}
    wrong = state._replace(params={**PARAMS, "0.bias": torch.zeros(5)})
    other = l0.gate_spec(PARAMS, {"*weight": l0.axis(0), "*": None})

    def load(name: str, own: Any = state, spec: Any = SPEC) -> Any:
        return lambda: l0.load_shards(path / name, own, spec)

    return _refusals(
        {
            "half": load("half"),
            "absent": load("absent"),
            "foreign": load("foreign"),
            "lost": load("lost"),
            "a file": load("file"),
            "spec": load("good", spec=other),
            "another shape": load("good", wrong),
            "a spec of another shape": load("good", spec=narrow),
            "names": load("good", state._replace(params=names)),
            "optimizer": load("good", begun),
            "save over": lambda: l0.save_shards(path / "good", state, SPEC),
            "save over a file": lambda: l0.save_shards(path / "file", state, SPEC),
        }
    )


FOLDERS = {
    "half": "has no whole checkpoint",
    "absent": "has no whole checkpoint",
    "foreign": "has no whole checkpoint",
    "lost": r"is damaged: .*distcp",
    "a file": "has no whole checkpoint",
    "spec": "is of another gate spec",
    "another shape": r"'params\.0\.bias' of shape \(6,\); this run's is \(5,\)",
    "a spec of another shape": "is of another gate spec",
    "names": r"params\.2\.",
    "optimizer": "is of another optimizer",
    "save over": "has a checkpoint, and half a new one",
    "save over a file": "a file stands at",
}


def test_folders_that_do_not_fit_are_refused_in_every_process(tmp_path):
    first, second = processes(2).run(_folders, str(tmp_path))
    assert first.keys() == second.keys() == FOLDERS.keys()
    for name, words in FOLDERS.items():
        for text in (first[name], second[name]):
            assert text.startswith("ValueError"), (name, text)
            assert re.search(words, text), (name, text)


def _one_differs(folder: str) -> list[str]:
    """One process alone is wrong; the others hear of it, and the next call meets again."""
    state, rank, path = _state(), distributed.get_rank(), Path(folder)
    own = state if rank else PARAMS
    calls = {
        "argument": lambda: l0.save_shards(path / "one", own, SPEC),
        "folder": lambda: l0.save_shards(path / f"of_{rank}", state, SPEC),
        "load": lambda: l0.load_shards(path / f"of_{rank}", state, SPEC),
    }
    found = _refusals(calls)
    l0.save_shards(path / "all", state, SPEC)
    return list(found.values())


def test_what_one_process_refuses_all_do(tmp_path):
    first, second = processes(2).run(_one_differs, str(tmp_path))
    assert first[0].startswith("TypeError: save_shards writes a training state")
    assert second[0].startswith("ValueError: save_shards: process 0 has refused. save_shards wr")
    for text in (first[1], second[1]):
        assert re.search(r"process 1 was given the folder '.*of_1' and process 0 '.*of_0'", text)
    for text in (first[2], second[2]):
        assert "has no whole checkpoint" in text
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def _other_devices() -> dict[str, str]:
    mesh = mesh_of((2,))
    params = _every(PARAMS, mesh, Shard(0))
    meta = {name: t.to("meta") for name, t in GATES.items()}
    placed = l0.place_gates(SPEC, params, GATES)
    return _refusals(
        {
            "place_gates": lambda: l0.place_gates(SPEC, params, meta),
            "prune": lambda: l0.prune({k: t.to("meta") for k, t in params.items()}, placed, SPEC),
        }
    )


def test_gates_on_another_device_than_the_mesh_are_refused_by_name():
    for refusals in processes(2).run(_other_devices):
        for text in refusals.values():
            assert re.search(r"ValueError: The parameter '0\.weight' is on .* gates are on", text)


def test_without_a_group_calls_work_alone_or_ask_for_one(tmp_path):
    state = _state()
    l0.save_shards(tmp_path / "alone", state, SPEC)
    loaded = l0.load_shards(tmp_path / "alone", state, SPEC)
    assert torch.equal(loaded.params["0.weight"], PARAMS["0.weight"])
    assert l0.gather(PARAMS)["0.weight"] is PARAMS["0.weight"]
    assert l0.random.row_keys(KEY, torch.tensor([1])).shape == (1, 2)
    assert torch.equal(l0.place_gates(SPEC, PARAMS, GATES)["0.weight"], GATES["0.weight"])
    with pytest.raises(RuntimeError, match="init_process_group"):
        l0.all_reduce_mean({"a": torch.ones(1)}, 1)


def _alone() -> None:
    net = l0.L0Module(nn.Linear(4, 2), lam=1e-3, seed=0, per_example=True)
    assert net(torch.ones(3, 4)).shape == net(torch.ones(3, 4), rows=torch.arange(3)).shape
    l0.check_agreement(net=net)
    mean = l0.all_reduce_mean({"a": torch.full((2,), 3.0)}, 5)
    assert mean["a"].tolist() == [3.0, 3.0]


def test_a_world_of_one_process_works():
    processes(1).run(_alone)
