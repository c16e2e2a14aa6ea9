"""Processes of one group that draw each for itself: their keys must differ.

With equal keys row i of every process would have the same masks, and nothing would show it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from l0func.internal.context import compiles, compiling
from l0func.internal.groups import has_group
from l0func.internal.untyped import listed

_NUMBERS = itertools.count()
_FOUND_APART: set[int] = set()
"""The numbers of keys that the processes have compared."""


def next_key_number() -> int:
    """A number for a key, new in this process.

    Not the key's own words: all processes compare again after they load a checkpoint, and the
    one that saved it has the same key as before.
    """
    return next(_NUMBERS)


def apart(key: Tensor, number: int) -> Tensor:
    """A process's own key, once it is known that no other process has it.

    The first call for a number is one small collective: every process of the world takes part.

    Args:
        key: The key, shape ``(2,)``.
        number: The number of the key in this process.

    Returns:
        The key.

    Raises:
        ValueError: Two processes have the same; it is raised in all of them.
    """
    if not _has_others():
        return key
    if compiling():
        return _compare_in_graph(key, number)
    _compare(key, number)
    return key


def _has_others() -> bool:
    distributed: Any = torch.distributed
    return has_group() and distributed.get_world_size() > 1


def _compare(key: Tensor, number: int) -> None:
    if number in _FOUND_APART:
        return
    distributed: Any = torch.distributed
    of_all: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(of_all, listed(key))
    _check_different(of_all)
    _FOUND_APART.add(number)


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


def _compared_key(key: Tensor, number: int) -> Tensor:
    _compare(key, number)
    return key.clone()


def _key_like(key: Tensor, number: int) -> Tensor:
    return torch.empty_like(key)


def _comparing_operator() -> Callable[[Tensor, int], Tensor]:
    if not compiles():
        return _compared_key
    library: Any = torch.library
    schema = "(Tensor key, int number) -> Tensor"
    operator = library.custom_op("l0func::apart", _compared_key, mutates_args=(), schema=schema)
    operator.register_fake(_key_like)
    return operator


_compare_in_graph = _comparing_operator()
