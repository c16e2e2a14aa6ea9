"""An optimizer's moments before its first step, so that a first state has every leaf."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from l0func.train.probe import Build

OfLeaf: TypeAlias = dict[str, Tensor]
"""``{name: tensor}``: the moments of one leaf."""

# Gradients of the trial: of both signs, and zero.
_SLOPES = (1.0, 0.0, -3.0)


@dataclass(frozen=True)
class FirstMoments:
    """Moments that an optimizer begins with; torch's own make them in their first step.

    Two ways find them. Each is tried on a small tensor: steps from its moments must give the bits
    that steps from none give. Where neither does, there are none before the first step.
    """

    build: Build
    as_moments: Callable[[Mapping[str, Any]], OfLeaf]
    update: Callable[[Tensor, OfLeaf, Tensor, Tensor], tuple[Tensor, OfLeaf]]
    """``update(gradient, moments, leaf, step)``: one pure step of one leaf."""

    ways: dict[tuple[int, torch.dtype, torch.device], Any] = field(default_factory=dict[Any, Any])
    """A memo: the way that was found, or None, for each kind of leaf."""

    def of(self, leaf: Tensor) -> OfLeaf:
        """The first moments of a leaf; empty if they are not known."""
        # Meta tensors have no bits to compare.
        device = torch.device("cpu") if leaf.is_meta else leaf.device
        likeness = (leaf.dim(), leaf.dtype, device)
        if likeness not in self.ways:
            small = torch.full((2,) * leaf.dim(), 0.5, dtype=leaf.dtype, device=device)
            self.ways[likeness] = self._way_for(small)
        way = self.ways[likeness]
        return {} if way is None else self._kept(way, leaf)

    def _kept(self, way: Callable[..., Any], leaf: Tensor) -> OfLeaf:
        moments = self.as_moments(way(self.build, leaf.detach()))
        # Copies, because a state's tensors are its own: an optimizer may keep the leaf itself.
        return {name: t.detach().clone() for name, t in moments.items()}

    def _way_for(self, small: Tensor) -> Callable[..., Any] | None:
        try:
            expected = self._steps(small, {})
        except (RuntimeError, AssertionError, TypeError, ValueError):
            # It works elsewhere, such as on a GPU only; or it refuses such a leaf in every step.
            return None
        for way in (_by_its_own_init, _by_a_still_step):
            try:
                first = self._kept(way, small)
                found = self._steps(small, first)
            except (RuntimeError, AssertionError, TypeError, ValueError, AttributeError, KeyError):
                # Code of unknown optimizers may raise anything on moments that are not its own.
                continue
            if first.keys() == expected[0].keys() - {"the leaf"} and _same(expected, found):
                return way
        return None

    def _steps(self, leaf: Tensor, moments: OfLeaf) -> list[OfLeaf]:
        """The leaf and its moments after each step of the trial."""
        found: list[OfLeaf] = []
        for number, slope in enumerate(_SLOPES):
            gradient = torch.full_like(leaf, slope)
            step = torch.tensor(number, device=leaf.device)
            leaf, moments = self.update(gradient, moments, leaf, step)
            found.append({**moments, "the leaf": leaf})
        return found


def _same(expected: list[OfLeaf], found: list[OfLeaf]) -> bool:
    for one, other in zip(expected, found, strict=True):
        if one.keys() != other.keys():
            return False
        if not all(_same_bits(t, other[name]) for name, t in one.items()):
            return False
    return True


def _same_bits(one: Tensor, other: Tensor) -> bool:
    same_kind = one.dtype == other.dtype and one.shape == other.shape
    return same_kind and torch.equal(one, other)


def _by_its_own_init(build: Build, leaf: Tensor) -> Mapping[str, Any]:
    """The state that the optimizer makes at the beginning of its first step, without the step."""
    torch_optimizer: Any = _built(build, leaf)
    arguments = list(inspect.signature(torch_optimizer._init_group).parameters)[1:]
    # It fills a list for each kind of moment.
    torch_optimizer._init_group(torch_optimizer.param_groups[0], *([] for _ in arguments))
    return torch_optimizer.state[leaf]


def _by_a_still_step(build: Build, leaf: Tensor) -> Mapping[str, Any]:
    """The state after a step of a zero leaf without a gradient; counts begin at 0."""
    still = torch.zeros_like(leaf)
    torch_optimizer: Any = _built(build, still)
    torch_optimizer.step()
    first: dict[str, Any] = {}
    for name, value in torch_optimizer.state[still].items():
        is_count = not isinstance(value, Tensor) or value.dim() == 0
        first[name] = value * 0 if is_count and value is not None else value
    return first


def _built(build: Build, leaf: Tensor) -> torch.optim.Optimizer:
    leaf.grad = torch.zeros_like(leaf)
    return build([leaf], torch.zeros((), dtype=torch.int64))
