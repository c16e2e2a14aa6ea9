"""safetensors files: named tensors and metadata, written and read.

The file formats of networks and of training states build on these two functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from os import PathLike
from typing import Any

from torch import Tensor


def write_tensors(
    path: str | PathLike[str], tensors: Mapping[str, Tensor], metadata: dict[str, str]
) -> None:
    """Write tensors and metadata to a safetensors file.

    Raises:
        ImportError: safetensors is not installed.
    """
    # Contiguous copies: safetensors refuses views and tensors that share memory, such as expanded
    # or tied ones.
    copies = {name: t.detach().clone().contiguous() for name, t in tensors.items()}
    _library().save_file(copies, path, metadata=metadata)


def read_tensors(path: str | PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the metadata and the tensors of a safetensors file.

    Raises:
        ValueError: The file is not whole.
        ImportError: safetensors is not installed.
    """
    library = _library()
    base = import_module("safetensors")
    try:
        with base.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        return metadata, library.load_file(path)
    except base.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from None


def _library() -> Any:
    try:
        return import_module("safetensors.torch")
    except ImportError:
        raise ImportError("Files need safetensors: pip install 'l0func[files]'.") from None
