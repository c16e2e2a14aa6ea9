"""The files of a checkpoint in a folder: written and read by ``torch.distributed.checkpoint``.

Each tensor's part is a zip archive with checksums, which torch does not compare: this module does.
The list of all parts is a pickle, and has its digest in a file of its own; nothing that stands in
it is run (``train/shard_list``).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l0func.files.writer import replacing
from l0func.internal.torch_version import distributed_tensor
from l0func.internal.turns import ignoring, turns
from l0func.internal.untyped import untyped
from l0func.train.shard_list import parts_list

_LIST = ".metadata"
_DIGEST = ".metadata.sha256"
_SETTING = turns()
"""The turns of torch's setting for checksums."""


def is_complete(folder: Path) -> bool:
    """Whether a folder has a checkpoint that all processes ended."""
    return (folder / _LIST).exists() and (folder / _DIGEST).exists()


def write_parts(folder: Path, leaves: dict[str, Any]) -> None:
    """Write this process's part of a checkpoint.

    Args:
        folder: The checkpoint's folder.
        leaves: The tensors of all processes, by name.

    Raises:
        OSError: A process could not write; all processes raise it.
    """
    writer = _sealing_writer()(folder)
    try:
        with _SETTING, _checksums():
            _quietly(_engine().save, leaves, storage_writer=writer)
    except _engine().CheckpointException as error:
        raise OSError(
            f"The checkpoint in {folder} could not be written, and does not count: "
            f"{_first_failure(error)}."
        ) from None


def read_parts(folder: Path, wanted: dict[str, Any]) -> None:
    """Read a checkpoint's values into tensors.

    Args:
        folder: The checkpoint's folder.
        wanted: Empty tensors, by name; each is a whole tensor or a DTensor.

    Raises:
        ValueError: A process found its part missing or changed; all processes raise it.
    """
    reader = _checked_reader()(folder)
    try:
        _quietly(_engine().load, wanted, storage_reader=reader)
    except _engine().CheckpointException as error:
        raise ValueError(_damage(folder, _first_failure(error))) from None


def saved_shapes(folder: Path) -> dict[str, Tensor]:
    """The tensors in a checkpoint, without their values.

    Raises:
        ValueError: The list of them is damaged.
    """
    metadata = _metadata_of_parts(folder)
    found: dict[str, Tensor] = {}
    for name, record in metadata.state_dict_metadata.items():
        properties = getattr(record, "properties", None)
        if properties is not None:
            found[name] = torch.empty(record.size, dtype=properties.dtype, device="meta")
    return found


def _metadata_of_parts(folder: Path) -> Any:
    _engine()
    pickled = (folder / _LIST).read_bytes()
    if _seal_of(pickled) != (folder / _DIGEST).read_bytes():
        raise ValueError(_damage(folder, f"its {_LIST} is not what was written"))
    try:
        return parts_list(folder, pickled)
    except ValueError as error:
        raise ValueError(_damage(folder, f"its {_LIST} is no list of parts: {error}")) from None


def _seal_of(pickled: bytes) -> bytes:
    return hashlib.sha256(pickled).hexdigest().encode()


def _damage(folder: Path, cause: str) -> str:
    return f"The checkpoint in {folder} is damaged: {cause}. Load an earlier one."


def _engine() -> Any:
    distributed_tensor()
    return import_module("torch.distributed.checkpoint")


def _quietly(call: Any, leaves: dict[str, Any], **where: Any) -> None:
    # A run without a group is meant to be one process; the engine warns of it. A list without its
    # digest is no checkpoint yet: it may be overwritten.
    with ignoring(UserWarning, ".*single process|Detected an existing"):
        call(leaves, **where)


def _first_failure(error: Any) -> str:
    """The failure of one process, in a line."""
    rank, (cause, _) = min(error.failures.items())
    text = str(cause).rstrip(".") or "without a message"
    return f"process {rank} says {type(cause).__name__}: {text}"


@contextmanager
def _checksums() -> Generator[None]:
    """Let torch.save write checksums, also where a user has turned them off."""
    options = untyped.serialization
    before = options.get_crc32_options()
    options.set_crc32_options(True)
    try:
        yield
    finally:
        options.set_crc32_options(before)


def _sealing_writer() -> Any:
    """The engine's writer of files, which ends with the digest of the list."""
    base: Any = _engine().FileSystemWriter

    class SealingWriter(base):
        def write_data(self, *plans: Any) -> Any:
            parent: Any = super()
            try:
                return parent.write_data(*plans)
            except RuntimeError as error:
                raise _first_cause(error) from None

        def finish(self, metadata: Any, results: Any) -> None:
            # In one process, once every process has written its part.
            parent: Any = super()
            parent.finish(metadata, results)
            folder = Path(self.path)
            # It syncs the folder too: a checkpoint that counts survives a power cut.
            with replacing(folder / _DIGEST) as file:
                file.write(_seal_of((folder / _LIST).read_bytes()))

    return SealingWriter


def _first_cause(error: BaseException) -> BaseException:
    """The system's error behind one of torch's archive, which speaks of positions only."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__context__
    return error


def _checked_reader() -> Any:
    """The engine's reader of files, with a look at the checksums of all parts that it reads."""
    base: Any = _engine().FileSystemReader

    class CheckedReader(base):
        def read_metadata(self, *args: Any, **settings: Any) -> Any:
            return _metadata_of_parts(Path(self.path))

        def read_data(self, plan: Any, planner: Any) -> Any:
            for item in plan.items:
                place = self.storage_data[item.storage_index]
                _check_part(Path(self.path) / place.relative_path, place, item.storage_index.fqn)
            parent: Any = super()
            return parent.read_data(plan, planner)

    return CheckedReader


def _check_part(file: Path, place: Any, name: str) -> None:
    with file.open("rb") as stream:
        stream.seek(place.offset)
        part = stream.read(place.length)
    try:
        with zipfile.ZipFile(BytesIO(part)) as archive:
            # torch.save compresses nothing; a small archive could unpack to a huge one.
            packed = any(info.compress_type for info in archive.infolist())
            broken = "a packed archive" if packed else archive.testzip()
    # A foreign archive fails in many ways: bad places, unknown methods, a password.
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        broken = "the archive"
    if broken is not None:
        raise ValueError(f"{name!r} in {file.name} is not what was written")
