"""The header of a safetensors file: names, dtypes, shapes and places of tensors, and metadata.

A file is 8 bytes with the header's length, the header in JSON, and the tensors' bytes without
gaps. See https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from l0func.internal import names
from l0func.internal.strict_json import parse, shown

LENGTH_BYTES = 8
# As in the safetensors library, which reads no longer header.
_LONGEST = 100_000_000

_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
# Older versions of torch lack some dtypes.
DTYPE_NAMES: dict[torch.dtype, str] = {
    getattr(torch, own): name for own, name in _NAMES.items() if hasattr(torch, own)
}
"""The format's name for each dtype that a file can hold."""

_OTHERS = {
    b"PK": "; it looks like a zip archive, such as torch.save writes",
    b"\x80": "; it looks like a pickle, and pickles are never read here",
    b"\x89HDF": "; it looks like an HDF5 file",
}

_STORED_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


class Entry(NamedTuple):
    """A tensor in a file: its dtype, its shape, and its bytes' place behind the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """A file's metadata, and an entry for each tensor."""

    metadata: dict[str, str]
    entries: dict[str, Entry]


def laid_out(tensors: Mapping[str, Tensor]) -> dict[str, Entry]:
    """A place for each tensor, without gaps; the dict keeps the tensors' order."""
    places: dict[str, Entry] = {}
    begin = 0
    # Wide numbers first, so that each begins at a multiple of its size.
    for name in sorted(tensors, key=lambda name: -tensors[name].element_size()):
        t = tensors[name]
        end = begin + t.numel() * t.element_size()
        places[name] = Entry(t.dtype, tuple(t.shape), begin, end)
        begin = end
    return {name: places[name] for name in tensors}


def encoded(header: Header) -> bytes:
    """The bytes of a header, with its length in front.

    Raises:
        ValueError: The header is longer than readers accept, or a name is no Unicode text.
    """
    record: dict[str, Any] = {"__metadata__": header.metadata}
    for name, entry in header.entries.items():
        place = [entry.begin, entry.end]
        dtype = DTYPE_NAMES[entry.dtype]
        record[name] = {"dtype": dtype, "shape": entry.shape, "data_offsets": place}
    text = _utf8(json.dumps(record, separators=(",", ":"), ensure_ascii=False))
    if len(text) > _LONGEST:
        raise ValueError(
            f"The names and the metadata take {len(text)} bytes; a safetensors file has at most "
            f"{_LONGEST}."
        )
    # Spaces up to a multiple of 8, so that the tensors begin there.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        start = max(error.start - 20, 0)
        raise ValueError(
            f"A file's names are Unicode text; near {text[start : error.end]!r} there is half of "
            "a character. Rename the tensor."
        ) from None


def check_length(length: int, rest: int) -> None:
    """Refuse a header that is longer than the file, or than any header.

    Args:
        length: The length that the file names, in its first bytes.
        rest: The number of bytes after these.

    Raises:
        ValueError: The length is impossible.
    """
    if length > min(rest, _LONGEST):
        first = length.to_bytes(LENGTH_BYTES, "little")
        kind = next((kind for start, kind in _OTHERS.items() if first.startswith(start)), "")
        raise ValueError(
            f"it has {rest} bytes after a number that promises a header of {length}{kind}"
        )


def decoded(text: bytes, room: int) -> Header:
    """The header behind its bytes.

    Args:
        text: The bytes, without the length in front.
        room: The number of bytes behind the header.

    Raises:
        ValueError: The bytes are no header, or the tensors do not fill the room exactly.
    """
    record = _table(parse(text), "the header")
    metadata = _table(record.pop("__metadata__", {}), "__metadata__")
    for name, value in metadata.items():
        if not isinstance(value, str):
            raise ValueError(f"metadata are texts; {shown(name)} is {shown(value)}")
    entries = {name: _entry(name, value) for name, value in record.items()}
    _check_filled(entries, room)
    return Header(metadata, entries)


def _table(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is a record; this is {shown(value)}")
    return cast("dict[str, Any]", value)


def _entry(name: str, value: Any) -> Entry:
    label = f"the tensor {shown(name)}"
    record = _table(value, label)
    if record.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{label} has a dtype, a shape and data_offsets, and nothing else")
    dtype = _dtype(label, record["dtype"])
    shape = _sizes_in_header(name, "shape", record["shape"])
    offsets = _sizes_in_header(name, "data_offsets", record["data_offsets"])
    if len(offsets) != 2:
        raise ValueError(f"{label} has {len(offsets)} data_offsets, not 2")
    begin, end = offsets
    size = math.prod(shape) * dtype.itemsize
    if end - begin != size:
        raise ValueError(
            f"{label} has {size} bytes by its shape and {end} - {begin} by its data_offsets"
        )
    return Entry(dtype, shape, begin, end)


def _dtype(label: str, kind: Any) -> torch.dtype:
    if isinstance(kind, str) and kind in _STORED_DTYPES:
        return _STORED_DTYPES[kind]
    near = names.closest(kind[:80], _STORED_DTYPES) if isinstance(kind, str) else ""
    raise ValueError(f"{label} has the unknown dtype {shown(kind)}{near}")


def _sizes_in_header(name: str, what: str, value: Any) -> tuple[int, ...]:
    """Integers from 0 on that a tensor could have as its sizes."""
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in items):
        found = shown(cast("Any", value))
        raise ValueError(f"the {what} of {shown(name)} has integers from 0 on; it is {found}")
    # Strides multiply the sizes beside a 0 too.
    if what == "shape" and math.prod(max(item, 1) for item in items) >= 2**58:
        raise ValueError(f"the {what} of {shown(name)} is larger than any tensor")
    return tuple(items)


def _check_filled(entries: Mapping[str, Entry], room: int) -> None:
    """Refuse gaps and overlaps between tensors, and bytes of no tensor."""
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            raise ValueError(
                f"the tensor {shown(name)} begins at byte {entry.begin}; the one before ends at "
                f"{place}"
            )
        place = entry.end
    if place != room:
        raise ValueError(f"its tensors have {place} bytes, and {room} bytes are there")
