"""The list of a checkpoint's parts: a pickle in which only the list's own types may stand.

A folder may be hostile, and its digest is no signature. So nothing of the pickle is called but the
constructors in a table, and what it says is compared with the folder's files.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import torch

_METADATA = "torch.distributed.checkpoint.metadata"
_OWN_TYPES = {
    _METADATA: (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
}
_PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
# An index into the unpickler's memory allocates up to it. Python writes no such index.
_INDEXED = ("PUT", "LONG_BINPUT")


class _ListUnpickler(pickle.Unpickler):
    """Finds a list's own types, torch's dtypes and paths, and nothing else."""

    def find_class(self, module: str, name: str, /) -> Any:
        if name in _OWN_TYPES.get(module, ()):
            return super().find_class(module, name)
        if module.partition(".")[0] == "pathlib" and name in _PATHS:
            return PurePath
        dtype = vars(torch).get(name) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        raise ValueError(f"it names {f'{module}.{name}'[:80]!r}, which no list of parts has")


def parts_list(folder: Path, pickled: bytes) -> Any:
    """The list of a checkpoint's parts, as the engine's ``Metadata``.

    Args:
        folder: The checkpoint's folder.
        pickled: The bytes of the list.

    Raises:
        ValueError: The bytes are no list, or it does not fit the folder's files.
    """
    try:
        found = _unpickled(pickled)
        _check_places(folder, found)
    except Exception as error:
        # A hostile pickle may fail in any way.
        raise ValueError(f"{type(error).__name__}: {str(error)[:200].rstrip('.')}") from None
    return found


def _unpickled(pickled: bytes) -> Any:
    for operation, _, _ in pickletools.genops(pickled):
        if operation.name in _INDEXED:
            raise ValueError("it has an operation that no list of parts has")
    return _ListUnpickler(BytesIO(pickled)).load()


def _check_places(folder: Path, found: Any) -> None:
    """Refuse parts out of the folder, and tensors with more bytes than its files."""
    sizes: dict[str, int] = {}
    for place in found.storage_data.values():
        name = place.relative_path
        if type(name) is not str or Path(name).name != name:
            raise ValueError(f"a part stands in {name!r}, outside of the folder")
        if name not in sizes:
            sizes[name] = (folder / name).stat().st_size
        numbers = (place.offset, place.length)
        if any(type(number) is not int for number in numbers) or min(numbers) < 0:
            raise ValueError(f"a part of {name} begins at {numbers[0]!r}: no place in a file")
        if sum(numbers) > sizes[name]:
            raise ValueError(f"a part of {name} ends behind the file")
    room = sum(sizes.values())
    for name, record in found.state_dict_metadata.items():
        _check_record(name, record, room)


def _check_record(name: str, record: Any, room: int) -> None:
    shape = getattr(record, "size", None)
    if type(name) is not str or not isinstance(shape, torch.Size):
        raise ValueError(f"{name!r} is no tensor")
    dtype = record.properties.dtype
    if not isinstance(dtype, torch.dtype) or str(dtype).startswith("torch.q"):
        raise ValueError(f"{name!r} has the dtype {str(dtype)[:80]}, which no checkpoint has")
    # Strides multiply the sizes beside a 0 too.
    size = math.prod(max(item, 1) for item in shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > max(room, 8):
        raise ValueError(f"{name!r} has the shape {tuple(shape)}, and the files {room} bytes")
