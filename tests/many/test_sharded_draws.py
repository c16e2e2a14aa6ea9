"""Gates on DTensors are drawn, spread and counted as whole ones are, on every placement."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from processes import from_first, processes
from sampled import among, sampled

import l0func as l0

pytest.importorskip("shards_here")


@dataclass(frozen=True)
class LogisticGate(l0.CustomGate):
    """A clipped logistic variable."""

    scale: float = 0.3

    def draw(self, u: torch.Tensor, log_alpha: torch.Tensor) -> torch.Tensor:
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t: float | torch.Tensor, log_alpha: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


MESHES = {2: (1, 2), 3: (3,), 4: (2, 2)}
SIZES = [(5, 7), (1, 3), (8, 4)]


def _placements(rank: int) -> list[tuple[Any, ...]]:
    from layouts import strided_shards
    from torch.distributed.tensor import Replicate, Shard

    single: list[Any] = [Replicate(), Shard(0), Shard(1), *strided_shards(0, 2)]
    return list(itertools.product(single, repeat=rank))


def _check_draws(shape: tuple[int, ...]) -> int:
    from one_mesh import mesh_of
    from torch.distributed.tensor import distribute_tensor
    from torch.distributed.tensor.debug import CommDebugMode

    mesh = mesh_of(shape)
    laws = [l0.GaussianGate(), l0.HardKuma(), l0.BernoulliGate(), LogisticGate()]
    cases: list[Any] = [(l0.HardConcrete(), torch.float32, size) for size in SIZES]
    cases += [(l0.HardConcrete(), torch.float64, SIZES[0])]
    cases += [
        (law, torch.float64 if n % 2 else torch.float32, (5, 7)) for n, law in enumerate(laws)
    ]
    checked = 0
    for number, (distribution, dtype, size) in enumerate(cases):
        generator = torch.Generator().manual_seed(1)
        params = {"w": torch.randn(size, dtype=dtype, generator=generator)}
        spec = l0.gate_spec(params, distribution=distribution)
        gates = l0.init_gates(l0.random.key(0), spec, noise=2.0)
        key = l0.random.key(5)
        mask = l0.sample_masks(key, gates, spec)["w"]
        fixed = l0.deterministic_masks(gates, spec)["w"]
        alone = gates["w"].clone().requires_grad_()
        l0.expected_l0({"w": alone}, spec).backward()
        # All placements for three shapes, and every fourth one for each law and dtype.
        every = 1 if number < len(SIZES) else 4
        chosen = _placements(mesh.ndim)[number % every :: every]
        for placements in chosen:

            def laid(t: Any, own: Any = placements) -> Any:
                return distribute_tensor(t.detach().clone(), mesh, list(own), src_data_rank=None)

            own_gates, own_params = {"w": laid(gates["w"])}, {"w": laid(params["w"])}
            # All placements once, and each law once: the counter slows each operation of torch.
            if number == 0 or (every > 1 and placements == chosen[-1]):
                with CommDebugMode() as counted:
                    l0.apply_masks(own_params, l0.sample_masks(key, own_gates, spec))
                    l0.deterministic_masks(own_gates, spec)
                assert counted.get_total_counts() == 0
            masks = l0.sample_masks(key, own_gates, spec)
            product = l0.apply_masks(own_params, masks)["w"]
            assert torch.equal(masks["w"].to_local(), laid(mask).to_local())
            assert torch.equal(product.to_local(), laid(params["w"] * mask).to_local())
            own_fixed: Any = l0.deterministic_masks(own_gates, spec)["w"]
            assert torch.equal(own_fixed.to_local(), laid(fixed).to_local())
            leaf = own_gates["w"].requires_grad_()
            expected = l0.expected_l0({"w": leaf}, spec)
            assert type(expected) is torch.Tensor
            torch.testing.assert_close(expected, l0.expected_l0(gates, spec))
            expected.backward()
            assert torch.equal(leaf.grad.to_local(), laid(alone.grad).to_local())
            checked += 1
    return checked


def _check_network(shape: tuple[int, ...]) -> int:
    from one_mesh import mesh_of
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = mesh_of(shape)

    def along(placement: Any) -> list[Any]:
        return [Replicate()] * (mesh.ndim - 1) + [placement]

    def laid(t: Any, placements: Any) -> Any:
        return distribute_tensor(t.detach().clone(), mesh, placements, src_data_rank=None)

    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    fn, params, _ = l0.make_functional(net)
    generator = torch.Generator().manual_seed(2)
    params = {path: torch.randn(t.shape, generator=generator) for path, t in params.items()}
    counts = l0.count_macs(fn, params, {}, torch.ones(2, 6))
    group = l0.group({"0.weight": l0.axis(0), "0.bias": l0.element()}, {"2.weight": l0.axis(1)})
    by_group = l0.gate_spec(params, {"*": None}, groups={"u": group})
    mixed = {
        "0.weight": [l0.axis(0), l0.axis(1)],
        "0.bias": l0.blocks(0, 2),
        "2.weight": l0.tiles(1, 2),
        "2.bias": l0.whole(),
    }
    by_rules = l0.gate_spec(params, mixed)
    rows = {path: along(Shard(0)) for path in params}
    columns = {**rows, "2.weight": along(Shard(1)), "2.bias": along(Replicate())}
    of_rules = {gate.name: along(Replicate()) for gate in by_rules.gates}
    of_rules[by_rules.gates[0].name] = along(Shard(0))
    by_entry = l0.gate_spec(params, {"*": l0.element()})
    whole_units = {"u": along(Replicate())}
    cases: list[tuple[Any, Any, Any]] = [
        (by_group, columns, {"u": along(Shard(0))}),
        (by_group, rows, {"u": along(Shard(0))}),
        (by_group, rows, whole_units),
        (by_rules, rows, of_rules),
        (by_entry, rows, rows),
    ]
    for spec, of_params, of_gates in cases:
        gates = l0.init_gates(l0.random.key(0), spec, noise=2.0)
        own_params = {path: laid(t, of_params[path]) for path, t in params.items()}
        own_gates = {name: laid(t, of_gates[name]) for name, t in gates.items()}
        key = l0.random.key(5)
        pairs = [
            (l0.sample_masks(key, own_gates, spec), l0.sample_masks(key, gates, spec)),
        ]
        masked = [
            l0.apply_masks(p, m) for p, m in ((own_params, pairs[0][0]), (params, pairs[0][1]))
        ]
        pairs = [
            (masked[0], masked[1]),
            (l0.prune(own_params, own_gates, spec), l0.prune(params, gates, spec)),
            (l0.compensate(own_params, own_gates, spec), l0.compensate(params, gates, spec)),
        ]
        for own, whole in pairs:
            for path, t in own.items():
                wanted = laid(whole[path], of_params[path])
                assert torch.equal(t.to_local(), wanted.to_local()), path
        if of_gates in (of_rules, whole_units):
            # Those of gates that lie as their weights are in test_sharded_control.
            _check_controller(spec, own_gates, gates, lambda t, name, o=of_gates: laid(t, o[name]))
        own_table = l0.summary(own_params, own_gates, spec)
        assert str(own_table) == str(l0.summary(params, gates, spec))
        own_macs = l0.expected_macs(own_gates, spec, counts)
        torch.testing.assert_close(own_macs, l0.expected_macs(gates, spec, counts))
        own_count = l0.realised_macs(own_gates, spec, counts)
        assert own_count == l0.realised_macs(gates, spec, counts)
        price = l0.penalty(own_params, own_gates, spec, weight_decay=0.1)
        torch.testing.assert_close(price, l0.penalty(params, gates, spec, weight_decay=0.1))
        ours = _gate_gradients(own_params, own_gates, spec)
        slopes = from_first(lambda g=gates, s=spec: _gate_gradients(params, g, s))
        for name, grad in slopes.items():
            assert ours[name].placements == own_gates[name].placements
            wanted = laid(grad, of_gates[name])
            torch.testing.assert_close(ours[name].to_local(), wanted.to_local())
    return len(cases)


def _gate_gradients(params: Any, gates: Any, spec: Any) -> dict[str, Any]:
    """The gradients of the sum of all squared masked weights, and of a penalty."""
    leaves = {name: t.detach().requires_grad_() for name, t in gates.items()}
    masked = l0.apply_masks(params, l0.sample_masks(l0.random.key(7), leaves, spec))
    total: Any = l0.penalty(params, leaves, spec, weight_decay=0.1)
    for t in masked.values():
        square: Any = (t**2).sum()
        total = total + (square.full_tensor() if hasattr(square, "full_tensor") else square)
    total.backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def _check_controller(spec: Any, own_gates: Any, gates: Any, laid: Any) -> None:
    controller = l0.lagrangian(spec, 0.4, floor=1, warmup=2)
    states, held = _controlled(controller, own_gates)
    expected, wanted = from_first(lambda: _controlled(controller, gates))
    for own_state, state in zip(states, expected, strict=True):
        for ours, theirs in zip(own_state, state, strict=True):
            assert type(ours) is torch.Tensor
            assert torch.equal(ours, theirs)
    for name, t in held.items():
        assert torch.equal(t.to_local(), laid(wanted[name], name).to_local())


def _controlled(controller: Any, gates: Any) -> tuple[list[Any], Any]:
    """The states of three updates, and gates that are far closed, raised."""
    state, states = controller.init(gates), list[Any]()
    for _ in range(3):
        state = controller.update(state, gates)
        states.append(state)
    return states, controller.hold(state, {name: t - 6 for name, t in gates.items()})


def _check_refusals() -> None:
    from one_mesh import mesh_of
    from torch.distributed.tensor import (
        DTensor,
        Partial,
        Replicate,
        Shard,
        distribute_tensor,
    )

    mesh = mesh_of((2,))

    def laid(t: Any, placement: Any) -> Any:
        return distribute_tensor(t.detach().clone(), mesh, [placement], src_data_rank=None)

    params = {"w": torch.randn(6, 4)}
    spec, key = l0.gate_spec(params), l0.random.key(1)
    gates = l0.init_gates(l0.random.key(0), spec)
    rows = {"w": laid(params["w"], Shard(0))}
    for wrong in (gates, {"w": laid(gates["w"], Shard(1))}):
        with pytest.raises(ValueError, match=r"'w'(.|\n)*place_gates"):
            l0.apply_masks(rows, l0.sample_masks(key, wrong, spec))
        with pytest.raises(ValueError, match=r"'w'(.|\n)*place_gates"):
            l0.prune(rows, wrong, spec)
    terms = {"w": DTensor.from_local(gates["w"], mesh, [Partial()], run_check=False)}
    for call in (lambda: l0.sample_masks(key, terms, spec), lambda: l0.expected_l0(terms, spec)):
        with pytest.raises(ValueError, match="terms of a sum"):
            call()
    own = {"w": laid(gates["w"], Shard(0))}
    with pytest.raises(ValueError, match=r"gather"):
        l0.prune(rows, own, spec, density=0.5)
    with pytest.raises(ValueError, match=r"gather"):
        l0.deterministic_masks(own, spec, "count")
    with pytest.raises(ValueError, match="a plain tensor"):
        l0.apply_masks(params, l0.sample_masks(key, own, spec))
    same = {"w": laid(gates["w"], Replicate())}
    torch.testing.assert_close(
        l0.prune(rows, same, spec)["w"].full_tensor(), l0.prune(params, gates, spec)["w"]
    )
    # The NaN is in the second process's part; both refuse, so that none waits.
    diverged = gates["w"].clone()
    diverged[5, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        l0.prune(rows, {"w": laid(diverged, Shard(0))}, spec)


def _check_quantiles() -> None:
    from one_mesh import mesh_of
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh, gate = mesh_of((2,)), l0.HardConcrete()

    def laid(t: Any, placement: Any) -> Any:
        return distribute_tensor(t, mesh, [placement], src_data_rank=None)

    la, u = torch.linspace(-2, 2, 15).reshape(5, 3), torch.linspace(0.1, 0.9, 15).reshape(5, 3)
    half = torch.tensor(0.5)
    for placement in (Shard(0), Shard(1), Replicate()):
        own = laid(la, placement)
        for given, whole in ((half, half), (half.reshape(1, 1), half), (laid(u, placement), u)):
            found: Any = gate.quantile(given, own)
            assert found.placements == own.placements
            torch.testing.assert_close(found.full_tensor(), gate.quantile(whole, la))
        for plain in (u, u[:2, 0], u[:0]):
            with pytest.raises(ValueError, match=r"probabilities a plain tensor.*sample\(key"):
                gate.quantile(plain, own)
        other = Shard(1) if placement == Shard(0) else Shard(0)
        for wrong in (laid(u, other), laid(u[:4], placement)):
            with pytest.raises(ValueError, match=r"Lay them out alike: u\.redistribute"):
                gate.quantile(wrong, own)


@pytest.mark.parametrize("size", sampled(MESHES, among("2", "3")))
def test_masks_on_every_placement_have_the_bits_of_the_whole_and_send_nothing(size: int) -> None:
    found = processes(size).run(_check_draws, MESHES[size])
    all_placed = len(_placements(len(MESHES[size])))
    fourths = [len(range(number % 4, all_placed, 4)) for number in range(3, 8)]
    assert found == [3 * all_placed + sum(fourths)] * size


@pytest.mark.parametrize("size", sampled(MESHES, among("3")))
def test_a_network_of_shards_is_pruned_counted_and_controlled_as_the_whole(size: int) -> None:
    assert processes(size).run(_check_network, MESHES[size]) == [5] * size


def test_layouts_that_do_not_match_are_refused_by_name_in_every_process() -> None:
    processes(2).run(_check_refusals)


def test_gates_on_shards_have_the_quantiles_of_the_whole_and_probabilities_laid_as_they() -> None:
    assert processes(2).run(_check_quantiles) == [None, None]
