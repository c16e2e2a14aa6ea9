"""Forward code that the backward pass runs again, as activation checkpointing does.

It draws the same numbers again: :class:`Watch` notes what each region drew, and :class:`Again`
runs the region under these draws.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import CodeType, FrameType
from typing import Any, NamedTuple, Protocol

import torch
from torch.autograd import Function

from l0func.internal.interception import function_name
from l0func.pure.nodes import custom_nodes, function_of, next_sequence, sequence_of
from l0func.pure.regions import (
    Custom,
    Path,
    Recomputed,
    frames,
    hooked_block,
    path_to,
    regions_around,
)


class Draw(NamedTuple):
    """One draw in the forward of a custom Function.

    Args:
        func: The random function.
        path: The path from the Function's forward to the draw.
        number: The draw's number in its key's stream.
    """

    func: Any
    path: Path
    number: int


class Numbers(Protocol):
    """The number of each draw in its key's stream."""

    def next(self, func: Any) -> int:
        """The number for a call of ``func``."""
        ...


class Counted:
    """Numbers in sequence.

    Args:
        first: The first number.
    """

    def __init__(self, first: int = 0) -> None:
        self.count = first

    def next(self, func: Any) -> int:
        """The next number."""
        self.count += 1
        return self.count - 1


class DrawSource(Protocol):
    """A context that draws from a key."""

    def again(self, numbers: Numbers, code: CodeType) -> AbstractContextManager[Any]:
        """A context that draws these numbers from the same key; ``code`` enters it."""
        ...


_SECOND_TIME = "backward through the graph a second time"


class Again:
    """A function of the backward pass, run where its draws are those of the forward pass.

    Args:
        draws: Where the forward pass drew from.
        function: The function.
        number: The number of the forward pass's first draw there.
    """

    def __init__(self, draws: DrawSource, function: Callable[..., Any], number: int) -> None:
        self.draws = draws
        self.function = function
        self.number = number

    def __call__(self, *args: Any) -> Any:
        """The function's result."""
        with self.draws.again(Counted(self.number), Again.__call__.__code__):
            return self.function(*args)


class Backward:
    """A custom Function's backward, run where its draws are those of the forward pass.

    Args:
        draws: Where the forward pass drew from.
        ctx: The Function's node in the graph.
        forward: What its forward drew.
    """

    def __init__(self, draws: DrawSource, ctx: Any, forward: Forward) -> None:
        self.draws = draws
        # The node holds this object, and a cycle would keep the graph's tensors alive.
        self.ctx = weakref.ref(ctx)
        self.forward = forward
        # The call's inputs are in the graph, too.
        forward.call = None
        self.node_kind: Any = type(ctx)
        self.name = _method_of(forward.kind)

    def __call__(self, *grads: Any) -> Any:
        """The gradients of the Function's inputs."""
        numbers = _Matched(self.forward)
        ctx = self.ctx()
        run = getattr(self.node_kind, self.name)
        try:
            with self.draws.again(numbers, Backward.__call__.__code__):
                return run(ctx, *grads)
        except RuntimeError as error:
            if _SECOND_TIME not in str(error):
                raise
            raise ValueError(
                f"{self.forward.kind.__name__} ran a block again in the backward pass, and its "
                "graph was free already. Masked weights have a graph of their own, and two "
                "blocks that share a masked weight share it; so do two backward passes. Write "
                "torch.utils.checkpoint.checkpoint(..., use_reentrant=False), and retain_graph="
                "True for all backward passes but the last."
            ) from error


class Forward:
    """What the forward of a custom Function drew.

    Args:
        kind: The Function.
        call: The call.
        sequence: A number above that of the call's node in the graph, and not above that of a
            later node.
    """

    def __init__(self, kind: type[Function], call: object, sequence: int) -> None:
        self.kind = kind
        self.call: object = call
        self.sequence = sequence
        self.draws: list[Draw] = []

    def forget_ended_call(self) -> None:
        """Let go of the frame of a forward that has ended, and of what it computed."""
        if isinstance(self.call, FrameType):
            # Only a frame that runs cannot be cleared.
            with suppress(RuntimeError):
                self.call.clear()
                self.call = None


