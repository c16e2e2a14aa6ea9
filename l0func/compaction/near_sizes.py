"""The sizes near a module, before and after its tensors lost slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from torch import nn

from l0func.pure.part import Part
from l0func.spec.rules import Shape

Shapes = Mapping[str, Shape]
"""``{tensor path: shape}``."""


class NearSize(NamedTuple):
    """One dimension of a matrix or kernel.

    Attributes:
        old: Its size before.
        new: Its size now.
        makes: Whether the tensor makes units along it; otherwise it reads them.
    """

    old: int
    new: int
    makes: bool


class NearSizes(NamedTuple):
    """The sizes near every module.

    Attributes:
        parts: All submodules before, by their paths.
        sizes: For each module the sizes of the matrices in it and in its children.
    """

    parts: Mapping[str, Part]
    sizes: Mapping[str, list[NearSize]]


def near_sizes(parts: Mapping[str, Part], before: Shapes, after: Shapes) -> NearSizes:
    """The sizes of the matrices in every module and in its children.

    Args:
        parts: All submodules before, by their paths.
        before: The shapes of all tensors before.
        after: Their shapes now.
    """
    found: dict[str, list[NearSize]] = {path: [] for path in parts}
    for path, part in parts.items():
        own = _own_sizes(part, before, after)
        found[path] += own
        parent = path.rpartition(".")[0]
        if path and parent in found:
            found[parent] += own
    return NearSizes(parts, found)


def _own_sizes(part: Part, before: Shapes, after: Shapes) -> list[NearSize]:
    found: list[NearSize] = []
    for name, tensor in part.paths().items():
        old, new = before[tensor], after[tensor]
        if len(old) < 2:
            continue
        made = _made_dim(part, name, before, after)
        for dim in (0, 1):
            if not new[dim]:
                # A layer that became a constant reads nothing.
                continue
            found.append(NearSize(old[dim], new[dim], dim == made))
    return found


def _made_dim(part: Part, name: str, before: Shapes, after: Shapes) -> int:
    """The dimension of a matrix along which it makes units."""
    if issubclass(part.kind, nn.Embedding | nn.EmbeddingBag) or part.attribute("transposed"):
        return 1
    matrix = part.paths()[name]
    bias = part.paths().get(name.replace("weight", "bias"))
    if issubclass(part.kind, nn.Linear) or bias is None or bias == matrix:
        return 0
    # A layer of the author's own may hold its matrix transposed; its bias tells.
    of_bias = (before[bias][0], after[bias][0])
    fits = [dim for dim in (0, 1) if (before[matrix][dim], after[matrix][dim]) == of_bias]
    return fits[0] if len(fits) == 1 else 0


def common_ratio(sizes: Iterable[NearSize], value: int) -> Fraction | None:
    """The ratio in which most made units are left, among sizes that a number may count.

    Args:
        sizes: Sizes near the number's module.
        value: The number: it divides the sizes that it may count.

    Returns:
        The ratio; None without such sizes, or if two ratios are equally frequent.
    """
    votes: Counter[Fraction] = Counter()
    for size in sizes:
        if size.makes and size.old % value == 0:
            votes[Fraction(size.new, size.old)] += size.old
    ranked = votes.most_common(2)
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]
