"""The draws of an ``L0Module``: how they are counted, and the key for each of them."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from l0func import random
from l0func.internal.compiler_import import graph_constant
from l0func.internal.context import compiling, is_in_vmap_with_draws_apart, recording
from l0func.internal.interception import innermost
from l0func.internal.names import stream
from l0func.internal.untyped import untyped
from l0func.pure.keyed import Keyed

# Two threads in forward at once must have different keys. One lock serves all modules: a module
# with a lock of its own could not be pickled.
_COUNTING = threading.Lock()
# Draws have small numbers, so this fold meets none of them.
_RANKS = stream("l0func.module.rank")


def draw_number(number: int) -> Tensor:
    """A number of draws as a tensor: a compiler compiles again for every new Python integer."""
    return torch.tensor(number, dtype=torch.int64, device="cpu")


@contextmanager
def counting() -> Generator[None, None, None]:
    """A context for one thread at a time, without the transforms in ``torch.func``.

    Those would wrap the counter. Do not enter it inside a compiler, which follows no lock.
    """
    with _COUNTING, untyped._C._DisableFuncTorch():
        yield


def key_of_draw(key: Tensor, draw: int | Tensor, rank: int) -> Tensor:
    """The key for one draw of one process.

    Args:
        key: The module's key, shape ``(2,)``.
        draw: The draw's number, from 1 on.
        rank: The process's rank; rank 0 draws like a single process.

    Returns:
        A key, shape ``(2,)``.

    Raises:
        ValueError: The draw's number is below 1.
    """
    if isinstance(draw, int) and draw < 1:
        raise ValueError(f"The first forward in training is draw 1; got {draw}.")
    return random.fold_in(key_of_rank(key, rank), draw)


def key_of_rank(key: Tensor, rank: int) -> Tensor:
    """The key of one process's draws, from the key of all; rank 0 has the latter."""
    return key if rank == 0 else random.fold_in(random.fold_in(key, _RANKS), rank)


def check_can_draw() -> None:
    """Refuse a draw that would be another one, or the same one again and again.

    Raises:
        RuntimeError: Autograd is running backward on this thread.
        ValueError: An L0Module in training runs as a submodule of a pure function, or inside a
            torch.vmap without ``randomness="same"``, or is recorded by torch.export or
            torch.jit.trace.
    """
    if recording():
        _refuse_recorder()
    if compiling():
        return
    if untyped._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "An L0Module in training ran again in the backward pass, as torch.utils.checkpoint "
            "does. New masks would give the gradient of another network. Let L0Module wrap the "
            "module that calls checkpoint, or give l0func.gated the key yourself."
        )
    if is_in_vmap_with_draws_apart():
        raise ValueError(
            "torch.vmap maps an L0Module in training, which draws once: all rows would share one "
            "mask. For masks of their own build it with per_example=True and call it on the whole "
            "batch, without torch.vmap; or map l0func.gated over keys. For one mask on purpose "
            "say torch.vmap(..., randomness='same'), or torch.func.jacfwd(..., "
            "randomness='same')."
        )
    if innermost(Keyed) is not None:
        raise ValueError(
            "An L0Module in training ran inside a function of make_functional. A pure function "
            "cannot count its draws, and would have the same masks in every call. Make the "
            "function from the module that L0Module wraps, net.module, and pass net.gates() to "
            "l0func.gated; or call net.eval() before make_functional."
        )


@graph_constant
def _refuse_recorder() -> None:
    """Raise while a compiler looks: an error in traced code would reach the user as its own."""
    raise ValueError(
        "torch.export and torch.jit.trace record one forward, and an L0Module in training draws "
        "new masks in each: the program would have the masks of one draw for ever. Call "
        "net.eval() first, or export net.compacted()."
    )
