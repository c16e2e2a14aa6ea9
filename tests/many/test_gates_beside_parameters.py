"""Gates in any layout beside a parameter in any other: used where held, refused elsewhere."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out
from one_mesh import mesh_of
from processes import processes
from sent import Sent
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

RULES = [
    *(l0.element(), l0.whole(), l0.axes(0, 1), l0.axis(0), l0.axis(-1), l0.axis(0, 1, 4)),
    *(l0.blocks(0, 2), l0.blocks(1, 2), l0.blocks(0, 1, start=4), l0.tiles(0, 3)),
]
SHAPE = (6, 4)
Layout = tuple[Any, ...]


def _laid(t: torch.Tensor, *placements: Any) -> Any:
    return laid_out(t, mesh_of((2,) * len(placements)), placements)


def _used(rule: Any, of_params: Any, of_gates: Any) -> tuple[bool, bool]:
    """Whether this process holds the gates on its entries, and whether all are used."""
    params = {"w": torch.ones(SHAPE)}
    spec = l0.gate_spec(params, {"w": rule})
    gates = l0.init_gates(l0.random.key(0), spec, droprate=0.4, noise=2.0)
    own = {"w": _laid(params["w"], of_params)}
    own_gates = {"w": _laid(gates["w"], of_gates)}
    numbers = torch.arange(gates["w"].numel()).reshape(gates["w"].shape)
    on_entries = rule.index(SHAPE).expand(SHAPE).contiguous()
    wanted = set(_laid(on_entries, of_params).to_local().flatten().tolist()) - {-1}
    held = set(_laid(numbers, of_gates).to_local().flatten().tolist())
    try:
        with CommDebugMode() as sent:
            masks = l0.deterministic_masks(own_gates, spec)
            found = l0.apply_masks(own, masks)["w"]
    except ValueError as error:
        return wanted <= held, "place_gates" not in str(error)
    assert sent.get_total_counts() == 0
    whole = l0.apply_masks(params, l0.deterministic_masks(gates, spec))["w"]
    assert torch.equal(found.to_local(), _laid(whole, of_params).to_local())
    return wanted <= held, True


def _all_used(rule: Any) -> list[tuple[bool, bool]]:
    found: list[tuple[bool, bool]] = []
    for of_params in (Replicate(), Shard(0), Shard(1)):
        for of_gates in [Replicate(), *map(Shard, range(len(rule.gates(SHAPE))))]:
            found.append(_used(rule, of_params, of_gates))
    return found


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_gates_are_used_if_every_process_holds_those_on_its_entries_and_refused_if_not(rule):
    first, second = processes(2).run(_all_used, rule)
    assert len(first) >= 6
    for (held, used), (others_held, others_used) in zip(first, second, strict=True):
        assert used == others_used == (held and others_held)


def _gathered(rule: Any) -> int:
    """The messages of prune for gates that only own a parameter."""
    params = {"w": torch.ones(4, 8), "owned": torch.ones(4, 3)}
    units = l0.group({"w": l0.blocks(1, 8 // rule.gates((4, 3))[0])}, {"owned": rule})
    spec = l0.gate_spec(params, {"*": None}, groups={"units": units})
    size = spec.gates[0].size
    gates = {"units": torch.where(torch.arange(size) < size // 2, -9.0, 9.0)}
    own = {"w": _laid(params["w"], Shard(1)), "owned": _laid(params["owned"], Shard(0))}
    placed = l0.place_gates(spec, own, gates)
    assert placed["units"].placements == (Shard(0),)
    with Sent() as sent:
        pruned = l0.prune(own, placed, spec)["owned"]
    whole = l0.prune(params, gates, spec)["owned"]
    assert torch.equal(pruned.to_local(), _laid(whole, Shard(0)).to_local())
    return len(sent.messages)


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        *((l0.axis(0), True), (l0.blocks(0, 2, sharers=2), True), (l0.blocks(0, 2), True)),
        *((l0.blocks(0, 1, sharers=2), True), (l0.blocks(0, 4, sharers=4), False)),
        *((l0.blocks(0, 1, start=2), False), (l0.axis(1, 1), False)),
    ],
    ids=str,
)
def test_gates_that_only_own_entries_are_gathered_once_and_where_a_process_lacks_some(rule, fits):
    # Two messages say that all values are numbers, and a third counts the open gates.
    assert processes(2).run(_gathered, rule) == [3 if fits else 4] * 2


def _costs(rule: Any, pairs: list[tuple[Layout, Layout]]) -> None:
    """Compare what a parameter with gates of its own, owned by others, costs in each layout."""
    params = {"w": torch.ones(3, 6), "owned": l0.random.normal(l0.random.key(1), SHAPE)}
    units = l0.group({"w": l0.axis(1)}, {"owned": l0.axis(0)})
    spec = l0.gate_spec(params, {"owned": rule, "*": None}, groups={"units": units})
    gates = l0.init_gates(l0.random.key(0), spec, droprate=0.4, noise=2.0)
    for of_w, of_owned in pairs:
        own = {"w": _laid(params["w"], *of_w), "owned": _laid(params["owned"], *of_owned)}
        placed = l0.place_gates(spec, own, gates)
        pruned = l0.prune(own, placed, spec)["owned"]
        whole = _laid(l0.prune(params, gates, spec)["owned"], *of_owned)
        assert torch.equal(pruned.to_local(), whole.to_local())
        assert str(l0.summary(own, placed, spec)) == str(l0.summary(params, gates, spec))
        found, expected = _slopes(own, placed, spec), _slopes(params, gates, spec)
        for mine, wanted in zip(l0.gather(found), expected, strict=True):
            torch.testing.assert_close(mine, wanted)


def _slopes(params: Any, gates: Any, spec: Any) -> list[Any]:
    """The gradients of the costs with weights in them, in the gates."""
    leaves = {name: t.detach().requires_grad_() for name, t in gates.items()}
    squares = l0.expected_l2(params, leaves, spec)
    lam = {"w": 0.5, "*": params["owned"] ** 2}
    (squares + l0.penalty(params, leaves, spec, lam, weight_decay=0.3)).backward()
    return [leaf.grad for leaf in leaves.values()]


@pytest.mark.parametrize("rule", [l0.element(), l0.axis(1), l0.axis(0), l0.whole()], ids=repr)
def test_a_parameter_with_gates_of_its_own_may_be_owned_by_others_in_any_layout(rule):
    layouts = [(Replicate(),), (Shard(0),), (Shard(1),)]
    processes(2).run(_costs, rule, list(product(layouts, layouts)))


@pytest.mark.parametrize("rule", [l0.element(), l0.axis(0)], ids=repr)
def test_gates_of_an_owner_on_other_processes_than_the_own_ones_are_gathered(rule):
    columns, rows = (Shard(1), Replicate()), (Replicate(), Shard(0))
    # Rows that two dimensions of the mesh cut are in other processes than those that one cuts.
    processes(4).run(_costs, rule, [(columns, rows), ((Shard(1), Shard(1)), rows)])
