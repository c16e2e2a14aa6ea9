"""A whole batch of contractions, chunk by chunk: nothing of the size of all masks is ever held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.engine.contraction.chunks import (
    Chunk,
    Contraction,
    Draws,
    Output,
    contract,
    draw,
    uniform_planes,
)
from l0func.internal.untyped import untyped
from l0func.kernels import choice
from l0func.kernels.eager import eager_draws

# Gates in a chunk: what the caches of a core hold beside the operands; compiled, draws stay in
# registers for longer.
EAGER, COMPILED = 1 << 18, 1 << 20


class Operands(NamedTuple):
    """What :func:`run` contracts; those that an output does not need may be None."""

    log_alpha: Tensor
    """``(G, O, gates of a row)``."""
    a: Tensor | None
    """``(G, O, I)``."""
    x: Tensor | None
    """``(B, R, I)``, or images ``(B, N, channels, *space)``."""
    g: Tensor | None
    """``(B, G, R, O)``."""


class Block(NamedTuple):
    """Groups and rows of a weight."""

    groups: slice
    rows: slice


def run(
    plan: Contraction, outputs: Sequence[Output], keys: Tensor, operands: Operands, compiled: bool
) -> list[Tensor]:
    """Every output for the masks of keys ``(B, 2)``: ``y (B, G, R, O)``, ``x`` of the shape of x,
    ``a (G, O, I)``.
    """
    return _Run(plan, tuple(outputs), keys, operands, compiled).results()


class _Run:
    def __init__(
        self,
        plan: Contraction,
        outputs: tuple[Output, ...],
        keys: Tensor,
        operands: Operands,
        compiled: bool,
    ) -> None:
        self.plan, self.outputs, self.keys, self.operands, self.compiled = (
            plan,
            outputs,
            keys,
            operands,
            compiled,
        )
        self.batch, self.rows = keys.shape[0], _row_count(plan, operands)
        gates = plan.gates
        planar = (
            compiled
            and self.rows == 1
            and plan.repeat == 1
            and gates[2] % 4 == 0
            and plan.first % 4 == 0
        )
        self.planes = 4 if planar else 1
        limit = COMPILED if compiled else EAGER
        self.blocks = list(_blocks(gates, limit))
        block = self.blocks[0]
        size = (
            (block.groups.stop - block.groups.start)
            * (block.rows.stop - block.rows.start)
            * gates[2]
        )
        self.size = max(1, min(self.batch, limit // max(size, 1)))
        ready = plan.distribution.prepared(operands.log_alpha)
        self.ready = [self._split(ready[b.groups, b.rows]) for b in self.blocks]
        self.a = (
            None
            if operands.a is None
            else [self._split(operands.a[b.groups, b.rows]) for b in self.blocks]
        )
        self.into = [self._empty(output) for output in outputs]

    def results(self) -> list[Tensor]:
        for start in range(0, self.batch, self.size):
            self._add_rows(slice(start, min(start + self.size, self.batch)))
        return [
            self._joined(planes) if o.kind == "a" else planes[0]
            for o, planes in zip(self.outputs, self.into, strict=True)
        ]

    def _add_rows(self, rows: slice) -> None:
        """Add what some rows of the batch give."""
        plan, full = self.plan, self.size
        keys = _padded_to(self.keys[rows], full)
        x = (
            None
            if self.operands.x is None
            else _padded_to(_seen(plan, self.operands.x[rows]), full)
        )
        g = None if self.operands.g is None else _padded_to(self.operands.g[rows], full)
        count = rows.stop - rows.start
        seen = {
            i: self._patches(full, x, g)
            for i, output in enumerate(self.outputs)
            if output.kind == "x"
        }
        for number, block in enumerate(self.blocks):
            chunk = Chunk(
                self.ready[number],
                None if self.a is None else self.a[number],
                None if x is None else self._split(x[:, block.groups]),
                None if g is None else g[:, block.groups, :, block.rows],
            )
            for i, (output, planes) in enumerate(
                zip(self.outputs, self._contracted(keys, block, chunk), strict=True)
            ):
                if output.kind == "y":
                    self.into[i][0][rows, block.groups, :, block.rows] = planes[0][:count]
                elif output.kind == "x":
                    for into, plane in zip(seen[i], planes, strict=True):
                        into[:, block.groups] += plane
                else:
                    for into, plane in zip(self.into[i], planes, strict=True):
                        into[block.groups, block.rows] += plane
        for i, planes in seen.items():
            self.into[i][0][rows] = _shown(
                plan, self._joined(planes)[:count], self.into[i][0].shape[1:]
            )

    def _contracted(self, keys: Tensor, block: Block, chunk: Chunk) -> list[list[Tensor]]:
        _, rows, line = self.plan.gates
        position = self.plan.first + (block.groups.start * rows + block.rows.start) * line
        call, skip = divmod(position, 4)
        static = (self.plan, self.outputs, skip, chunk.ready[0].numel() * self.planes, self.planes)
        if self.compiled and choice.kernel_can_compile():
            try:
                return _in_machine_code(static, keys, call, chunk)
            except Exception as error:
                choice.give_up(error)
        return contract(self.outputs, _drawn_eagerly(static, keys, call, chunk), chunk)

    def _patches(self, size: int, x: Tensor | None, g: Tensor | None) -> list[Tensor]:
        like = g if x is None else x
        assert like is not None
        groups, _, columns = self.plan.shape
        return [
            like.new_zeros(size, groups, self.rows, columns // self.planes)
            for _ in range(self.planes)
        ]

    def _empty(self, output: Output) -> list[Tensor]:
        like = next(
            t for t in (self.operands.g, self.operands.x, self.operands.a) if t is not None
        )
        groups, rows, columns = self.plan.shape
        if output.kind == "y":
            return [like.new_empty(self.batch, groups, self.rows, rows)]
        if output.kind == "a":
            return [
                like.new_zeros(groups, rows, columns // self.planes) for _ in range(self.planes)
            ]
        return [like.new_empty(x_shape(self.plan, self.batch, self.rows))]

    def _split(self, t: Tensor) -> list[Tensor]:
        if self.planes == 1:
            return [t]
        return [plane.contiguous() for plane in t.reshape(*t.shape[:-1], -1, 4).unbind(-1)]

    def _joined(self, planes: list[Tensor]) -> Tensor:
        return planes[0] if self.planes == 1 else torch.stack(planes, dim=-1).flatten(-2)


def x_shape(plan: Contraction, batch: int, rows: int) -> tuple[int, ...]:
    """The shape of x for a number of rows a key."""
    if plan.unfold is None:
        return batch, rows, plan.shape[2]
    windows = plan.unfold.windows
    return batch, rows // torch.Size(windows).numel(), plan.unfold.channels, *plan.unfold.space


def _row_count(plan: Contraction, operands: Operands) -> int:
    if operands.g is not None:
        return operands.g.shape[2]
    assert operands.x is not None
    windows = 1 if plan.unfold is None else torch.Size(plan.unfold.windows).numel()
    return operands.x.shape[1] * windows


def _seen(plan: Contraction, x: Tensor) -> Tensor:
    """Rows ``(b, G, R, I)`` of x, or of the patches of images."""
    if plan.unfold is None:
        return x.unsqueeze(1)
    patches = plan.unfold.patches(x.flatten(0, 1))
    return patches.reshape(*x.shape[:2], *patches.shape[1:]).transpose(1, 2).flatten(2, 3)


def _shown(plan: Contraction, patches: Tensor, shape: Sequence[int]) -> Tensor:
    """The adjoint of :func:`_seen`."""
    if plan.unfold is None:
        return patches.squeeze(1)
    b, groups, rows, entries = patches.shape
    separate = (
        patches.reshape(b, groups, shape[0], rows // shape[0], entries)
        .transpose(1, 2)
        .flatten(0, 1)
    )
    return plan.unfold.images(separate).reshape(b, *shape)


def _blocks(gates: tuple[int, int, int], limit: int) -> Iterator[Block]:
    groups, rows, line = gates
    if groups > 1:
        step = max(1, limit // max(rows * line, 1))
        yield from (
            Block(slice(g, min(g + step, groups)), slice(0, rows)) for g in range(0, groups, step)
        )
        return
    step = max(1, limit // max(line, 1))
    # Every block starts at a whole call of the generator.
    step = rows if step >= rows else max(step // 4 * 4, 4)
    yield from (Block(slice(0, 1), slice(r, min(r + step, rows))) for r in range(0, rows, step))


def _padded_to(t: Tensor, size: int) -> Tensor:
    # One shape for all chunks, so that the compiler sees one; rows of zeros add nothing.
    return t if t.shape[0] == size else F.pad(t, (0, 0) * (t.dim() - 1) + (0, size - t.shape[0]))


def _operands_of(chunk: Chunk) -> list[Tensor]:
    return [
        *chunk.ready,
        *(chunk.a or ()),
        *(chunk.x or ()),
        *(() if chunk.g is None else (chunk.g,)),
    ]


ChunkStatic = tuple[Contraction, tuple[Output, ...], int, int, int]
"""A plan, outputs, uniforms of the first call to skip, gates, and planes."""


def _drawn_eagerly(static: ChunkStatic, keys: Tensor, call: int, chunk: Chunk) -> Draws:
    plan, outputs, skip, count, planes = static
    streams = torch.stack((keys[:, 0], keys[:, 1] + call), dim=-1).unsqueeze(-2)
    draws = eager_draws(streams, [-(-(skip + count) // 4)], True)
    uniforms = draws.unbind(-1) if planes == 4 else [draws.flatten(-2)[..., skip : skip + count]]
    return draw(plan, outputs, uniforms, chunk)


def _drawn_in_graph(static: ChunkStatic, keys: Tensor, call: Tensor, chunk: Chunk) -> Draws:
    plan, outputs, skip, count, planes = static
    uniforms = uniform_planes(keys, call, -(-(skip + count) // 4))
    if planes == 1:
        uniforms = [torch.stack(uniforms, dim=-1).flatten(-2)[..., skip : skip + count]]
    return draw(plan, outputs, uniforms, chunk)


def _contracted(static: ChunkStatic, draws: Draws, chunk: Chunk) -> list[list[Tensor]]:
    return contract(static[1], draws, chunk)


def _drawn_and_contracted(
    static: ChunkStatic, keys: Tensor, call: Tensor, chunk: Chunk
) -> list[list[Tensor]]:
    return contract(static[1], _drawn_in_graph(static, keys, call, chunk), chunk)


def _in_machine_code(
    static: ChunkStatic, keys: Tensor, call: int, chunk: Chunk
) -> list[list[Tensor]]:
    shapes = tuple(tuple(t.shape) for t in _operands_of(chunk))
    signature = (static, shapes, chunk.ready[0].dtype, str(keys.device))
    at = torch.tensor(call, device=keys.device)
    if len(static[1]) == 1:
        return _compiled(_drawn_and_contracted, signature)(static, keys, at, chunk)
    # In one graph the compiler draws again for every output rather than keep the masks of a chunk.
    draws = _compiled(_drawn_in_graph, signature)(static, keys, at, chunk)
    return _compiled(_contracted, signature)(static, draws, chunk)


@cache
def _compiled(function: FunctionType, signature: Any) -> Callable[..., Any]:
    # The compiler counts recompilations by code object and falls back to eager after a few: each
    # shape gets its own.
    code = function.__code__.replace(
        co_name=f"{function.__name__}_{_compiled.cache_info().currsize}"
    )
    return untyped.compile(FunctionType(code, function.__globals__), dynamic=False, fullgraph=True)
