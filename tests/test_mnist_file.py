"""The reproductions read MNIST and nothing else, and say where to get it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parent.parent / "examples" / "reproduce" / "mnist.py"


@pytest.fixture
def mnist(monkeypatch, tmp_path):
    found = importlib.util.spec_from_file_location("mnist", FILE)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    monkeypatch.delenv("MNIST", raising=False)
    monkeypatch.setattr(module, "CACHES", (str(tmp_path / "cache.npz"),))
    return module.mnist


def other(path: Path) -> Path:
    images, labels = np.zeros((60000, 28, 28), np.uint8), np.zeros(60000, np.uint8)
    np.savez_compressed(
        path, x_train=images, y_train=labels, x_test=images[:10000], y_test=labels[:10000]
    )
    return path


def test_nothing_anywhere_says_where_to_get_it(mnist):
    with pytest.raises(
        FileNotFoundError, match=r"(?s)is in none of .*cache\.npz.*https://.*--data"
    ):
        mnist()


def test_a_path_that_is_not_there_is_named(mnist, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere\.npz.*https://"):
        mnist(tmp_path / "nowhere.npz")
    monkeypatch.setenv("MNIST", str(tmp_path / "variable.npz"))
    with pytest.raises(FileNotFoundError, match=r"variable\.npz"):
        mnist()


def test_other_images_of_the_same_shape_are_not_mnist(mnist, tmp_path):
    with pytest.raises(ValueError, match=r"x_train in .* is not MNIST's: its SHA-256 is"):
        mnist(other(tmp_path / "cache.npz"))


def test_a_truncated_file_is_refused(mnist, tmp_path):
    whole = other(tmp_path / "whole.npz").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "part.npz").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated or not MNIST"):
            mnist(tmp_path / "part.npz")


def test_a_folder_of_truncated_idx_files_is_refused(mnist, tmp_path):
    begin = b"\x00\x00\x08\x03"
    for content in (
        b"",
        begin[:3],
        begin + b"\x00\x00\xea\x60",
        begin + 3 * b"\x00\x00\x00\x1c" + b"\x00",
    ):
        (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(ValueError, match="truncated or not MNIST"):
            mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    with pytest.raises(ValueError, match="truncated or not MNIST"):
        mnist(tmp_path)
