"""`hold` on shards: the gates of the whole, after a few messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out, meshes
from processes import from_first, processes
from sent import Sent
from torch.distributed.tensor import Shard
from twins import COUNTS, TABLE, Twin, twins

from l0func.costs.products import ActivationProduct

HEADS = tuple(ActivationProduct(50 + i, (("0.weight", 0, (i,)),)) for i in range(7))
WITH_PRODUCTS = l0.MacCounts(COUNTS.uses, HEADS, COUNTS.sizes)
MEASURES: dict[str, dict[str, Any]] = {
    "density": {"target": 0.4},
    "multiply-adds": {"target": 0.4, "measure": "macs", "counts": COUNTS},
    "products": {"target": 0.4, "measure": "macs", "counts": WITH_PRODUCTS},
    "milliseconds": {"target": 0.7, "measure": "ms", "table": TABLE},
    "floor": {"target": 0.4, "floor": 1},
    "median": {"target": 0.4, "estimator": "median"},
}
# From shares that suffice to the last brackets of the search.
DOWN = (0.03, 2.0, 40.0)

# The share, the lowest location, the bracket, and three for the halvings.
SHARE = 1 + 1 + 1 + 3
# Where one gate would step over the target: numbers of open gates, and the gates before it.
COARSE = SHARE + 1 + 3
MOST = {
    "density": COARSE,
    "multiply-adds": COARSE,
    # Units behind products are gathered for the share, and once for the search.
    "products": COARSE + 2 * 2,
    # Units are gathered for the share and for the search, which then sends nothing.
    "milliseconds": 2,
    # A count of all vectors, and a search in each of at most six.
    "floor": SHARE + 1 + 6 * (SHARE - 1),
    "median": COARSE,
}


def _held(twin: Twin, settings: dict[str, Any]) -> list[int]:
    """The messages of `hold`; its gates are compared with those of the whole."""
    controller, mesh = l0.lagrangian(twin.spec, **settings), meshes(2)[0]
    state, counts = controller.init(twin.gates), list[int]()
    found: list[Any] = []
    for down in DOWN:
        low = {name: t - down for name, t in twin.own_gates.items()}
        with Sent() as sent:
            found.append(controller.hold(state, low))
        counts.append(len(sent.messages))
    expected = from_first(lambda: [controller.hold(state, g) for g in _lowered(twin.gates)])
    for own, whole in zip(found, expected, strict=True):
        for name, t in whole.items():
            mine: Any = own[name]
            wanted = laid_out(t, mesh, mine.placements).to_local()
            assert torch.equal(mine.to_local(), wanted), (twin.name, settings, name)
    return counts


def _lowered(gates: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: t - down for name, t in gates.items()} for down in DOWN]


def _messages(measure: str) -> list[list[int]]:
    fitting = [twin for twin in twins(2) if _fits(twin, measure)]
    return [_held(twin, MEASURES[measure]) for twin in fitting]


def _fits(twin: Twin, measure: str) -> bool:
    # Milliseconds and these products belong to units; entries with several gates meet the rest.
    kind = "units" if measure in ("products", "milliseconds") else "several"
    return twin.name.startswith(kind)


@pytest.mark.parametrize("measure", MEASURES)
def test_gates_are_held_with_the_bits_of_the_whole_after_a_few_messages(measure: str):
    for found in processes(2).run(_messages, measure):
        for counts in found:
            assert max(counts) <= MOST[measure], counts


def _shared() -> list[int]:
    """Gates of which several share a slice, beside gates on entries."""
    params = {"w": torch.ones(8, 6), "shared": torch.ones(8, 6)}
    owns = {"shared": l0.blocks(0, 2, sharers=2)}
    spec = l0.gate_spec(
        params,
        {"shared": l0.element(), "*": None},
        groups={"units": l0.group({"w": l0.axis(0)}, owns)},
    )
    gates = l0.init_gates(l0.random.key(4), spec, noise=2.0)
    own = {path: laid_out(t, meshes(2)[0], [Shard(0)]) for path, t in params.items()}
    twin = Twin("sharers", spec, params, gates, own, l0.place_gates(spec, own, gates), None)
    return _held(twin, {"target": 0.4})


def test_gates_that_share_slices_are_held_with_the_bits_of_the_whole():
    counts = processes(2).run(_shared)[0]
    assert 1 <= min(counts) <= max(counts) <= SHARE


def _settled() -> list[int]:
    counts: list[int] = []
    for twin in twins(2):
        for floor in (0, 1):
            control = l0.lagrangian(twin.spec, 0.4, floor=floor)
            wide = {name: t + 9 for name, t in twin.own_gates.items()}
            state = control.init(wide)
            with Sent() as sent:
                held: Any = control.hold(state, wide)
            assert all(held[name] is t for name, t in wide.items())
            counts.append(len(sent.messages))
    return counts


def test_gates_that_suffice_take_one_message_and_another_for_all_floors():
    # All processes hold all gates of the first twin.
    assert processes(2).run(_settled)[0] == [0, 0, 1, 2, 1, 2]
