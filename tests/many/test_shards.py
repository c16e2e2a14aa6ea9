"""Training states in folders: saved by two processes, loaded by three and by one, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out, meshes
from processes import processes
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.tensor import DTensor, Shard

untyped_distributed: Any = distributed
NET = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
FN, PARAMS, BUFFERS = l0.make_functional(NET)
SPEC = l0.gate_spec(PARAMS, {"*weight": l0.element(), "*": None})
GATES = l0.init_gates(l0.random.key(1), SPEC)
CONTROL = l0.lagrangian(SPEC, target=0.5)


def _loss(params: Any, gates: Any, buffers: Any, key: Any, x: Any, y: Any) -> Any:
    return F.cross_entropy(FN(l0.apply_masks(params, l0.sample_masks(key, gates, SPEC)), {}, x), y)


def _training() -> l0.Training:
    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    momentum = l0.optimizer(torch.optim.SGD, lr=0.1, momentum=0.9)
    return l0.training(_loss, adam, momentum, control=CONTROL, average=0.9)


def _first() -> l0.TrainState:
    return _training().init(l0.random.key(2), PARAMS, GATES, BUFFERS)


def _trained() -> l0.TrainState:
    """A state after three steps of one process."""
    state = _first()
    x, y = torch.linspace(-1, 1, 20).reshape(4, 5), torch.arange(4) % 3
    for _ in range(3):
        state, _ = _training().step(state, x, y)
    return state


def _placed(state: Any, mesh: Any) -> Any:
    """The state with every vector and matrix sharded along its first dimension."""
    if not isinstance(state, torch.Tensor):
        return l0.TrainState(*(_each(part, mesh) for part in state))
    return (
        laid_out(state, mesh, [Shard(0)]) if state.is_floating_point() and state.dim() else state
    )


def _each(part: Any, mesh: Any) -> Any:
    if isinstance(part, dict):
        return {name: _each(value, mesh) for name, value in part.items()}
    return _placed(part, mesh) if isinstance(part, torch.Tensor) else part


def _save(folder: str, state: l0.TrainState, size: int) -> None:
    l0.save_shards(folder, _placed(state, meshes(size)[0]), SPEC, {"lr": 0.1})


def _load(folder: str, size: int) -> dict[str, Any]:
    first = _placed(_first(), meshes(size)[0])
    loaded = l0.load_shards(folder, first, SPEC, {"lr": 0.1})
    assert isinstance(loaded.moments["params"]["0.weight"]["exp_avg"], DTensor)
    assert loaded.params["0.weight"].placements == (Shard(0),)
    return _flat(l0.gather(loaded))


def _flat(state: Any, path: str = "") -> dict[str, Any]:
    """The tensors as lists of numbers, which a pipe takes."""
    if isinstance(state, torch.Tensor):
        return {path: state.detach().tolist()}
    items = state.items() if isinstance(state, dict) else state._asdict().items()
    found: dict[str, Any] = {}
    for name, value in items:
        if value is not None:
            found |= _flat(value, f"{path}.{name}")
    return found


def test_a_state_saved_by_two_processes_loads_in_three_and_in_one_bit_for_bit(tmp_path):
    state, folder = _trained(), str(tmp_path / "step_3")
    processes(2).run(_save, folder, state, 2)
    expected = _flat(state)
    assert len(expected) > 25
    assert processes(3).run(_load, folder, 3) == [expected] * 3
    alone = l0.load_shards(folder, _first(), SPEC, {"lr": 0.1})
    assert _flat(alone) == expected
    x, y = torch.ones(4, 5), torch.arange(4) % 3
    following, loss = _training().step(alone, x, y)
    twin, own_loss = _training().step(state, x, y)
    assert torch.equal(loss, own_loss)
    assert _flat(following) == _flat(twin)
    with pytest.raises(ValueError, match="has a checkpoint, and half a new one over it"):
        l0.save_shards(folder, state, SPEC)


def test_a_first_state_has_every_leaf_for_the_engine_itself(tmp_path):
    state = _trained()
    saved, loaded = state._asdict(), _first()._asdict()
    for tree in (saved, loaded):
        tree["control"] = tree["control"]._asdict()
    with pytest.warns(UserWarning, match="single process"):
        checkpoint.save(saved, checkpoint_id=tmp_path)
    with pytest.warns(UserWarning, match="single process"):
        checkpoint.load(loaded, checkpoint_id=tmp_path)
    control = l0.LagrangianState(**loaded.pop("control"))
    assert _flat(l0.TrainState(**loaded, control=control)) == _flat(state)


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(tmp_path):
    state, folder = _trained(), tmp_path / "step_3"
    with pytest.raises(ValueError, match="has no whole checkpoint"):
        l0.load_shards(folder, state, SPEC)
    l0.save_shards(folder, state, SPEC)
    other = l0.gate_spec(PARAMS, {"*weight": l0.axis(0), "*": None})
    with pytest.raises(ValueError, match="is of another gate spec"):
        l0.load_shards(folder, state, other)
    with pytest.raises(ValueError, match=r"lr was not given and is 0\.1 here"):
        l0.load_shards(folder, state, SPEC, {"lr": 0.1})
    wide = state._replace(params={path: p.double() for path, p in state.params.items()})
    with pytest.raises(ValueError, match=r"as torch\.float32; this run's is torch\.float64"):
        l0.load_shards(folder, wide, SPEC)
    with pytest.raises(TypeError, match="save_shards writes a training state"):
        l0.save_shards(tmp_path / "other", PARAMS, SPEC)
    with pytest.raises(TypeError, match=r"A folder is named .*first argument; got TrainState"):
        l0.save_shards(state, folder, SPEC)
    (folder / ".metadata").rename(folder / "lost")
    with pytest.raises(ValueError, match="has no whole checkpoint"):
        l0.load_shards(Path(folder), state, SPEC)


def test_moments_that_a_state_lacks_are_read_and_laid_out_as_their_leaves(tmp_path):
    state, folder = _trained(), tmp_path / "step_3"
    l0.save_shards(folder, state, SPEC)
    empty = {part: dict.fromkeys(of) for part, of in state.moments.items()}
    loaded = l0.load_shards(folder, _first()._replace(moments=empty), SPEC)
    assert _flat(loaded) == _flat(state)
