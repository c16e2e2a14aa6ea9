"""Gated functions that return objects: under one key, over rows, and with new buffers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from device import seeded_generator
from output_kinds import (
    KINDS,
    Attributes,
    Cache,
    Encoding,
    Frozen,
    Kind,
    ModelOutput,
    Plain,
    Returns,
)
from sampled import among, sampled
from torch import Tensor, nn
from torch.func import functional_call

import l0func as l0

X = torch.randn(5, 4, generator=seeded_generator(0), dtype=torch.float64)
KEYS = l0.random.split(l0.random.key(1), 5)


def network(build: Any) -> tuple[nn.Module, tuple[Any, ...]]:
    """A module, and its gated function with the first three arguments of a call."""
    torch.manual_seed(0)
    net = Returns(build).double().eval()
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates = l0.init_gates(l0.random.key(0), spec)
    return net, (l0.gated(fn, spec), params, gates, buffers)


def row_by_row(net: nn.Module, network: tuple[Any, ...]) -> list[Any]:
    """The outputs of plain torch, one row at a time under its own mask."""
    apply, params, gates, _ = network
    outputs: list[Any] = []
    for i, key in enumerate(KEYS):
        masked = l0.apply_masks(params, l0.sample_masks(key, gates, apply.spec))
        outputs.append(functional_call(net, masked, (X[i : i + 1],)))
    return outputs


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_rows_come_in_the_kind_of_object_that_one_row_returns(kind: Kind, chunk_size: int | None):
    net, (apply, params, gates, buffers) = network(kind.build)
    ours = l0.per_example(apply, chunk_size=chunk_size)(params, gates, buffers, KEYS, X)
    loop = row_by_row(net, (apply, params, gates, buffers))
    assert type(ours) is type(loop[0])
    expected = [torch.cat(tensors) for tensors in zip(*map(kind.read, loop), strict=True)]
    torch.testing.assert_close(list(kind.read(ours)), expected)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_rows_with_buffers_return_the_same_objects(kind: Kind):
    _, (apply, params, gates, buffers) = network(kind.build)
    rows = l0.per_example(apply)
    plain = rows(params, gates, buffers, KEYS, X)
    ours, _ = rows.with_buffers(params, gates, buffers, KEYS, X)
    torch.testing.assert_close(kind.read(ours), kind.read(plain), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_under_one_key_the_output_is_the_module_s_own_kind(kind: Kind):
    net, (apply, params, gates, buffers) = network(kind.build)
    ours = apply(params, gates, buffers, KEYS[0], X)
    masked = l0.apply_masks(params, l0.sample_masks(KEYS[0], gates, apply.spec))
    expected = functional_call(net, masked, (X,))
    assert type(ours) is type(expected)
    torch.testing.assert_close(kind.read(ours), kind.read(expected))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_weight_in_an_output_is_the_masked_weight_of_each_row(kind: Kind):
    class Weights(nn.Linear):
        def forward(self, input: Tensor) -> Any:
            return kind.build(super().forward(input), self.weight)

    net = Weights(4, 3)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"weight": l0.element()})
    gates, apply = l0.init_gates(l0.random.key(0), spec), l0.gated(fn, spec)
    masks = torch.stack([l0.sample_masks(key, gates, spec)["weight"] for key in KEYS])

    def weight(key: Tensor) -> Tensor:
        return kind.read(apply(params, gates, buffers, key, torch.ones(2, 4)))[1]

    torch.testing.assert_close(torch.vmap(weight)(KEYS), params["weight"] * masks)


def test_an_object_without_tensors_is_handed_through():
    @dataclasses.dataclass
    class Config:
        name: str = "tiny"
        sizes: tuple[int, ...] = (1, 2)

    config = Config()
    _, (apply, params, gates, buffers) = network(lambda y, h: {"y": y, "config": config})
    ours = l0.per_example(apply)(params, gates, buffers, KEYS, X)
    assert ours["config"] is config
    assert apply(params, gates, buffers, KEYS[0], X)["config"] is config


def test_under_one_mask_an_object_of_unknown_kind_is_the_module_s_own():
    _, (apply, params, gates, buffers) = network(lambda y, h: (y, lambda: h))
    y, hidden = apply(params, gates, buffers, KEYS[0], X)
    assert y.shape == (5, 3)
    assert hidden().shape == (5, 5)


@pytest.mark.parametrize(
    "dims",
    [{"y": 0, "loss": None, "h": 1, "label": None}, Plain(0, 1), (0, 1, None, None)],
    ids=["names", "the same class", "places"],
)
def test_the_dimensions_of_rows_in_an_object_go_by_name_class_or_place(dims: Any):
    _, (apply, params, gates, buffers) = network(lambda y, h: Plain(y, h.T))
    ours = l0.per_example(apply, out_dims=dims)(params, gates, buffers, KEYS, X)
    plain = l0.per_example(apply, out_dims={"y": 0, "h": 1, "loss": 0, "label": 0})
    assert (ours.y.shape, ours.h.shape, ours.loss, ours.label) == ((5, 3), (5, 5), None, "text")
    expected = plain(params, gates, buffers, KEYS, X)
    assert torch.equal(ours.y, expected.y)
    assert torch.equal(ours.h, expected.h)


def test_fields_that_a_model_output_leaves_out_have_no_rows():
    shared = torch.ones(2)
    _, (apply, params, gates, buffers) = network(lambda y, h: ModelOutput(y=y, loss=shared))
    dims = ModelOutput(y=0)
    ours = l0.per_example(apply, out_dims=dims)(params, gates, buffers, KEYS, X)
    assert ours.y.shape == (5, 3)
    assert torch.equal(ours.loss, shared)
    assert ours.loss is ours["loss"]


@pytest.mark.parametrize(
    "kind", ["dataclass", "frozen dataclass", "ModelOutput", "BatchEncoding", "object", "cache"]
)
def test_an_input_in_an_object_has_rows_too(kind: str):
    build, read = KINDS[kind]

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)

        def forward(self, batch: Any, more: Any = None) -> Tensor:
            return self.net(read(batch)[0] + read(more)[1])

    fn, params, buffers = l0.make_functional(Reads().double())
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates, rows = l0.init_gates(l0.random.key(0), spec), l0.per_example(l0.gated(fn, spec))
    batch = build(X, 2 * X)
    ours = rows(params, gates, buffers, KEYS, batch, more=batch)
    plain = l0.per_example(l0.gated(lambda p, b, x: fn(p, b, build(x, x), build(x, x)), spec))
    torch.testing.assert_close(ours, plain(params, gates, buffers, KEYS, 1.5 * X))


def test_a_cache_that_a_row_writes_into_stays_as_the_caller_made_it():
    class Writes(nn.Linear):
        def forward(self, input: Tensor, cache: Cache) -> Cache:
            return cache.update(super().forward(input), input)

    fn, params, buffers = l0.make_functional(Writes(4, 3).double())
    spec = l0.gate_spec(params, {"weight": l0.element()})
    gates, rows = l0.init_gates(l0.random.key(0), spec), l0.per_example(l0.gated(fn, spec))
    cache = Cache()
    ours = rows(params, gates, buffers, KEYS, X, cache)
    assert (cache.keys, cache.layers) == ([], [])
    assert ours.keys[0].shape == (5, 3)
    assert torch.equal(ours.layers[0].h, X)


def normal(y: Tensor, h: Tensor) -> torch.distributions.Normal:
    scale = h.sum(1, keepdim=True).exp()
    return torch.distributions.Normal(y, scale, validate_args=False)


def cyclic(y: Tensor, h: Tensor) -> Attributes:
    made = Attributes(y, h)
    vars(made)["parent"] = [made]
    return made


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda y, h: {"y": y, "f": lambda: h}, r"output\['f'\] is a function, .* in \.h,"),
        (lambda y, h: [y, Encoding({"h": iter([h])}, "")], r"output\[1\]\['h'\] is a list_iter"),
        (cyclic, r"output\.parent\[0\] is a Attributes that leads back to itself"),
        (lambda y, h: (y, y.shape), r"output\[1\] is a torch.Size, \(1, 3\): the size of one row"),
        (
            normal,
            r"output\._batch_shape is a torch.Size.* return its parameters",
        ),
    ],
    ids=["function", "iterator", "cycle", "size", "distribution"],
)
def test_an_output_that_has_no_rows_is_refused_by_its_place(build: Any, match: str):
    _, (apply, params, gates, buffers) = network(build)
    with pytest.raises(TypeError, match=match):
        l0.per_example(apply)(params, gates, buffers, KEYS, X)


def test_a_number_that_each_row_has_is_refused_with_its_place():
    _, (apply, params, gates, buffers) = network(lambda y, h: Plain(y, h, loss=y.sum()))
    with pytest.raises(ValueError, match=r"shape \(\), output.loss, .* return it as x\[None\]"):
        l0.per_example(apply)(params, gates, buffers, KEYS, X)


def test_a_hidden_stand_in_is_refused_by_its_place():
    class Hides(nn.Linear):
        def forward(self, input: Tensor) -> Any:
            return super().forward(input), iter([self.weight])

    fn, params, buffers = l0.make_functional(Hides(4, 3).double())
    spec = l0.gate_spec(params, {"weight": l0.element()})
    apply, gates = l0.gated(fn, spec), l0.init_gates(l0.random.key(0), spec)
    with pytest.raises(TypeError, match=r"output\[1\] is a list_iterator, which holds tensors"):
        torch.vmap(lambda key: apply(params, gates, buffers, key, X)[0])(KEYS)


def test_distributions_keep_their_class_under_one_mask():
    _, (apply, params, gates, buffers) = network(normal)
    ours = apply(params, gates, buffers, KEYS[0], X)
    assert ours.sample().shape == (5, 3)


@pytest.mark.compiles
def test_compiled_code_keeps_an_object_under_one_mask():
    _, (apply, params, gates, buffers) = network(Frozen)
    compiled = torch.compile(apply.__call__, fullgraph=True, backend="eager")
    ours = compiled(params, gates, buffers, KEYS[0], X)
    torch.testing.assert_close(ours.h, apply(params, gates, buffers, KEYS[0], X).h)


@pytest.mark.compiles
@pytest.mark.parametrize("whole", sampled([True, False], among("True")))
def test_compiled_rows_of_objects_are_refused_in_the_words_of_the_compiled_call(whole):
    _, (apply, params, gates, buffers) = network(Frozen)
    rows = torch.compile(l0.per_example(apply).__call__, fullgraph=whole, backend="eager")
    with pytest.raises(Exception, match=r"dicts, lists and tuples; got Frozen"):
        rows(params, gates, buffers, KEYS, X)


@pytest.mark.compiles
def test_rows_are_mapped_inside_of_a_compiler_and_keep_a_named_tuple():
    _, (apply, params, gates, buffers) = network(KINDS["namedtuple"].build)

    def rows(params: Any, gates: Any, x: Tensor) -> Any:
        return l0.per_example(apply)(params, gates, buffers, KEYS, x)

    ours = torch.compile(rows, fullgraph=True, backend="eager")(params, gates, X)
    expected = rows(params, gates, X)
    assert type(ours) is type(expected)
    torch.testing.assert_close(list(ours), list(expected))
