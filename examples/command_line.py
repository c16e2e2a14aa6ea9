"""Kinds of command-line options: each refuses what no run can use, before the run begins.

They are ``type=`` functions of argparse, which prints a refusal in one line, with the option.
"""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Number = TypeVar("Number", int, float)

ENDINGS = (".png", ".svg", ".pdf", ".jpg")


def number(
    convert: Callable[[str], Number], holds: Callable[[Number], bool], words: str
) -> Callable[[str], Number]:
    """Numbers of which a condition holds; ``words`` say which ones."""

    def parsed(text: str) -> Number:
        try:
            value = convert(text)
        except ValueError:
            pass
        else:
            if holds(value):
                return value
        raise ArgumentTypeError(f"{text!r} is not {words}")

    return parsed


def whole(least: int) -> Callable[[str], int]:
    """Whole numbers from ``least`` on."""
    return number(int, lambda n: n >= least, f"a whole number of at least {least}")


positive = number(float, lambda x: 0 < x < math.inf, "a positive number")
price = number(float, lambda x: 0 <= x < math.inf, "0 or a positive number")
fraction = number(float, lambda x: 0 < x <= 1, "a number above 0 and at most 1")


def file(text: str) -> Path:
    """A file that is there, or whose folder is there."""
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{text!r} is a folder; name a file, such as {path / 'name'}")
    if not path.parent.is_dir():
        raise ArgumentTypeError(f"there is no folder {str(path.parent)!r}; make it first")
    return path


def picture(text: str) -> Path:
    """A file that matplotlib can write."""
    path = file(text)
    if path.suffix.lower() not in ENDINGS:
        raise ArgumentTypeError(f"{text!r} does not end in one of {', '.join(ENDINGS)}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ArgumentTypeError(f"{text!r} cannot be written; name a file in a folder of yours")
    return path


def existing(text: str) -> Path:
    """A file that is there."""
    if not Path(text).is_file():
        raise ArgumentTypeError(f"there is no file {text!r}")
    return Path(text)


def mnist(text: str) -> Path:
    """MNIST: a file, or a folder of idx files."""
    from reproduce.mnist import WHERE

    if not Path(text).expanduser().exists():
        raise ArgumentTypeError(f"there is no {text!r}. {WHERE}")
    return Path(text)


def folder(text: str) -> Path:
    """A folder that is there, or that can be made."""
    path = Path(text)
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise ArgumentTypeError(f"{text!r} is no folder: {nearest} is a file")
    return path


def device(text: str) -> str:
    """A device that torch can use here."""
    try:
        torch.ones(1, device=text).tolist()
    except (RuntimeError, AssertionError, ImportError):
        raise ArgumentTypeError(f"torch has no {text!r} here; it has cpu") from None
    return text
