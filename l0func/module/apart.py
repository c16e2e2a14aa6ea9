"""Processes of one group that draw each for itself: their keys must differ.

With equal keys row i of every process would have the same masks, and nothing would show it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from l0func.internal.context import compiling, has_custom_operators
from l0func.internal.untyped import listed
from l0func.module.arrival import has_others, meet, note_rows

_NUMBERS = itertools.count()
_FOUND_APART: set[int] = set()
"""The numbers of keys that the processes have compared."""

_NOTED: set[int] = set()
"""The numbers of keys with which this process has passed rows."""


def next_key_number() -> int:
    """A number for a key, new in this process.

    Not the key's own words: all processes compare again after they load a checkpoint, and the
    one that saved it has the same key as before.
    """
    return next(_NUMBERS)


def apart(key: Tensor, number: int, has_rows: bool) -> Tensor:
    """A process's own key, once it is known that no other process has it.

    The first call for a number is one small collective: every process of the world takes part. A
    process whose rows have numbers leaves a note for the others, and waits for none.

    Args:
        key: The key, shape ``(2,)``.
        number: The number of the key in this process.
        has_rows: Whether the rows have numbers, so that keys may be equal.

    Returns:
        The key.

    Raises:
        ValueError: Two processes have the same; it is raised in all of them. Or only some pass
            rows; it is raised in those that do not.
    """
    if not has_others():
        return key
    if compiling():
        return _compare_in_graph(key, number, has_rows)
    _compare(key, number, has_rows)
    return key


def _compare(key: Tensor, number: int, has_rows: bool) -> None:
    done = _NOTED if has_rows else _FOUND_APART
    if number in done:
        return
    if has_rows:
        note_rows(key)
    else:
        meet(key)
        _compare_keys(key)
    done.add(number)


def _compare_keys(key: Tensor) -> None:
    distributed: Any = torch.distributed
    of_all: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(of_all, listed(key))
    _check_different(of_all)


def _check_different(of_all: Sequence[list[int]]) -> None:
    first: dict[tuple[int, ...], int] = {}
    for rank, words in enumerate(of_all):
        other = first.setdefault(tuple(words), rank)
        if other != rank:
            raise ValueError(
                f"Processes {other} and {rank} hold the same key, so that row i would have the "
                "same masks in both. Pass the global number of every row, net(x, rows=index), "
                "for the masks that one process would draw; or set the processes apart, by "
                "rank=torch.distributed.get_rank() or a seed for each."
            )


def _compared_key(key: Tensor, number: int, has_rows: bool) -> Tensor:
    _compare(key, number, has_rows)
    return key.clone()


def _key_like(key: Tensor, number: int, has_rows: bool) -> Tensor:
    return torch.empty_like(key)


def _comparing_operator() -> Callable[[Tensor, int, bool], Tensor]:
    if not has_custom_operators():
        return _compared_key
    library: Any = torch.library
    schema = "(Tensor key, int number, bool has_rows) -> Tensor"
    operator = library.custom_op("l0func::apart", _compared_key, mutates_args=(), schema=schema)
    operator.register_fake(_key_like)
    return operator


_compare_in_graph = _comparing_operator()
