"""safetensors files: named tensors and metadata, written and read, with digests of both.

The file formats of networks and of training states build on these two functions. Other readers of
safetensors files read them too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from io import FileIO
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.files import digests, header, tensor_bytes
from l0func.files.header import Header
from l0func.files.places import PathLike, shown_path
from l0func.files.reader import reading
from l0func.files.tensor_bytes import Piece
from l0func.files.writer import replacing

_EARLIER_COPY = "Take an earlier copy of the file."


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        name: The metadata's ``"format"``.
        fields: Other names that the metadata have.
        otherwise: The thing that a file with another format is not, for a message.
        hint: The next step for such a file.
        check: A function that raises a ValueError if the metadata are not valid.
    """

    name: str
    fields: tuple[str, ...]
    otherwise: str
    hint: str
    check: Callable[[Mapping[str, str]], object]


class FileContents(NamedTuple):
    """A file's metadata and tensors, and whether digests vouch for them."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]
    vouched: bool


def write_tensors(path: PathLike, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata to a safetensors file.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: A tensor cannot be written, or something else than a file stands at the path.
        OSError: The file cannot be written.
    """
    for name, t in tensors.items():
        tensor_bytes.check_can_be_written(name, t)
    plan = Header(metadata, header.laid_out(tensors))
    found = dict.fromkeys(tensors, digests.NO_DIGEST)
    start = len(header.encoded(digests.sealed(plan, found)))
    piece = Piece.new()
    with replacing(path) as file:
        for name, entry in plan.entries.items():
            file.seek(start + entry.begin)
            found[name] = tensor_bytes.write(file, tensors[name], piece)
        # The digests are known last, and stand first.
        file.seek(0)
        file.write(header.encoded(digests.sealed(plan, found)))


def read_tensors(path: PathLike, kind: Format) -> FileContents:
    """Read the metadata and the tensors of a safetensors file.

    Args:
        path: The file.
        kind: The format that it must have.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: The file is not whole or not as it was saved, has another format, or is no
            regular file.
        OSError: The file does not exist, or cannot be read.
    """
    with reading(path) as file:
        name = shown_path(path)
        head = _read_header(file, name)
        _check_format(name, head.metadata, kind)
        expected = _digests_in(name, head, kind)
        tensors = _read_all(file, head, expected, name)
    return FileContents(head.metadata, tensors, expected is not None)


def warn_unless_vouched(name: str, contents: FileContents) -> None:
    """Warn the caller's caller about a file without digests, once it has been accepted."""
    if not contents.vouched:
        warnings.warn(
            f"{name} has no digests, since an earlier version or another program wrote it: damage "
            "to it goes unnoticed. Save it again to protect it.",
            stacklevel=3,
        )


def _read_header(file: FileIO, name: str) -> Header:
    rest = os.fstat(file.fileno()).st_size - header.LENGTH_BYTES
    try:
        length = int.from_bytes(_read_bytes(file, header.LENGTH_BYTES), "little")
        header.check_length(length, rest)
        return header.decoded(_read_bytes(file, length), rest - length)
    except EOFError:
        raise ValueError(f"{name} is not a whole safetensors file: it ends too early.") from None
    except ValueError as error:
        raise ValueError(f"{name} is not a whole safetensors file: {error}.") from None


def _read_bytes(file: FileIO, count: int) -> bytes:
    room = bytearray(count)
    tensor_bytes.fill(file, memoryview(room))
    return bytes(room)


def _check_format(name: str, metadata: Mapping[str, str], kind: Format) -> None:
    found = metadata.get("format", "nothing")
    if found != kind.name:
        raise ValueError(
            f"{name} {kind.otherwise}: its metadata says {found!r}, not {kind.name!r}. {kind.hint}"
        )
    for field in kind.fields:
        if field not in metadata:
            raise ValueError(f"{name} {kind.otherwise}: its metadata lacks {field!r}.")


def _digests_in(name: str, head: Header, kind: Format) -> dict[str, str] | None:
    try:
        return digests.digests_in(head)
    except ValueError as error:
        rule = _broken_rule(head, kind)
        raise ValueError(f"{name} is damaged: {error}{rule}. {_EARLIER_COPY}") from None


def _broken_rule(head: Header, kind: Format) -> str:
    """The fault of the metadata beside their digest; empty if they are valid."""
    try:
        kind.check(head.metadata)
    except ValueError as error:
        return f". {str(error).rstrip('.')}"
    return ""


def _read_all(
    file: FileIO, head: Header, expected: Mapping[str, str] | None, name: str
) -> dict[str, Tensor]:
    """The tensors behind a header, each compared with its digest."""
    start = file.tell()
    tensors: dict[str, Tensor] = {}
    for tensor, entry in head.entries.items():
        file.seek(start + entry.begin)
        try:
            tensors[tensor], found = tensor_bytes.read(file, entry)
        except EOFError:
            raise ValueError(
                f"{name} is not a whole safetensors file: it ends within {tensor!r}."
            ) from None
        if expected is not None and expected[tensor] != found:
            raise ValueError(
                f"{name} is damaged: the numbers of {tensor!r} are not those that were saved. "
                f"{_EARLIER_COPY}"
            )
        _check_bools(name, tensor, tensors[tensor])
    return tensors


def _check_bools(name: str, tensor: str, t: Tensor) -> None:
    """Refuse a bool that is neither 0 nor 1; torch computes nonsense with it."""
    if t.dtype != torch.bool or not t.numel():
        return
    if int(t.view(torch.uint8).max()) > 1:
        raise ValueError(f"{name} is damaged: {tensor!r} has bools that are neither 0 nor 1.")
