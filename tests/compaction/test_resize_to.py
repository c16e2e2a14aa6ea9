"""``resize_to``: a module takes the shapes and values of a smaller state, or says why not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from groups import problem, random_gates
from strangers import STRANGERS
from torch import Tensor, nn
from zoo import CASES

import l0func as l0
from l0func.internal import tree

# Their numbers do not follow from shapes: a width that forward reads, sizes in a tuple, layers
# without tensors.
UNCLEAR = ("last_state", "folded", "without_affine", "unflattened")


def small_module(case: Any) -> tuple[nn.Module, Any] | None:
    """A case without random units, and its inputs; None if no unit of it can go."""
    found = problem(case, torch.float32)
    if found is None:
        return None
    fn, params, buffers, spec, inputs = found
    small = l0.compact(fn, params, random_gates(spec, 0.5), buffers, spec)
    return l0.to_module(*small).eval(), inputs


def tensors(value: Any) -> list[Tensor]:
    return [leaf for _, leaf in tree.walk(value) if isinstance(leaf, Tensor)]


def assert_same(module: nn.Module, expected: nn.Module, inputs: Any) -> None:
    outputs, others = tensors(module(*inputs)), tensors(expected(*inputs))
    assert len(outputs) == len(others) > 0
    assert all(torch.equal(a, b) for a, b in zip(outputs, others, strict=True))


@pytest.mark.parametrize("case", [*CASES, *STRANGERS], ids=repr)
def test_every_network_takes_its_compacted_state_or_asks_for_examples(case):
    found = small_module(case)
    if found is None:
        assert case in CASES
        return
    small, inputs = found
    fresh = case.build().eval()
    before = copy.deepcopy(fresh.state_dict())
    if case.name in UNCLEAR:
        with pytest.raises(ValueError, match="Pass example_inputs"):
            l0.resize_to(fresh, small.state_dict())
    else:
        assert_same(l0.resize_to(fresh, small.state_dict()), small, inputs)
    assert_same(l0.resize_to(fresh, small.state_dict(), example_inputs=inputs), small, inputs)
    after = fresh.state_dict()
    assert all(torch.equal(before[path], after[path]) for path in before)


def net(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


def test_the_new_module_shares_no_memory_and_keeps_frozen_parameters_and_modes():
    module, state = net(), net(3).state_dict()
    module[0].weight.requires_grad_(False)
    module[1].eval()
    small = l0.resize_to(module, state)
    assert [p.requires_grad for p in small.parameters()] == [False, True, True, True]
    assert (small[0].training, small[1].training) == (True, False)
    state["0.weight"].zero_()
    assert bool(small[0].weight.any())


def test_a_state_keeps_its_dtype_and_a_module_without_values_takes_it():
    state = {path: p.bfloat16() for path, p in net(3).state_dict().items()}
    small = l0.resize_to(net().to("meta"), state)
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert torch.equal(small[2].weight, state["2.weight"])


def test_nested_states_and_states_of_compiled_modules_are_read():
    nested = {"0": {"weight": torch.ones(3, 4), "bias": torch.ones(3)}}
    nested["2"] = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    assert l0.resize_to(net(), nested)[0].out_features == 3
    wrapped = {f"_orig_mod.{path}": p for path, p in net(3).state_dict().items()}
    assert l0.resize_to(net(), wrapped)[2].in_features == 3


BAD_STATES: dict[str, tuple[dict[str, tuple[int, ...] | None], str]] = {
    "missing": ({"2.bias": None}, r"The state has no '2.bias', which the module has"),
    "unknown": ({"2.biass": (2,)}, r"has '2.biass', and the module has no such .*'2.bias'"),
    "grown": ({"0.weight": (9, 4)}, r"'0.weight' in shape \(9, 4\).*larger along dimension 0"),
    "rank": ({"0.bias": (3, 1)}, r"'0.bias' in shape \(3, 1\).*another number of dimensions"),
    "chain": ({"2.weight": (2, 5)}, r"'0.weight' .*'2.weight' .*makes 3 .* reads 5. No removal"),
    "contradiction": ({"0.bias": (4,)}, r"Linear '0' cannot be made smaller: 'weight' keeps 3"),
}


@pytest.mark.parametrize("kind", BAD_STATES)
def test_a_state_that_fits_no_removal_is_refused_by_name(kind):
    changes, message = BAD_STATES[kind]
    state: dict[str, Tensor] = net(3).state_dict()
    for path, shape in changes.items():
        state.pop(path, None)
        if shape is not None:
            state[path] = torch.ones(shape)
    with pytest.raises(ValueError, match=message):
        l0.resize_to(net(), state)


BAD_LAYERS: dict[str, tuple[nn.Module, dict[str, tuple[int, ...]], str]] = {
    "vocabulary": (nn.Embedding(9, 4), {"weight": (5, 4)}, "indices would then mean other rows"),
    "kernel": (nn.Conv1d(2, 3, 5), {"weight": (3, 2, 3)}, "a kernel keeps its size"),
    "layer norm": (nn.LayerNorm(6), {"weight": (4,), "bias": (4,)}, "LayerNorm"),
    "tiles": (nn.LSTM(2, 4), {"weight_ih_l0": (10, 2)}, "4 equal tiles, and 10 is no multiple"),
    "half a head": (
        nn.MultiheadAttention(8, 2),
        {"in_proj_weight": (18, 8), "in_proj_bias": (18,), "out_proj.weight": (8, 6)},
        "of a head and keeps others",
    ),
    "half a group": (
        nn.Conv1d(6, 6, 1, groups=3),
        {"weight": (3, 2, 1), "bias": (3,)},
        "of a group and keeps others",
    ),
}


@pytest.mark.parametrize("kind", BAD_LAYERS)
def test_a_layer_that_cannot_lose_these_slices_says_so(kind):
    layer, shapes, message = BAD_LAYERS[kind]
    state = layer.state_dict() | {path: torch.ones(shape) for path, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        l0.resize_to(layer, state)


def test_ties_accept_either_name_and_refuse_two_values():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
            self.b.weight = self.a.weight

    weight = torch.ones(6, 4)
    for state in ({"a.weight": weight}, {"b.weight": weight}):
        assert torch.equal(l0.resize_to(Tied(), state).a.weight, weight)
    with pytest.raises(ValueError, match=r"ties 'b.weight' to 'a.weight'.*Untie"):
        l0.resize_to(Tied(), {"a.weight": weight, "b.weight": 2 * weight})


def test_a_module_in_place_of_a_state_is_refused():
    with pytest.raises(TypeError, match=r"Pass its state_dict"):
        l0.resize_to(net(), net(3))


class Scaled(nn.Module):
    """A width that is a number for arithmetic, and stays when the width shrinks."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.a, self.b = 8, nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * self.width**0.5)


