"""Keys: known answers, equal bits on every road, uniform and independent draws."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import oracles
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from l0func import random
from l0func.kernels import philox

KEYS = [(0, 0), (7, 0), (-1, -1), (2**63 - 1, -(2**63)), (123456789123456789, 2**32 - 2), (5, -3)]


def as_key(words: tuple[int, int]) -> Tensor:
    return torch.tensor(words, dtype=torch.int64)


@pytest.mark.parametrize("words", KEYS)
def test_draws_are_those_of_the_written_definition(words):
    key = as_key(words)
    assert random.uniform(key, 37).tolist() == oracles.uniform(words, 37)
    torch.testing.assert_close(
        random.normal(key, 37), torch.tensor(oracles.normal(words, 37)), rtol=0, atol=0
    )
    for data in (0, 1, -1, 2**63 - 1, -(2**63), 2**64 - 1):
        assert tuple(random.fold_in(key, data).tolist()) == oracles.fold_in(words, data)


WORDS = [0, 1, -1, -(2**63), 2**63 - 1, 2**63, 2**63 + 5, 2**64 - 1]


@pytest.mark.parametrize("number", WORDS)
def test_every_number_of_64_bits_is_a_seed_and_folds_into_a_batch(number):
    signed = (number + 2**63) % 2**64 - 2**63
    assert random.key(number).tolist() == [signed, 0]
    folded = random.fold_in(torch.stack([as_key(words) for words in KEYS]), number)
    assert folded.tolist() == [list(oracles.fold_in(words, number)) for words in KEYS]


@pytest.mark.on_cpu
@pytest.mark.parametrize("number", [5, torch.tensor(5)], ids=repr)
def test_one_number_folds_into_one_key_without_torchs_operations(number):
    called: list[str] = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    key = random.key(3)
    with Noted():
        random.fold_in(key, number)
    # Written in tensor operations, the ten rounds are more than a hundred.
    assert len(called) < 10


def test_split_is_fold_in_and_a_tensor_folds_as_a_number_does():
    key = random.key(3)
    folds = [random.fold_in(key, i) for i in range(6)]
    assert torch.equal(random.split(key, 6), torch.stack(folds))
    assert torch.equal(random.fold_in(key, torch.arange(6)), torch.stack(folds))
    # One number as a tensor is read where it can be, and folds in tensor operations where a
    # transform hides it.
    for number in (5, -3, 2**62):
        one = random.fold_in(key, torch.tensor(number))
        assert torch.equal(one, random.fold_in(key, number))
        assert torch.equal(
            one, torch.vmap(lambda n: random.fold_in(key, n))(torch.tensor([number]))[0]
        )
    assert torch.equal(random.split(random.split(key, 2), 3)[1, 2], random.fold_in(folds[1], 2))


SHAPES = [((), (3,)), ((3,), ()), ((3,), (3,)), ((2, 3), (3,)), ((3,), (2, 3)), ((), ())]


@pytest.mark.parametrize(("batch", "numbers"), SHAPES, ids=str)
@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)], ids=str)
def test_a_fold_of_batches_that_broadcast_maps_as_a_loop(batch, numbers, mapped):
    def given(t: Tensor, dim: int | None, i: int) -> Tensor:
        return t if dim is None else t[i]

    sizes = [(3,) if dim is not None else () for dim in mapped]
    keys = random.split(random.key(1), math.prod((*sizes[0], *batch)))
    keys = keys.reshape((*sizes[0], *batch, 2))
    data = torch.arange(math.prod((*sizes[1], *numbers))).reshape((*sizes[1], *numbers))
    found = torch.vmap(random.fold_in, mapped)(keys, data)
    for i in range(3):
        own, number = given(keys, mapped[0], i), given(data, mapped[1], i)
        shape = torch.broadcast_shapes(own.shape[:-1], number.shape)
        of_all = own.expand(*shape, 2).reshape(-1, 2), number.expand(shape).flatten()
        one_by_one = [random.fold_in(key, int(n)) for key, n in zip(*of_all, strict=True)]
        assert torch.equal(found[i], torch.stack(one_by_one).reshape(*shape, 2))


def test_a_batch_of_keys_draws_what_each_key_draws():
    keys = random.split(random.split(random.key(1), 3), 4)
    for draw in (random.uniform, random.normal):
        batch = draw(keys, (5, 3))
        assert all(
            torch.equal(batch[i, j], draw(keys[i, j], (5, 3))) for i in range(3) for j in range(4)
        )


@pytest.mark.parametrize("first", [0, 3, 4, 9])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_a_part_of_a_stream_is_where_the_whole_has_it(batch, first):
    keys = random.key(1)
    for size in batch:
        keys = random.split(keys, size)
    whole = random.uniform(keys, 40)
    part = random.uniform_from(keys, first, (2, 3))
    assert torch.equal(part, whole[..., first : first + 6].reshape(*batch, 2, 3))


def test_vmap_nested_vmap_and_its_order_do_not_change_a_bit():
    keys = random.split(random.split(random.key(1), 3), 4)

    def draw(key: Tensor) -> Tensor:
        return random.uniform(random.fold_in(key, 9), 7) + random.normal(
            random.split(key, 2)[1], 7
        )

    loop = torch.stack([torch.stack([draw(key) for key in row]) for row in keys])
    assert torch.equal(torch.vmap(torch.vmap(draw))(keys), loop)
    assert torch.equal(
        torch.vmap(torch.vmap(draw, in_dims=0), in_dims=1)(keys), loop.transpose(0, 1)
    )
    assert torch.equal(torch.vmap(draw, in_dims=1)(keys[0].T), loop[0])
    assert torch.equal(torch.vmap(draw, chunk_size=3)(keys.flatten(0, 1)), loop.flatten(0, 1))


def test_a_longer_draw_begins_with_the_shorter_one():
    assert torch.equal(random.uniform(random.key(4), 50)[:13], random.uniform(random.key(4), 13))


def test_draws_of_many_gates_are_those_of_each():
    keys = random.split(random.key(8), 4)
    shapes = [(3,), (70, 900), (), (2, 2)]
    for key, shape, draw in zip(keys, shapes, random.uniforms(keys, shapes), strict=True):
        assert torch.equal(draw, random.uniform(key, shape))


@pytest.mark.compiles
def test_compiled_draws_have_the_bits_of_eager_ones():
    def draw(key: Tensor) -> tuple[Tensor, ...]:
        keys = random.split(random.fold_in(key, 5), 3)
        rows = torch.vmap(lambda k: random.uniforms(random.split(k, 2), [(9,), (5000,)])[1])(keys)
        return rows, random.normal(keys[0], 999), *random.uniforms(keys[:2], [(4,), (7,)])

    key = random.key(11)
    compiled = torch.compile(draw, fullgraph=True, backend="inductor")(key)
    for ours, eager in zip(compiled, draw(key), strict=True):
        assert torch.equal(ours, eager)


def test_the_ends_of_the_interval_are_never_reached():
    extremes = philox.unit(torch.tensor([0, 2**32 - 1]))
    assert extremes.tolist() == [2.0**-24, 1 - 2.0**-24]
    assert torch.logit(extremes).isfinite().all()


def test_uniforms_are_uniform_and_neighbouring_keys_independent():
    n = 1_000_000
    u = random.uniform(random.key(0), n).double()
    counts = torch.histc(u, bins=100, min=0, max=1)
    chi2 = ((counts - n / 100) ** 2 / (n / 100)).sum().item()
    assert abs(chi2 - 99) / math.sqrt(2 * 99) < 5
    for other in (
        random.key(1),
        random.fold_in(random.key(0), 0),
        random.split(random.key(0), 2)[1],
    ):
        v = random.uniform(other, n).double()
        assert abs(((u - 0.5) * (v - 0.5)).mean().item()) * 12 * math.sqrt(n) < 5
    assert abs(((u[1:] - 0.5) * (u[:-1] - 0.5)).mean().item()) * 12 * math.sqrt(n) < 5


def test_normals_have_the_moments_of_a_normal():
    n = 1_000_000
    z = random.normal(random.key(0), n).double()
    for power, mean, deviation in (
        (1, 0.0, 1.0),
        (2, 1.0, math.sqrt(2)),
        (3, 0.0, math.sqrt(15)),
        (4, 3.0, math.sqrt(96)),
    ):
        assert abs((z**power).mean().item() - mean) * math.sqrt(n) / deviation < 5
    assert abs((z[0::2] * z[1::2]).mean().item()) * math.sqrt(n / 2) < 5


def test_threads_draw_what_one_thread_draws():
    keys = list(random.split(random.key(6), 32))
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda key: random.uniform(key, 50_000), keys))
    assert all(
        torch.equal(draw, random.uniform(key, 50_000))
        for key, draw in zip(keys, drawn, strict=True)
    )


def test_empty_draws_have_their_shape():
    assert random.uniform(random.key(0), (0, 3)).shape == (0, 3)
    assert random.uniform(random.split(random.key(0), 0), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: random.key(2**64), ValueError, "one 64-bit word"),
        (lambda: random.key(0.5), TypeError, "integer"),
        (
            lambda: random.fold_in(random.key(0), 2**70),
            ValueError,
            "number for fold_in is one 64-bit word",
        ),
        (
            lambda: random.uniform(torch.zeros(2), 3),
            TypeError,
            r"int64 tensor of shape \(2,\).*float32",
        ),
        (lambda: random.uniform(7, 3), TypeError, r"got int\. Make one with l0func.random.key"),
        (
            lambda: random.uniform(torch.zeros(3, dtype=torch.int64), 3),
            ValueError,
            r"shape \(2,\).*got \(3,\)",
        ),
        (lambda: random.uniform(random.key(0), (2, -1)), ValueError, "at least 0"),
        (lambda: random.split(random.key(0), -1), ValueError, "at least 0; got -1"),
        (lambda: random.fold_in(random.key(0), torch.tensor(0.5)), TypeError, "integer"),
    ],
)
def test_bad_keys_and_shapes_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