class _Matched:
    """Numbers for one run of a Function's backward.

    The backward pass of a reversible network draws in another order than its forward pass. So a
    draw takes the number of the forward draw that was reached in the most similar way: by the
    same function, through the same modules and functions.
    """

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.taken: dict[tuple[int, ...], int] = {}
        self.differentiates = torch.is_grad_enabled()

    def next(self, func: Any) -> int:
        """The number of the most similar draw in the forward pass.

        Equally similar draws take turns.
        """
        kind = self.forward.kind
        path = path_to(frames(Backward.__call__.__code__), kind)
        same = [draw for draw in self.forward.draws if draw.func is func]
        likeness = [_shared_entries(draw.path, path) for draw in same]
        most = max(likeness, default=0)
        # Without a path, only a graph under construction tells a recomputation from fresh noise.
        is_recomputed = torch.is_grad_enabled() and not self.differentiates
        if not same or not (most or is_recomputed):
            raise ValueError(
                f"{function_name(func)} draws in the backward pass of {kind.__name__}, and no "
                "draw in its forward pass is known to be the same. Draw in the forward pass, and "
                "keep the draw with ctx.save_for_backward."
            )
        pairs = zip(same, likeness, strict=True)
        numbers = tuple(draw.number for draw, like in pairs if like == most)
        count = self.taken.get(numbers, 0)
        self.taken[numbers] = count + 1
        return numbers[count % len(numbers)]


class Watch:
    """Notes every region in a call that the backward pass may run again.

    Args:
        code: The code that enters the call's context.
        looks: Whether the call may be differentiated.
        keeps_graphs: Whether a backward pass inside the context keeps its graph.
    """

    def __init__(self, code: CodeType, looks: bool, keeps_graphs: bool = False) -> None:
        self.code = code
        self.looks = looks
        self.keeps_graphs = keeps_graphs
        self.mapped = False
        self.outer = hooked_block()
        self.forwards: list[Forward] = []
        """Forwards whose node in the graph is not known yet."""

    def saw(self, draws: DrawSource) -> None:
        """Take note of the custom Functions around a torch function inside a forward."""
        for region in regions_around(self.code):
            if isinstance(region, Custom):
                self._forward(region, draws)

    def drew(self, draws: DrawSource, func: Any, number: int) -> None:
        """Take note of a draw."""
        hooked = hooked_block()
        if hooked is not None and hooked != self.outer:
            _run_again(hooked, draws, number)
        for region in regions_around(self.code):
            if isinstance(region, Recomputed):
                _run_again(region, draws, number)
                continue
            forward = self._forward(region, draws)
            if forward is not None:
                forward.draws.append(Draw(func, region.path, number))

    def settle(self, output: Any, draws: DrawSource) -> None:
        """Find the nodes of the Functions that had none in their forward, and prepare them.

        Args:
            output: The tensors that the graph computes.
            draws: Where the forward pass drew from.
        """
        if not self.forwards:
            return
        nodes = custom_nodes(output)
        for forward in self.forwards:
            own = [node for node in nodes if function_of(node, forward.kind)]
            older = [node for node in own if node._sequence_nr() < forward.sequence]
            if older:
                node = max(older, key=sequence_of)
                forward.kind = function_of(node, forward.kind)
                _prepare(node, forward, draws)

    def close(self) -> None:
        """Forget the forwards; they hold their inputs."""
        self.forwards.clear()

    def _forward(self, region: Custom, draws: DrawSource) -> Forward | None:
        """The record for a Function's forward; None if its draws belong to others."""
        kind = region.kind
        if kind.__module__.startswith("l0func."):
            return None
        if region.ctx is not None:
            return _prepare(region.ctx, Forward(kind, None, 0), draws)
        for forward in self.forwards:
            if forward.call is region.call:
                return forward
            forward.forget_ended_call()
        forward = Forward(kind, region.call, next_sequence())
        self.forwards.append(forward)
        return forward


def _prepare(ctx: Any, forward: Forward, draws: DrawSource) -> Forward:
    """Make a node's backward draw what its forward drew; returns the node's record."""
    # The engine calls this attribute. A hook after the backward would not run if it raises.
    name = _method_of(forward.kind)
    if name not in vars(ctx):
        setattr(ctx, name, Backward(draws, ctx, forward))
    known: Backward = getattr(ctx, name)
    return known.forward


def _method_of(kind: Any) -> str:
    """The name of the node's method that the engine calls."""
    return "apply_boxed" if getattr(kind, "boxed_grads_call", False) else "apply"


def _shared_entries(path: Path, other: Path) -> int:
    """The number of equal entries at the start of two paths."""
    count = 0
    for own, others in zip(path, other, strict=False):
        if own != others:
            break
        count += 1
    return count


def _run_again(block: Recomputed, draws: DrawSource, number: int) -> None:
    function = getattr(block.record, "recompute_fn", None)
    if function is None:
        raise ValueError(
            "A block in torch.utils.checkpoint is random, and its recomputation must draw the "
            f"same numbers again. l0func cannot reach it in torch {torch.__version__}: leave out "
            "the checkpoint, or take the randomness out of the block."
        )
    if not isinstance(function, Again):
        block.record.recompute_fn = Again(draws, function, number)
