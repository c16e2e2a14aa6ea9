"""One chunk, by the eager kernel or by the same source compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
from l0func.kernels import inductor
from l0func.kernels.draws import draw_uniforms


class Request(NamedTuple):
    """Everything about a chunk that a compiled kernel may treat as constant."""

    contraction: Contraction
    outputs: tuple[Output, ...]
    skip: int
    """Uniforms in the first generator call that belong to earlier gates."""
    gates: int
    """Gates in the chunk."""
    planes: int
    """Planes in each operand, 1 or 4; see :class:`~.tiling.Tiling`."""

    @property
    def calls(self) -> int:
        """Generator calls, four uniforms each."""
        return -(-(self.skip + self.gates) // 4)


def contracted(
    request: Request, keys: Tensor, call: int, chunk: Chunk, compiled: bool
) -> list[list[Tensor]]:
    """Every requested output, by planes; see :func:`chunks.contract`.

    Args:
        request: The constants.
        keys: ``(b, 2)``.
        call: Number of the first generator call.
        chunk: The operands.
        compiled: Whether to try the compiled kernel.
    """
    if compiled and inductor.inductor_can_compile():
        try:
            return _in_machine_code(request, keys, call, chunk)
        except Exception as error:
            inductor.give_up_inductor(error)
    draws = _drawn_eagerly(request, keys, call, chunk)
    return contract(request.outputs, draws, chunk)


def _drawn_eagerly(request: Request, keys: Tensor, call: int, chunk: Chunk) -> Draws:
    seed, offset = keys.unbind(-1)
    streams = torch.stack((seed, offset + call), dim=-1).unsqueeze(-2)
    [flat] = draw_uniforms(streams, (4 * request.calls,))
    by_call = flat.reshape(-1, request.calls, 4)
    if request.planes == 4:
        uniforms = list(by_call.unbind(-1))
    else:
        uniforms = [_in_one_plane(request, by_call)]
    return draw(request.contraction, request.outputs, uniforms, chunk)


def _drawn_in_graph(request: Request, keys: Tensor, call: Tensor, chunk: Chunk) -> Draws:
    uniforms = uniform_planes(keys, call, request.calls)
    if request.planes == 1:
        uniforms = [_in_one_plane(request, torch.stack(uniforms, dim=-1))]
    return draw(request.contraction, request.outputs, uniforms, chunk)


def _in_one_plane(request: Request, by_call: Tensor) -> Tensor:
    """The chunk's own uniforms ``(b, count)`` from ``(b, calls, 4)``."""
    own = slice(request.skip, request.skip + request.gates)
    return by_call.flatten(-2)[..., own]


def _contracted_in_graph(request: Request, draws: Draws, chunk: Chunk) -> list[list[Tensor]]:
    return contract(request.outputs, draws, chunk)


def _drawn_and_contracted(
    request: Request, keys: Tensor, call: Tensor, chunk: Chunk
) -> list[list[Tensor]]:
    return contract(request.outputs, _drawn_in_graph(request, keys, call, chunk), chunk)


def _in_machine_code(
    request: Request, keys: Tensor, call: int, chunk: Chunk
) -> list[list[Tensor]]:
    shapes = tuple(tuple(t.shape) for t in _operands(chunk))
    signature = (request, shapes, chunk.ready[0].dtype, str(keys.device))
    at = torch.tensor(call, device=keys.device)
    if len(request.outputs) == 1:
        return _compiled(_drawn_and_contracted, signature)(request, keys, at, chunk)
    # Two graphs: in one, the compiler would draw the masks again for every output.
    draws = _compiled(_drawn_in_graph, signature)(request, keys, at, chunk)
    return _compiled(_contracted_in_graph, signature)(request, draws, chunk)


def _operands(chunk: Chunk) -> list[Tensor]:
    a, x = chunk.a or [], chunk.x or []
    g = [] if chunk.g is None else [chunk.g]
    return [*chunk.ready, *a, *x, *g]


@cache
def _compiled(function: FunctionType, signature: Any) -> Callable[..., Any]:
    # The compiler counts recompilations by code object, and after a few it falls back to eager. So
    # each shape gets a code object of its own.
    name = f"{function.__name__}_{_compiled.cache_info().currsize}"
    code = function.__code__.replace(co_name=name)
    return untyped.compile(FunctionType(code, function.__globals__), dynamic=False, fullgraph=True)
