"""Gates laid out as their parameters' slices, whole tensors again, and refusals of DTensors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out, layouts, meshes, strided_shards
from processes import processes
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

SHAPES = [(8, 6), (5, 3), (1, 7), (3, 0)]
RULES = {
    "element": l0.element(),
    "rows": l0.axis(0),
    "columns": l0.axis(-1),
    "both": l0.axes(0, 1),
    "part": l0.axis(0, 0, 1),
    "whole": l0.whole(),
}


def _numbered(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def _check_layouts(size: int) -> int:
    """Every rule on every layout: placed gates are the slices, and gather gives all back."""
    count = 0
    for mesh in meshes(size):
        for shape in SHAPES:
            for placements in layouts(mesh, 2):
                for name, rule in RULES.items():
                    if _has_gates(name, shape):
                        _check_layout(mesh, shape, placements, rule)
                        count += 1
    return count


def _has_gates(name: str, shape: tuple[int, ...]) -> bool:
    if name == "part":
        return shape[0] > 1 and 0 not in shape
    return 0 not in shape or name in ("element", "both")


def _check_layout(mesh: Any, shape: tuple[int, ...], placements: Any, rule: Any) -> None:
    whole = torch.zeros(shape)
    spec = l0.gate_spec({"w": whole}, {"w": rule})
    gates = {"w": _numbered(*spec.gates[0].shape)}
    params = {"w": laid_out(whole, mesh, placements)}
    with CommDebugMode() as sent:
        placed = l0.place_gates(spec, params, gates)
    assert sent.get_total_counts() == 0
    assert torch.equal(l0.gather(placed)["w"], gates["w"])
    # The oracle: the gate's number on every entry, laid out as the parameter.
    spread = rule.spread(gates["w"], shape).expand(shape)
    entries = laid_out(spread.contiguous(), mesh, placements).to_local()
    own = placed["w"].to_local()
    case = f"{rule} on {shape} as {placements}: {placed['w'].placements}"
    if isinstance(rule, l0.element | l0.axes):
        assert torch.equal(own, entries), case
    elif rule in (l0.axis(0), l0.axis(-1)):
        dim = rule.dim % 2
        is_dtensor = any(getattr(p, "dim", None) == dim for p in placements)
        expected = entries.select(1 - dim, 0) if entries.shape[1 - dim] else own
        assert torch.equal(own, expected if is_dtensor else gates["w"]), case
    else:
        assert all(p == Replicate() for p in placed["w"].placements), case


@pytest.mark.skipif(not strided_shards(0, 2), reason="torch 2.9 cannot gather shards of nothing")
@pytest.mark.parametrize(("size", "count"), [(2, 266), (3, 57), (4, 266)])
def test_placed_gates_are_the_parameters_slices_and_gather_gives_them_back(size, count):
    assert processes(size).run(_check_layouts, size) == [count] * size


def _check_gates_on_several() -> None:
    mesh = meshes(2)[0]
    params = {"up": torch.zeros(6, 4), "down": torch.zeros(3, 6), "b": torch.zeros(6)}
    gates = {"units": _numbered(6)}
    units = l0.group({"up": l0.axis(0), "down": l0.axis(1), "b": l0.axis(0)})
    spec = l0.gate_spec(params, {"*": None}, groups={"units": units})
    heads = l0.group({"up": l0.blocks(0, 3), "down": l0.blocks(1, 3)})
    of_heads = l0.gate_spec(params, {"*": None}, groups={"units": heads})
    pairs = l0.group({"up": l0.blocks(0, 2)})
    of_pairs = l0.gate_spec(params, {"*": None}, groups={"units": pairs})

    def placed(up: Any, down: Any, spec: Any = spec, gates: Any = gates) -> Any:
        own = {
            "up": laid_out(params["up"], mesh, [up]),
            "down": laid_out(params["down"], mesh, [down]),
            "b": laid_out(params["b"], mesh, [Shard(0)]),
        }
        return l0.place_gates(spec, own, gates)["units"].placements[0]

    assert placed(Shard(0), Shard(1)) == Shard(0)
    assert placed(Shard(0), Shard(0)) == Replicate()
    assert placed(Shard(0), Shard(1), of_heads, {"units": _numbered(2)}) == Shard(0)
    # Three pairs over two processes: shards of the rows would cut one.
    assert placed(Shard(0), Shard(1), of_pairs, {"units": _numbered(3)}) == Replicate()


def test_a_gate_on_several_parameters_is_sharded_where_all_ask_for_the_same_shards():
    processes(2).run(_check_gates_on_several)


def _check_refusals() -> list[str]:
    mesh, other = meshes(2)
    params = {"a": torch.zeros(4, 4), "b": torch.zeros(4)}
    units = {"units": l0.group({"a": l0.axis(0), "b": l0.axis(0)})}
    spec = l0.gate_spec(params, {"*": None}, groups=units)
    gates = {"units": torch.zeros(4)}
    a, b = laid_out(params["a"], mesh, [Shard(0)]), laid_out(params["b"], mesh, [Shard(0)])
    partial = DTensor.from_local(params["a"], mesh, [Partial()])
    on_other = laid_out(params["b"], other, [Replicate(), Shard(0)])
    placed = {"units": laid_out(gates["units"], mesh, [Replicate()])}
    cases = [
        ({"a": a, "b": params["b"]}, gates),
        ({"a": a, "b": on_other}, gates),
        ({"a": partial, "b": b}, gates),
        ({"a": a, "b": b}, placed),
        (params, placed),
    ]
    return [_refusal(spec, *case) for case in cases]


def _refusal(spec: Any, params: Any, gates: Any) -> str:
    try:
        l0.place_gates(spec, params, gates)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def test_layouts_that_do_not_match_are_refused_by_name():
    expected = (
        r"'units' multiply 'b', a plain tensor, and the DTensor 'a'\. Lay both out",
        r"'units' multiply parameters on two meshes: 'a' on .* and 'b' on",
        r"The DTensor 'a' has the placement Partial.*terms of a sum, not entries",
        r"'units' are laid out already, .* ask for \[Shard\(dim=0\)\].*l0func\.gather\(gates\)",
        r"'units' are a DTensor, .*, and multiply no DTensor",
    )
    for messages in processes(2).run(_check_refusals):
        for message, pattern in zip(messages, expected, strict=True):
            assert re.search(pattern, message), message


def _check_states() -> None:
    mesh = meshes(2)[0]
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    whole = {path: _numbered(*p.shape) for path, p in net.named_parameters()}
    spec = l0.gate_spec(whole)
    sharded = {path: laid_out(p, mesh, [Shard(0)]) for path, p in whole.items()}
    gates = {gate.name: _numbered(*gate.shape) for gate in spec.gates}
    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    training = l0.training(lambda *_: torch.zeros(()), adam, adam)
    placed = l0.place_gates(spec, sharded, gates)
    state = training.init(l0.random.key(0), sharded, placed, {})
    moment = state.moments["params"]["0.weight"]["exp_avg"]
    assert isinstance(moment, DTensor)
    assert moment.placements == (Shard(0),)
    found = l0.gather(state)
    assert isinstance(found, l0.TrainState)
    assert not any(isinstance(t, DTensor) for t in found.params.values())
    for path, p in whole.items():
        assert torch.equal(found.params[path], p)
        assert torch.equal(found.moments["params"][path]["exp_avg"], torch.zeros_like(p))
    for name, gate in gates.items():
        assert torch.equal(found.gates[name], gate)
    partial = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    assert torch.equal(l0.gather([partial])[0], torch.full((3,), 2.0))


def test_gather_gives_a_training_state_back_whole():
    processes(2).run(_check_states)
