"""MNIST from a file on disk, checked byte by byte; nothing is downloaded."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# SHA-256 of the four files of the original distribution, unpacked.
PARTS = {
    "x_train": (
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "y_train": (
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "x_test": (
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "y_test": (
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
CACHES = (
    "~/.keras/datasets/mnist.npz",
    "~/.cache/mnist.npz",
    "~/data/MNIST/raw",
    "./data/MNIST/raw",
    "./mnist.npz",
)
WHERE = (
    "Get mnist.npz from https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz, or "
    "the four idx files from "
    "https://ossci-datasets.s3.amazonaws.com/mnist/, and name the file or the folder with --data "
    "or in the environment "
    "variable MNIST."
)


def mnist(path: str | os.PathLike[str] | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train images, train labels, test images, test labels.

    Images are float32 of shape (N, 784) in [0, 1], labels are int64.

    Args:
        path: An npz file or a folder of idx files, gzipped or not; None looks at the variable
            MNIST and at the usual caches.

    Raises:
        FileNotFoundError: There is nothing; the message says where to get it.
        ValueError: What is there is truncated, or is not MNIST.
    """
    place = _place(path)
    x, y, x_test, y_test = (_tensor(_part(place, name)) for name in PARTS)
    return x, y, x_test, y_test


def _place(path: str | os.PathLike[str] | None) -> Path:
    named = path or os.environ.get("MNIST")
    if named:
        place = Path(named).expanduser()
        if not place.exists():
            raise FileNotFoundError(f"There is no {place}. {WHERE}")
        return place
    for cache in CACHES:
        if Path(cache).expanduser().exists():
            return Path(cache).expanduser()
    raise FileNotFoundError(f"MNIST is in none of {', '.join(CACHES)}. {WHERE}")


def _part(place: Path, name: str) -> np.ndarray:
    file, digest = PARTS[name]
    try:
        array = _from_npz(place, name) if place.is_file() else _from_idx(place, file)
    except (
        OSError,
        EOFError,
        LookupError,
        ValueError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{place} is truncated or not MNIST: reading {name} failed with {error!r}. {WHERE}"
        ) from None
    kind = 0x801 if array.ndim == 1 else 0x803
    header = struct.pack(f">{1 + array.ndim}I", kind, *array.shape)
    found = hashlib.sha256(header + array.tobytes()).hexdigest()
    if array.dtype != np.uint8 or found != digest:
        raise ValueError(
            f"{name} in {place} is not MNIST's: its SHA-256 is {found}, not {digest}. {WHERE}"
        )
    return array


def _from_npz(place: Path, name: str) -> np.ndarray:
    # numpy leaves a file open that it could not read.
    with place.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays[name]


def _from_idx(folder: Path, file: str) -> np.ndarray:
    packed = folder / f"{file}.gz"
    data = (
        gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / file).read_bytes()
    )
    rank = data[3]
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _tensor(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array.copy())
    return tensor.flatten(1).float() / 255 if tensor.dim() == 3 else tensor.long()
