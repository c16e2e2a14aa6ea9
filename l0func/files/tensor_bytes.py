"""The bytes of tensors, in pieces: to a file, or from one, with the digest of all of them."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from io import FileIO
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from l0func.files.header import DTYPE_NAMES, Entry
from l0func.internal.untyped import loose, untyped

# A piece stays in a processor's cache between its arrival and its digest.
_PIECE = 2**18


class Piece(NamedTuple):
    """Room for some bytes, as a buffer for Python and as a tensor for torch."""

    buffer: memoryview
    tensor: Tensor

    @staticmethod
    def new() -> Piece:
        """An empty piece."""
        room = bytearray(_PIECE)
        return Piece(memoryview(room), untyped.frombuffer(room, dtype=torch.uint8))


def check_can_be_written(name: str, t: Tensor) -> None:
    """Refuse a tensor without bytes of its own, or with bytes that no file format names.

    Raises:
        ValueError: The tensor is sparse, quantised, nested, distributed, on meta, inside a
            transform, or has a dtype that a safetensors file cannot hold.
    """
    reason = _obstacle(t)
    if reason:
        raise ValueError(f"A file holds plain dense tensors; {name!r} {reason}.")


def _obstacle(t: Tensor) -> str:
    """Why the tensor cannot be written, and the next step; empty if it can."""
    plain = loose(t)
    if untyped._C._functorch.is_functorch_wrapped_tensor(t):
        return "is inside torch.func or torch.vmap: return it from the mapped function and save it"
    if hasattr(t, "__tensor_flatten__"):
        return f"is a {type(t).__name__}: give the plain tensor that it stands for"
    if plain.is_nested:
        return "is nested: give its parts, one tensor each"
    if t.layout != torch.strided:
        return f"has the layout {t.layout}: give its to_dense()"
    if t.is_quantized:
        return f"is {t.dtype}: give its dequantize(), or its int_repr() and scales"
    if plain.is_meta or hasattr(t, "fake_mode"):
        return f"is on {t.device} without values: give the tensor that it stands for"
    if t.dtype not in DTYPE_NAMES:
        return f"is {t.dtype}, which safetensors cannot hold: give another dtype" + (
            ", or torch.view_as_real of it" if t.is_complex() else ""
        )
    return ""


def write(file: BinaryIO, t: Tensor, piece: Piece) -> str:
    """Write a tensor's bytes at the file's position.

    A piece is copied, digested and written. So a thread that changes the tensor meanwhile cannot
    make the digest wrong.

    Returns:
        The SHA-256 of the bytes, in hexadecimal.
    """
    digest = hashlib.sha256()
    own = _bytes_of(loose(t.detach()).resolve_conj().resolve_neg())
    for begin in range(0, own.numel(), _PIECE):
        part = own[begin : begin + _PIECE]
        piece.tensor[: part.numel()].copy_(part)
        digest.update(piece.buffer[: part.numel()])
        file.write(piece.buffer[: part.numel()])
    return digest.hexdigest()


def read(file: FileIO, entry: Entry) -> tuple[Tensor, str]:
    """Read a tensor from the file's position.

    Returns:
        The tensor, and the SHA-256 of its bytes in hexadecimal.

    Raises:
        EOFError: The file ends within the tensor.
    """
    digest = hashlib.sha256()
    own = torch.empty(entry.end - entry.begin, dtype=torch.uint8, device="cpu")
    for begin in range(0, own.numel(), _PIECE):
        part = _memory_view(own[begin : begin + _PIECE])
        fill(file, part)
        digest.update(part)
    t = _swapped(own, entry.dtype).view(entry.dtype).reshape(entry.shape)
    return t, digest.hexdigest()


def _memory_view(own: Tensor) -> memoryview:
    """The memory of some bytes on the CPU, which must outlive the view."""
    room = ctypes.c_char * own.numel()
    return memoryview(room.from_address(own.data_ptr())).cast("B")


def _bytes_of(t: Tensor) -> Tensor:
    """The tensor's bytes, in the order of the format: the lowest byte of a number first."""
    flat = t.contiguous().reshape(-1)
    return _swapped(flat.view(torch.uint8), t.dtype)


def _swapped(own: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes in the order of this machine from those of the format, or the reverse."""
    if sys.byteorder == "little":
        return own
    width = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    return own.reshape(-1, width).flip(1).reshape(-1)


def fill(file: FileIO, buffer: memoryview) -> None:
    """Fill a buffer from the file's position on.

    Raises:
        EOFError: The file ends before.
    """
    # A read may return less than was asked for.
    while buffer:
        count = file.readinto(buffer)
        if not count:
            raise EOFError
        buffer = buffer[count:]
