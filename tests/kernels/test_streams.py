"""Keys and draws of many streams: every backend has the bits of the plain definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import l0func as l0
from l0func import random
from l0func.kernels import by_torch, loading, philox
from l0func.kernels.by_torch_streams import BLOCK

BACKENDS = ["eager", "compiled"]
COUNTS = [
    (5,),
    (0,),
    (4 * BLOCK - 1,),
    (6 * BLOCK + 3,),
    (0, 3, 0, 1, 2048, 2049, 4095, 0),
    (1,) * 40,
    (300_001, 7),
]


@pytest.fixture(params=BACKENDS, autouse=True)
def _backend(request):
    if request.param == "compiled" and loading.load_kernels("numba").kernels is None:
        pytest.skip("this platform has no numba")
    l0.use_kernel(request.param)


def defined(key: Tensor, count: int) -> Tensor:
    """Uniforms as the definition has them: one word after another."""
    return philox.unit(philox.words(key, -(-count // 4))).flatten()[:count]


@pytest.mark.parametrize("counts", COUNTS)
def test_many_streams_at_once_have_the_draws_of_each(counts):
    keys = random.split(random.split(random.key(2), 3), len(counts))
    draws = random.uniforms(keys, [(count,) for count in counts])
    for g, count in enumerate(counts):
        assert draws[g].shape == (3, count)
        for row in range(3):
            assert torch.equal(draws[g][row], defined(keys[row, g], count))


def test_no_stream_and_no_key_draw_nothing():
    empty = torch.empty(0, 2, dtype=torch.int64)
    assert random.uniforms(empty, []) == []
    assert random.uniform(empty, (3, 2)).shape == (0, 3, 2)
    assert random.normal(empty, 5).shape == (0, 5)
    assert random.split(empty, 3).shape == (0, 3, 2)
    assert random.split(random.key(0), 0).shape == (0, 2)
    assert random.fold_in(empty, torch.empty(0, dtype=torch.int64)).shape == (0, 2)


@pytest.mark.parametrize("start", [2**31, 2**33, 2**62, -1, -(2**63)])
def test_streams_reach_positions_beyond_31_33_and_64_bits(start):
    # The offset counts calls; it goes on at 0 after 2**64 - 1.
    keys = torch.tensor([[7, start - 3 if start > -(2**62) else start], [-5, start]])
    u, z = random.uniform(keys, 4001), random.normal(keys, 4001)
    for row in range(2):
        assert torch.equal(u[row], defined(keys[row], 4001))
        assert torch.equal(z[row], by_torch.normals(keys[row], 4001))


def test_a_later_part_of_a_stream_is_the_stream_from_there():
    whole = random.uniform(random.key(3), 3_000_000)
    later = random.key(3) + torch.tensor([0, 500_000])
    assert torch.equal(random.uniform(later, 1_000_000), whole[2_000_000:])


@pytest.mark.parametrize(
    ("keys_shape", "data_shape"),
    [
        ((), (6,)),
        ((3, 2), ()),
        ((3, 1), (4,)),
        ((3, 2), (5, 1, 2)),
        ((1,), (0,)),
        ((2, 3), (2, 3)),
    ],
)
def test_numbers_fold_into_batches_of_keys_as_one_by_one(keys_shape, data_shape):
    size = torch.Size(keys_shape).numel()
    keys = random.split(random.key(4), size).reshape(*keys_shape, 2)
    data = torch.arange(-3, -3 + torch.Size(data_shape).numel()).reshape(data_shape) * 2**61
    folded = random.fold_in(keys, data)
    shape = torch.broadcast_shapes(keys_shape, data_shape)
    assert folded.shape == (*shape, 2)
    alone = zip(keys.expand(*shape, 2).reshape(-1, 2), data.expand(shape).reshape(-1), strict=True)
    found = [philox.folded(int(k[0]), int(k[1]), int(d)) for k, d in alone]
    assert folded.reshape(-1, 2).tolist() == [list(pair) for pair in found]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_numbers_of_any_integer_type_fold_as_their_values(dtype):
    numbers = torch.arange(5, dtype=dtype)
    assert torch.equal(random.fold_in(random.key(1), numbers), random.split(random.key(1), 5))


@pytest.mark.parametrize("draw", [random.uniform, random.normal, random.split])
@pytest.mark.parametrize(
    "view",
    [
        lambda k: k[::2],
        lambda k: k.flip(0),
        lambda k: k[1:2].expand(4, 2),
        lambda k: k.T.contiguous().T,
        lambda k: torch.nn.Parameter(k, requires_grad=False),
    ],
    ids=["strided", "flipped", "expanded", "transposed", "parameter"],
)
def test_keys_of_any_layout_draw_what_their_copies_draw(draw, view):
    keys = view(random.split(random.key(5), 6))
    assert torch.equal(draw(keys, 9), draw(keys.detach().clone().contiguous(), 9))


def test_the_keys_stay_as_they_were():
    keys = random.split(random.key(5), 6)
    before = keys.clone()
    random.uniform(keys, 9), random.normal(keys, 9), random.split(keys), random.fold_in(keys, 3)
    assert torch.equal(keys, before)


def test_on_the_meta_device_draws_have_shapes_and_no_values():
    keys = random.split(random.key(5), 6).to("meta")
    for draw in (random.uniform(keys, (2, 3)), random.normal(keys, (2, 3))):
        assert draw.device.type == "meta"
        assert draw.shape == (6, 2, 3)
    assert random.split(keys, 4).shape == (6, 4, 2)
    assert random.fold_in(keys, 2).shape == (6, 2)


@pytest.mark.on_cpu
def test_a_default_device_moves_no_draw():
    expected = random.uniform(random.key(5), 3_000_000)
    torch.set_default_device("meta")
    try:
        key = torch.tensor([5, 0], device="cpu")
        assert torch.equal(random.uniform(key, 3_000_000), expected)
        assert torch.equal(random.uniform(key, 3), expected[:3])
        assert random.split(key, 3).device.type == "cpu"
    finally:
        torch.set_default_device(None)


def test_normals_have_the_bits_of_a_twin_in_float64():
    z = random.normal(random.key(6), 400_000)
    assert torch.equal(z, by_torch.normals(random.key(6), 400_000))


def test_results_do_not_depend_on_threads():
    keys = random.split(random.key(7), 2)
    before = torch.get_num_threads()
    drawn = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        drawn.append((random.uniform(keys, 1_500_001), random.normal(keys[0], 2_100_003)))
    torch.set_num_threads(before)
    for uniforms, normals in drawn[1:]:
        assert torch.equal(uniforms, drawn[0][0])
        assert torch.equal(normals, drawn[0][1])
