"""Gated calls, controllers and training on DTensors, beside those of the whole network."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out, meshes
from processes import from_first, processes
from torch import distributed
from torch.distributed.tensor import DTensor, Replicate, Shard
from twins import COUNTS, FN, TABLE, Twin, X, twins

SIZES = (2, 3, 4)
KEY = l0.random.key(7)
# Entries of one filter are used another number of times each, beyond what float32 counts.
USES = {"0.weight": (torch.arange(35) % 6 * 1_000_003).reshape(7, 5), "2.weight": torch.tensor(9)}
MANY = l0.MacCounts(USES, (), {"0.weight": 35, "2.weight": 21})
MEASURES: list[dict[str, Any]] = [
    {"target": 0.4},
    {"target": 30.0, "measure": "l0"},
    {"target": 0.4, "measure": "macs", "counts": COUNTS},
    {"target": 0.4, "measure": "macs", "counts": MANY},
    {"target": 0.7, "measure": "ms", "table": TABLE},
    {"target": {"0.*": 0.5, "2.weight": 0.5}, "warmup": 3, "floor": 1, "estimator": "median"},
    {"target": 0.4, "equality": True},
]
_, _, _, USED, TIMED, SEVERAL, _ = MEASURES
# For each spec of the twins, where two processes have run every measure.
ON_MORE = [[USED], [USED, TIMED, SEVERAL], [SEVERAL]]
PRODUCTS = [
    (2, True),
    (4, False),
    pytest.param(3, False, marks=pytest.mark.slow),
    pytest.param(3, True, marks=pytest.mark.slow),
    pytest.param(4, True, marks=pytest.mark.slow),
]
"""Sizes of groups, and whether all specs meet all settings."""


def _check_controllers(size: int, every: bool) -> int:
    count = 0
    for number, twin in enumerate(twins(size)):
        # Every measure on one spec; the others have what takes gates one by one.
        few, more = ([USED, SEVERAL], MEASURES) if every else (ON_MORE[number], ON_MORE[number])
        for settings in more if twin.name.startswith("units") else few:
            _check_controller(twin, settings)
            count += 1
    return count


def _check_controller(twin: Twin, settings: dict[str, Any]) -> None:
    controller = l0.lagrangian(twin.spec, **settings)
    case, mesh = (twin.name, settings), meshes(distributed.get_world_size())[0]
    states, lows, held = _controlled(controller, twin.own_gates)
    expected = from_first(lambda: _controlled(controller, twin.gates))
    for own, whole in zip(states, expected[0], strict=True):
        for mine, wanted in zip(own, whole, strict=True):
            assert type(mine) is torch.Tensor, case
            assert torch.equal(mine, wanted), case
    for own, whole in zip(lows, expected[1], strict=True):
        assert type(own) is torch.Tensor
        assert bool(own) == bool(whole), case
    for name, t in expected[2].items():
        mine: Any = held[name]
        assert mine.placements == twin.own_gates[name].placements
        wanted = laid_out(t, mesh, mine.placements).to_local()
        assert torch.equal(mine.to_local(), wanted), case
    state = states[-1]
    twin.check(lambda params, gates, spec: controller.penalty(state, gates))


def _controlled(controller: Any, gates: Any) -> tuple[list[Any], list[Any], Any]:
    """The states, and whether they are low, as gates move; and the last gates, raised."""
    state, states, lows = controller.init(gates), list[Any](), list[Any]()
    moved = gates
    for shift in (0.0, 0.5, -9.0):
        moved = {name: t + shift for name, t in gates.items()}
        state = controller.update(state, moved)
        states.append(state)
        lows.append(controller.is_low(state, moved))
    # The last gates are far closed: they are raised.
    return states, lows, controller.hold(state, moved)


@pytest.mark.parametrize(("size", "every"), PRODUCTS)
def test_a_controller_has_the_bits_of_the_whole_for_every_measure(size, every):
    count = len(MEASURES) + 4 if every else 5
    assert processes(size).run(_check_controllers, size, every) == [count] * size


def _check_gated(size: int) -> int:
    count = 0
    for twin in twins(size):
        for sampling in ("exact", "local_reparam"):
            apply = l0.gated(FN, twin.spec, sampling=sampling)
            if sampling == "local_reparam" and twin.name.startswith(("entries", "several")):
                with pytest.raises(ValueError, match="no mask that a batch shares"):
                    apply(twin.own_params, twin.own_gates, {}, KEY, twin.own_x)
                continue
            for key in (KEY, None):
                twin.check(partial(_output, apply, key, twin), laid=False)
                twin.check(partial(_output, apply.with_buffers, key, twin), laid=False)
                count += 1
    return count


def _output(apply: Any, key: Any, twin: Twin, params: Any, gates: Any, spec: Any) -> Any:
    """The output, whole: torch decides on its layout."""
    x = twin.own_x if isinstance(params["0.weight"], DTensor) else X
    return l0.gather(apply(params, gates, {}, key, x))


@pytest.mark.parametrize("size", SIZES)
def test_a_gated_call_has_the_outputs_and_gradients_of_the_whole(size):
    assert processes(size).run(_check_gated, size) == [8] * size


Y = torch.linspace(-1, 1, 12).reshape(4, 3)


def _check_training(size: int, every: bool) -> int:
    count = 0
    for number, twin in enumerate(twins(size)):
        mesh = meshes(size)[0]
        control = l0.lagrangian(twin.spec, 0.5, warmup=0)
        settings: list[dict[str, Any]] = [
            {},
            {
                "penalty": _price(twin),
                "control": control,
                "average": 0.9,
                "clip": l0.clip_norm(0.5),
            },
            {"trainable": ["2.*"], "donate": True},
        ]
        rows = [Replicate()] * (mesh.ndim - 1) + [Shard(0)]
        cases = list(zip(settings, (twin.own_x.placements, rows, rows), strict=True))
        for own, placed in cases if every else cases[number : number + 1]:
            _check_steps(twin, own, [laid_out(t, mesh, placed) for t in (X, Y)])
            count += 1
    return count


def _price(twin: Twin) -> Any:
    return lambda params, gates: l0.penalty(params, gates, twin.spec, weight_decay=0.1)


def _check_steps(twin: Twin, settings: dict[str, Any], inputs: list[Any]) -> None:
    apply = l0.gated(FN, twin.spec)

    def loss(params: Any, gates: Any, buffers: Any, key: Any, x: Any, y: Any) -> Any:
        errors = (apply(params, gates, buffers, key, x) - y).square().sum() / 12
        return errors, {"twice": 2 * errors}

    # Without momentum, so that rounding stays small.
    sgd = l0.optimizer(torch.optim.SGD, lr=0.05)
    training = l0.training(loss, sgd, sgd, has_aux=True, **settings)
    own, values = _trained(training, twin.own_params, twin.own_gates, inputs)
    whole, expected = from_first(lambda: _trained(training, twin.params, twin.gates, [X, Y]))
    for (value, twice), (wanted, _) in zip(values, expected, strict=True):
        assert type(value) is type(twice) is torch.Tensor, twin.name
        torch.testing.assert_close(value, wanted)
        torch.testing.assert_close(twice, 2 * wanted)
    for mine, other, first in zip(own, whole, (twin.own_params, twin.own_gates), strict=True):
        for path, t in other.items():
            assert mine[path].placements == first[path].placements, (twin.name, path)
            torch.testing.assert_close(mine[path].full_tensor(), t, rtol=1e-5, atol=2e-6)


def _trained(training: Any, params: Any, gates: Any, inputs: Any) -> tuple[Any, list[Any]]:
    """Params and gates after three steps, and the losses with another number."""
    state = training.init(l0.random.key(1), params, gates, {})
    values: list[Any] = []
    for _ in range(3):
        state, value, metrics = training.step(state, *inputs)
        values.append((value, metrics["twice"]))
    return (state.params, state.gates), values


@pytest.mark.parametrize(("size", "every"), PRODUCTS)
def test_training_on_shards_has_the_loss_and_the_state_of_the_whole(size, every):
    assert processes(size).run(_check_training, size, every) == [9 if every else 3] * size


def test_open_gates_beyond_what_float32_counts_add_up_to_the_bits_of_shards():
    assert processes(2).run(_check_large_count) == [True, True]


def _check_large_count() -> bool:
    mesh = meshes(2)[0]
    size = 2**24 + 2**22 + 3
    gate = torch.full((size,), 4.0)
    gate[::7] = -9.0
    spec = l0.gate_spec({"w": torch.empty(size, device="meta")})
    controller = l0.lagrangian(spec, 0.5)
    state = controller.init({"w": gate})
    own = controller.init({"w": laid_out(gate, mesh, [Shard(0)])})
    expected = (gate > 0).sum().double() / size - 0.5
    torch.testing.assert_close(own.violation.double()[0], expected, rtol=0, atol=1e-7)
    return torch.equal(own.violation, state.violation)
