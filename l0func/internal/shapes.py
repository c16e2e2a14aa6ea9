"""The shape of tensors that broadcast."""

from __future__ import annotations

import torch


def joint_shape(*shapes: torch.Size) -> torch.Size:
    """The shape that shapes broadcast to.

    ``torch.broadcast_shapes`` takes as long as a small draw, and its first call imports sympy.

    Raises:
        RuntimeError: They do not broadcast.
    """
    first, *others = shapes
    rank = max(len(shape) for shape in shapes)
    # Lengths first: a comparison of open sizes is a guard of torch.export.
    if all(len(shape) == len(first) and shape == first for shape in others):
        return first
    sizes = zip(*[(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes], strict=True)
    return torch.Size([_joint_size(shapes, *at) for at in sizes])


def _joint_size(shapes: tuple[torch.Size, ...], *sizes: int) -> int:
    spread = [size for size in sizes if size != 1]
    if any(size != spread[0] for size in spread):
        raise RuntimeError(f"Shapes {', '.join(map(str, map(tuple, shapes)))} do not broadcast.")
    return spread[0] if spread else 1
