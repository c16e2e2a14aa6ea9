"""Gated calls, controllers and training on DTensors, beside those of the whole network."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import l0func as l0

pytest.importorskip("torch.distributed.tensor.debug", reason="torch has no public DTensors")

from layouts import laid_out, meshes
from processes import processes
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


def _check_controllers(size: int) -> int:
    count = 0
    for twin in twins(size):
        # Every measure on one spec; the others have what takes gates one by one.
        chosen = MEASURES if twin.name.startswith("units") else [MEASURES[3], MEASURES[5]]
        for settings in chosen:
            _check_controller(twin, settings)
            count += 1
    return count


def _check_controller(twin: Twin, settings: dict[str, Any]) -> None:
    spec = twin.spec
    controller = l0.lagrangian(spec, **settings)
    own, whole = controller.init(twin.own_gates), controller.init(twin.gates)
    for shift in (0.0, 0.5, -9.0):
        own_gates = {name: t + shift for name, t in twin.own_gates.items()}
        gates = {name: t + shift for name, t in twin.gates.items()}
        own, whole = controller.update(own, own_gates), controller.update(whole, gates)
        for mine, expected in zip(own, whole, strict=True):
            assert type(mine) is torch.Tensor, (twin.name, settings)
            assert torch.equal(mine, expected), (twin.name, settings)
        low = controller.is_low(own, own_gates)
        assert type(low) is torch.Tensor
        assert bool(low) == bool(controller.is_low(whole, gates))
    # The last gates are far closed: they are raised.
    held, expected = controller.hold(own, own_gates), controller.hold(whole, gates)
    for name, t in expected.items():
        mine: Any = held[name]
        assert mine.placements == twin.own_gates[name].placements
        wanted = laid_out(t, mine.device_mesh, mine.placements).to_local()
        assert torch.equal(mine.to_local(), wanted), (twin.name, settings)
    twin.check(lambda params, gates, spec: controller.penalty(own, gates))


@pytest.mark.parametrize("size", SIZES)
def test_a_controller_has_the_bits_of_the_whole_for_every_measure(size):
    assert processes(size).run(_check_controllers, size) == [len(MEASURES) + 4] * size


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


def _check_training(size: int) -> int:
    count = 0
    for twin in twins(size):
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
        for own, placed in zip(settings, (twin.own_x.placements, rows, rows), strict=True):
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
    own = training.init(l0.random.key(1), twin.own_params, twin.own_gates, {})
    whole = training.init(l0.random.key(1), twin.params, twin.gates, {})
    for _ in range(3):
        own, value, metrics = training.step(own, *inputs)
        whole, expected, _ = training.step(whole, X, Y)
        assert type(value) is type(metrics["twice"]) is torch.Tensor, twin.name
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(metrics["twice"], 2 * expected)
    trees = [(own.params, whole.params, twin.own_params), (own.gates, whole.gates, twin.own_gates)]
    for mine, other, first in trees:
        for path, t in other.items():
            assert mine[path].placements == first[path].placements, (twin.name, path)
            torch.testing.assert_close(mine[path].full_tensor(), t, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_training_on_shards_has_the_loss_and_the_state_of_the_whole(size):
    assert processes(size).run(_check_training, size) == [9] * size


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
