"""The format, beside the safetensors library: each reads what the other wrote, bit for bit."""

from __future__ import annotations

import pytest
import torch
from device import seeded_generator
from nets import BUFFERS, GATES, KINDS, PARAMS, SPEC, same
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import l0func as l0
from l0func.files.header import DTYPE_NAMES
from l0func.files.storage import Format, read_tensors, write_tensors

library = pytest.importorskip("safetensors.torch")
FORMAT = Format("test", (), "is no test", "", dict)
every_dtype = pytest.mark.parametrize("dtype", DTYPE_NAMES, ids=str)


def of_bytes(dtype: torch.dtype, *shape: int) -> Tensor:
    """Every pattern of bits: NaNs with payloads, infinities, negative zeros."""
    size = torch.Size(shape).numel() * dtype.itemsize
    top = 2 if dtype == torch.bool else 256
    generator = seeded_generator(size)
    raw = torch.randint(0, top, (size,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def bits(t: Tensor) -> tuple:
    return t.dtype, tuple(t.shape), t.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def read(path):
    return read_tensors(path, FORMAT).tensors


@every_dtype
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 4)], ids=str)
def test_each_dtype_and_shape_is_read_by_the_library_and_the_reverse(dtype, shape, tmp_path):
    tensors = {"t": of_bytes(dtype, *shape), "after": torch.ones(3)}
    path = tmp_path / "t"
    write_tensors(path, tensors, {"format": "test"})
    expected = {name: bits(t) for name, t in tensors.items()}
    assert {name: bits(t) for name, t in read(path).items()} == expected
    try:
        library.save_file(tensors, tmp_path / "theirs", metadata={"format": "test"})
    except (KeyError, AttributeError):
        pytest.skip("this version of the library does not know the dtype")
    assert {name: bits(t) for name, t in library.load_file(path).items()} == expected
    assert {name: bits(t) for name, t in read(tmp_path / "theirs").items()} == expected


def transposed():
    return torch.arange(12.0).reshape(3, 4).t()


def expanded():
    return torch.ones(1).expand(5)


def conjugated():
    return torch.tensor([1 + 2j, 3 - 1j]).conj()


def negated():
    return torch.tensor([1 + 2j, 3 - 1j]).conj().imag


def strided():
    return torch.arange(10)[::3]


def with_history():
    return torch.ones(3, requires_grad=True) * 2


def a_parameter():
    return nn.Parameter(torch.ones(2, 2))


def in_channels_last():
    return torch.arange(16.0).reshape(1, 2, 2, 4).to(memory_format=torch.channels_last)


def larger_than_a_piece():
    return torch.arange(500_001, dtype=torch.int32)


VIEWS = [
    transposed,
    expanded,
    conjugated,
    negated,
    strided,
    with_history,
    a_parameter,
    in_channels_last,
    larger_than_a_piece,
]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_a_view_is_written_as_its_values(view, tmp_path):
    t = view()
    write_tensors(tmp_path / "t", {"t": t}, {"format": "test"})
    found = read(tmp_path / "t")["t"]
    assert type(found) is Tensor
    assert found.dtype == t.dtype
    assert torch.equal(found, t.detach().resolve_conj().resolve_neg())
    assert torch.equal(library.load_file(tmp_path / "t")["t"], found)


def test_tied_tensors_and_views_of_one_storage_are_written_apart(tmp_path):
    shared = torch.arange(4.0)
    write_tensors(tmp_path / "t", {"a": shared, "b": shared, "c": shared[1:]}, {"format": "test"})
    found = read(tmp_path / "t")
    found["a"].zero_()
    assert found["b"].tolist() == [0, 1, 2, 3]
    assert found["c"].tolist() == [1, 2, 3]


def test_the_order_of_tensors_is_kept_whatever_their_dtypes(tmp_path):
    names = ["b", "a", "0", "z", "m"]
    kinds = [torch.uint8, torch.float64, torch.bool, torch.float32, torch.int16]
    tensors = {name: of_bytes(dtype, 3) for name, dtype in zip(names, kinds, strict=True)}
    write_tensors(tmp_path / "t", tensors, {"format": "test"})
    assert list(read(tmp_path / "t")) == names


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_file_that_the_library_wrote_again_is_the_same_file(kind, tmp_path):
    kind.save(tmp_path / "net")
    with pytest.importorskip("safetensors").safe_open(tmp_path / "net", "pt") as file:
        metadata = file.metadata()
    tensors = library.load_file(tmp_path / "net")
    library.save_file(tensors, tmp_path / "again", metadata=metadata)
    found, expected = kind.load(tmp_path / "again"), kind.load(tmp_path / "net")
    assert same(dict(sorted(found.items())), dict(sorted(expected.items())))
    library.save_file(tensors | {"params/new": torch.ones(1)}, tmp_path / "b", metadata=metadata)
    with pytest.raises(ValueError, match="b is damaged: its header is not the one that was saved"):
        kind.load(tmp_path / "b")


def a_sparse_one():
    return torch.eye(3).to_sparse()


def a_compressed_one():
    return torch.eye(3).to_sparse_csr()


def one_on_meta():
    return torch.ones(3, device="meta")


def a_fake_one():
    with FakeTensorMode():
        return torch.ones(3)


def a_nested_one():
    return torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])


def a_wide_complex_one():
    return torch.ones(3, dtype=torch.complex128)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (a_sparse_one, r"layout torch\.sparse_coo: give its to_dense"),
        (a_compressed_one, r"layout torch\.sparse_csr: give its to_dense"),
        (one_on_meta, "on meta without values"),
        (a_fake_one, "on cpu without values"),
        (a_nested_one, "nested: give its parts, one tensor each"),
        (a_wide_complex_one, r"torch\.complex128, which .* torch\.view_as_real"),
    ],
)
def test_a_tensor_that_a_file_cannot_hold_is_named(build, words, tmp_path):
    with pytest.raises(ValueError, match=rf"'extra/mine' (has the|is) {words}"):
        l0.save(tmp_path / "net", PARAMS, GATES, BUFFERS, SPEC, {"mine": build()})
    assert not list(tmp_path.iterdir())


def test_a_tensor_inside_a_transform_is_named(tmp_path):
    def row(x):
        l0.save(tmp_path / "net", PARAMS, GATES, BUFFERS, SPEC, {"x": x})
        return x

    with pytest.raises(ValueError, match=r"'extra/x' is inside torch\.func or torch\.vmap"):
        torch.vmap(row)(torch.ones(3))
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_text_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"near .*half\\ud800' there is half of a character"):
        l0.save(tmp_path / "net", PARAMS, GATES, BUFFERS, SPEC, {"half\ud800": torch.ones(1)})
    assert not list(tmp_path.iterdir())