def test_a_width_that_forward_reads_is_not_guessed_and_examples_settle_it():
    torch.manual_seed(0)
    module, x = Scaled(), torch.randn(3, 4)
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, x))
    gates = {"a": torch.tensor([4.0, -4.0] * 4)}
    small = l0.to_module(*l0.compact(fn, params, gates, buffers, spec))
    with pytest.raises(ValueError, match=r"'width' \(8\).*Scaled.*Pass example_inputs"):
        l0.resize_to(Scaled(), small.state_dict())
    loaded = l0.resize_to(Scaled(), small.state_dict(), example_inputs=x)
    assert torch.equal(loaded(x), small(x))


class WrittenNorm(nn.Module):
    """An RMSNorm that its author wrote out, in one of three ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.variance_epsilon, self.slope = way, 0.1, 0.1
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        square = x.pow(2).mean(-1, keepdim=True)
        if self.way == "outside":
            return self.weight * (x / (square.sqrt() + self.variance_epsilon))
        scale = 1 + self.weight if self.way == "one plus" else self.weight
        return x * torch.rsqrt(square + self.variance_epsilon) * scale


@pytest.mark.parametrize("way", ["inside", "outside", "one plus"])
def test_a_norm_that_is_written_out_gets_an_eps_for_the_units_that_are_left(way):
    whole = WrittenNorm(way)
    kept = torch.tensor([0, 2, 3, 5])
    ratio = (6 / 4) ** 0.5
    weight = whole.weight.detach()[kept]
    scaled = (weight + 1) * ratio - 1 if way == "one plus" else weight * ratio
    small = l0.resize_to(whole, {"weight": scaled})
    x = torch.zeros(3, 6).index_copy(1, kept, torch.randn(3, 4))
    torch.testing.assert_close(small(x[:, kept]), whole(x)[:, kept])
    assert small.slope == 0.1


class Heads(nn.Module):
    """Attention that infers the heads' size from their number, under a telling name or not."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, 4)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.num_heads if self.name == "num_heads" else self.h
        rows, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(rows, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(rows, length, -1))


@pytest.mark.parametrize("name", ["num_heads", "h"])
def test_a_head_count_follows_its_name_and_another_name_asks_for_examples(name):
    torch.manual_seed(0)
    module, x = Heads(name), torch.randn(3, 5, 16)
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, x))
    gates = {"qkv": torch.tensor([4.0, -4.0, -4.0, 4.0])}
    small = l0.to_module(*l0.compact(fn, params, gates, buffers, spec))
    if name == "h":
        with pytest.raises(ValueError, match=r"'h' \(4\).*name does not say.*example_inputs"):
            l0.resize_to(Heads(name), small.state_dict())
    examples = x if name == "h" else None
    loaded = l0.resize_to(Heads(name), small.state_dict(), example_inputs=examples)
    assert torch.equal(loaded(x), small(x))


def test_with_examples_tensors_that_keep_different_numbers_of_units_are_refused():
    state = net(3).state_dict() | {"2.weight": torch.ones(2, 5)}
    with pytest.raises(ValueError, match=r"'2.weight' in shape \(2, 5\).*no removal of units"):
        l0.resize_to(net(), state, example_inputs=torch.randn(3, 4))


def test_the_state_of_an_l0_module_is_sent_to_its_smaller_network():
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    state = l0.L0Module(plain, 1e-3, seed=0).state_dict()
    with pytest.raises(ValueError, match=r"of an L0Module: .*compacted\(\).state_dict"):
        l0.resize_to(plain, state)
