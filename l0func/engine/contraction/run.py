"""A batch of contractions, chunk by chunk: only one chunk has its masks in memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from l0func.engine.contraction.chunks import Chunk, Contraction, Kind, Output
from l0func.engine.contraction.kernel import Request, contracted
from l0func.engine.contraction.tiling import Block, Tiling, tile


class Operands(NamedTuple):
    """The factors that :func:`run` contracts; the one to compute may be None."""

    log_alpha: Tensor
    """``(G, O, gates of a weight row)``."""
    a: Tensor | None
    """``(G, O, I)``."""
    x: Tensor | None
    """``(B, R, I)``, or images ``(B, N, channels, *space)``."""
    g: Tensor | None
    """``(B, G, R, O)``."""


@dataclass(frozen=True)
class Sweep:
    """The constants of one run.

    Args:
        contraction: The sizes.
        outputs: The results to compute.
        compiled: Whether to try the compiled kernel.
    """

    contraction: Contraction
    outputs: tuple[Output, ...]
    compiled: bool


class Weights(NamedTuple):
    """The factors in one block that all examples share, by planes."""

    ready: list[Tensor]
    a: list[Tensor] | None


class Examples(NamedTuple):
    """The factors that belong to the examples in one chunk, padded to full size."""

    keys: Tensor
    x: Tensor | None
    """``(b, G, R, I)``."""
    g: Tensor | None
    """``(b, G, R, O)``."""


def run(sweep: Sweep, keys: Tensor, operands: Operands) -> list[Tensor]:
    """Several results from the same masks.

    Args:
        sweep: The constants.
        keys: A key for each example, ``(B, 2)``.
        operands: The factors.

    Returns:
        For each output a tensor: ``y (B, G, R, O)``, ``x`` shaped like x, ``a (G, O, I)``.
    """
    vectors = count_vectors(sweep.contraction, operands.x, operands.g)
    tiling = tile(sweep.contraction, keys.shape[0], vectors, sweep.compiled)
    weights = _weights_by_block(tiling, operands)
    results = [_allocated(output.kind, tiling, operands) for output in sweep.outputs]
    for batch in tiling.batches():
        examples = _examples(tiling, keys, operands, batch)
        _add_examples(sweep, tiling, weights, examples, batch, results)
    pairs = zip(sweep.outputs, results, strict=True)
    return [_whole(output.kind, tiling, result) for output, result in pairs]


def _add_examples(
    sweep: Sweep,
    tiling: Tiling,
    weights: list[Weights],
    examples: Examples,
    batch: slice,
    results: list[list[Tensor]],
) -> None:
    """Add some examples to all results, block by block."""
    kinds: list[Kind] = [output.kind for output in sweep.outputs]
    targets: list[list[Tensor]] = []
    for kind, result in zip(kinds, results, strict=True):
        targets.append(_targets(kind, tiling, examples, result, batch))
    for block, weight in zip(tiling.blocks, weights, strict=True):
        chunk = _chunk(tiling, weight, examples, block)
        call, skip = divmod(tiling.position(block), 4)
        gates = chunk.ready[0].numel() * tiling.planes
        request = Request(sweep.contraction, sweep.outputs, skip, gates, tiling.planes)
        found = contracted(request, examples.keys, call, chunk, sweep.compiled)
        for kind, target, planes in zip(kinds, targets, found, strict=True):
            _write_chunk(kind, target, block, planes)
    for kind, target, result in zip(kinds, targets, results, strict=True):
        if kind == "x":
            _write_inputs(tiling, target, result[0][batch])


def count_vectors(contraction: Contraction, x: Tensor | None, g: Tensor | None) -> int:
    """R, the number of input vectors for each key."""
    if g is not None:
        return g.shape[2]
    assert x is not None
    windows = 1 if contraction.unfold is None else prod(contraction.unfold.windows)
    return x.shape[1] * windows


def _weights_by_block(tiling: Tiling, operands: Operands) -> list[Weights]:
    """The shared factors, by block."""
    ready = operands.log_alpha
    weights: list[Weights] = []
    for block in tiling.blocks:
        a = None if operands.a is None else tiling.split(operands.a[block])
        weights.append(Weights(tiling.split(ready[block]), a))
    return weights


def _examples(tiling: Tiling, keys: Tensor, operands: Operands, batch: slice) -> Examples:
    """The factors that belong to some examples."""
    x, g = operands.x, operands.g
    if x is not None:
        x = _padded_to(_input_vectors(tiling.contraction, x[batch]), tiling.examples)
    if g is not None:
        g = _padded_to(g[batch], tiling.examples)
    return Examples(_padded_to(keys[batch], tiling.examples), x, g)


def _padded_to(t: Tensor, size: int) -> Tensor:
    # One shape for all chunks, so that the compiler sees one; examples of zeros add nothing.
    missing = size - t.shape[0]
    if missing == 0:
        return t
    other_dims = (0, 0) * (t.dim() - 1)
    return F.pad(t, (*other_dims, 0, missing))


def _input_vectors(contraction: Contraction, x: Tensor) -> Tensor:
    """Vectors ``(b, G, R, I)`` from x, or from patches in images."""
    if contraction.unfold is None:
        return x.unsqueeze(1)
    patches = contraction.unfold.patches(x.flatten(0, 1))
    examples, images, *_ = x.shape
    by_example = patches.reshape(examples, images, *patches.shape[1:])
    return by_example.transpose(1, 2).flatten(2, 3)


def _chunk(tiling: Tiling, weights: Weights, examples: Examples, block: Block) -> Chunk:
    """The operands for some examples and one block."""
    x, g = examples.x, examples.g
    x_planes = None if x is None else tiling.split(x[:, block.groups])
    g_block = None if g is None else g[:, block.groups, :, block.weight_rows]
    return Chunk(weights.ready, weights.a, x_planes, g_block)


def _allocated(kind: Kind, tiling: Tiling, operands: Operands) -> list[Tensor]:
    """Memory for one result; ``a`` is a sum over chunks, so its planes start at zero."""
    given = (operands.g, operands.x, operands.a)
    like = next(t for t in given if t is not None)
    groups, weight_rows, columns = tiling.contraction.shape
    if kind == "y":
        return [like.new_empty(tiling.batch, groups, tiling.vectors, weight_rows)]
    if kind == "x":
        return [like.new_empty(inputs_shape(tiling.contraction, tiling.batch, tiling.vectors))]
    shape = groups, weight_rows, columns // tiling.planes
    return [like.new_zeros(shape) for _ in range(tiling.planes)]


def inputs_shape(contraction: Contraction, batch: int, vectors: int) -> tuple[int, ...]:
    """The shape of x for a number of vectors a key."""
    unfold = contraction.unfold
    if unfold is None:
        return batch, vectors, contraction.shape[2]
    images = vectors // prod(unfold.windows)
    return batch, images, unfold.channels, *unfold.space


def _targets(
    kind: Kind, tiling: Tiling, examples: Examples, result: list[Tensor], batch: slice
) -> list[Tensor]:
    """The tensors that receive the chunks of some examples, by planes.

    For ``x`` they are new tensors: all blocks add to the vectors, and images come from the sum.
    """
    if kind == "y":
        return [result[0][batch]]
    if kind == "a":
        return result
    assert examples.g is not None
    groups, _, columns = tiling.contraction.shape
    shape = tiling.examples, groups, tiling.vectors, columns // tiling.planes
    return [examples.g.new_zeros(shape) for _ in range(tiling.planes)]


def _write_chunk(kind: Kind, targets: list[Tensor], block: Block, planes: list[Tensor]) -> None:
    """Write the results from one chunk into their place."""
    groups, weight_rows = block
    for target, plane in zip(targets, planes, strict=True):
        if kind == "y":
            target[:, groups, :, weight_rows] = plane[: target.shape[0]]
        elif kind == "x":
            target[:, groups] += plane
        else:
            target[groups, weight_rows] += plane


def _write_inputs(tiling: Tiling, planes: list[Tensor], into: Tensor) -> None:
    """Write x, or images, for some examples: the adjoint of :func:`_input_vectors`."""
    unfold = tiling.contraction.unfold
    vectors = tiling.joined(planes)[: into.shape[0]]
    if unfold is None:
        into.copy_(vectors.squeeze(1))
        return
    b, groups, count, entries = vectors.shape
    images = into.shape[1]
    by_image = vectors.reshape(b, groups, images, count // images, entries)
    patches = by_image.transpose(1, 2).flatten(0, 1)
    into.copy_(unfold.images(patches).reshape(into.shape))


def _whole(kind: Kind, tiling: Tiling, result: list[Tensor]) -> Tensor:
    return tiling.joined(result) if kind == "a" else result[0]
