"""torch's optimizers as functions: leaves and moments in, leaves and moments out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from l0func import tree
from l0func.transforms import values
from l0func.tree import Tree

Moments: TypeAlias = dict[str, dict[str, Tensor]]
"""``{path: {name: tensor}}``, what an optimizer remembers of every leaf; empty before its first update."""


class Optimizer(NamedTuple):
    """What :func:`optimizer` returns."""

    init: Callable[[Tree], Moments]
    """``init(leaves)``: nothing is remembered yet."""

    update: Callable[..., tuple[Tree, Moments]]
    """``update(grads, moments, leaves, step, donate=False)``: new leaves and moments."""

    decays: bool
    """Whether it pulls the leaves to 0."""


def optimizer(kind: type[torch.optim.Optimizer], /, **settings: Any) -> Optimizer:
    """A torch optimizer as pure functions over a pytree of leaves.

    One that works entry by entry (SGD, Adam, RMSprop and their kin) does to a stack of K networks what K of it would.

    Args:
        kind: Such as ``torch.optim.Adam``.
        **settings: Its keyword arguments; a schedule, a function of the step, may stand for a number.

    Returns:
        ``init(leaves)`` and ``update(grads, moments, leaves, step, donate=False)``. With ``donate`` the tensors of leaves
        and moments are written into and belong to the result: nothing is copied, and the arguments are used up.

    Raises:
        TypeError: ``kind`` is not a class of ``torch.optim``, or does not take a setting.
        ValueError: A setting is out of its range.

    Example:
        >>> sgd = optimizer(torch.optim.SGD, lr=0.5)
        >>> w = {"w": torch.ones(2)}
        >>> sgd.update({"w": torch.ones(2)}, sgd.init(w), w, torch.tensor(0))[0]
        {'w': tensor([0.5000, 0.5000])}
    """
    made: Any = kind
    if not (isinstance(made, type) and issubclass(made, torch.optim.Optimizer)):
        raise TypeError(f"kind is a class of torch.optim, such as torch.optim.Adam; got {made!r}.")

    def build(leaves: list[Tensor], step: Tensor) -> torch.optim.Optimizer:
        return made(leaves, **{name: _at(setting, step) for name, setting in settings.items()})

    defaults = build([torch.zeros(1)], torch.zeros((), dtype=torch.int64)).defaults

    def init(leaves: Tree, /) -> Moments:
        return {path: {} for path in tree.leaves(leaves, "leaves")}

    def update(grads: Tree, moments: Moments, leaves: Tree, step: Tensor, /, *, donate: bool = False) -> tuple[Tree, Moments]:
        slopes, named = tree.leaves(grads, "grads"), tree.leaves(leaves, "leaves")
        tree.check_names(slopes, named, "The tree of leaves")
        taken = {path: _taken(t, donate) for path, t in named.items()}
        if not taken:
            return leaves, {}
        torch_optimizer = build(list(taken.values()), step)
        for path, leaf in taken.items():
            leaf.grad = slopes[path].detach()
            if moments[path]:
                torch_optimizer.state[leaf] = {name: _taken(t, donate) for name, t in moments[path].items()}
        torch_optimizer.step()
        kept = {path: _tensors(torch_optimizer.state[leaf]) for path, leaf in taken.items()}
        return tree.rebuild(leaves, {path: leaf.detach() for path, leaf in taken.items()}), kept

    return Optimizer(init, update, bool(defaults.get("weight_decay", 0)))


def _at(setting: Any, step: Tensor) -> Any:
    if not callable(setting):
        return setting
    value = setting(step)
    return float(values(value)) if isinstance(value, Tensor) else value


def _taken(t: Tensor, donate: bool) -> Tensor:
    return t.detach() if donate else t.detach().clone()


def _tensors(remembered: dict[str, Any]) -> dict[str, Tensor]:
    return {name: t for name, t in remembered.items() if isinstance(t, Tensor)}
