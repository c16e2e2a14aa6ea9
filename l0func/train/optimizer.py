"""torch's optimizers as functions: leaves and moments in, leaves and moments out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from l0func.internal import names, tree
from l0func.internal.context import known_values
from l0func.internal.tree import Tree

Moments: TypeAlias = dict[str, dict[str, Tensor]]
"""``{path: {name: tensor}}``, what an optimizer remembers of every leaf; empty before its first
update.
"""


class Optimizer(NamedTuple):
    """What :func:`optimizer` returns."""

    init: Callable[[Tree], Moments]
    """``init(leaves)``: nothing is remembered yet."""

    update: Callable[..., tuple[Tree, Moments]]
    """``update(grads, moments, leaves, step, donate=False)``: new leaves and moments."""

    decays: bool
    """Whether it pulls the leaves to 0, now or by a schedule."""

    by_entry: bool
    """Whether what it remembers is a number for every entry, or a count: only then is a stack like
    its members.
    """


def optimizer(kind: type[torch.optim.Optimizer], /, **settings: Any) -> Optimizer:
    """A torch optimizer as pure functions over a pytree of leaves.

    One that works entry by entry (SGD, Adam, RMSprop and their kin) does to a stack of K networks
    what K of it would.

    Args:
        kind: Such as ``torch.optim.Adam``.
        **settings: Its keyword arguments; a schedule, a function of the step, may stand for a
            number.

    Returns:
        ``init(leaves)`` and ``update(grads, moments, leaves, step, donate=False)``. With
        ``donate`` the tensors of leaves and moments are written into and belong to the result:
        nothing is copied, and the arguments are used up.

    Raises:
        TypeError: ``kind`` is not a class of optimizers, does not take a setting, or needs a
            closure or sparse gradients.
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
        return made(
            leaves,
            **{name: _setting_at(name, setting, step) for name, setting in settings.items()},
        )

    remembered, defaults = _probed(build)
    by_entry = all(t.dim() == 0 or t.shape == PROBE for t in remembered.values())
    decays = any(
        callable(settings.get(name)) or defaults.get(name, 0) for name in ("weight_decay", "lambd")
    )

    def init(leaves: Tree, /) -> Moments:
        return {path: {} for path in tree.leaves(leaves, "leaves")}

    def update(
        grads: Tree, moments: Moments, leaves: Tree, step: Tensor, /, *, donate: bool = False
    ) -> tuple[Tree, Moments]:
        slopes, named = tree.leaves(grads, "grads"), tree.leaves(leaves, "leaves")
        names.check_names(slopes, named, "The tree of leaves")
        taken = {path: _taken(t, donate) for path, t in named.items()}
        if not taken:
            return leaves, {}
        torch_optimizer = build(list(taken.values()), step)
        for path, leaf in taken.items():
            leaf.grad = slopes[path].detach()
            if moments[path]:
                torch_optimizer.state[leaf] = {
                    name: _taken(t, donate) for name, t in moments[path].items()
                }
        torch_optimizer.step()
        kept = {path: _tensor_state(torch_optimizer.state[leaf]) for path, leaf in taken.items()}
        return tree.rebuild(leaves, {path: leaf.detach() for path, leaf in taken.items()}), kept

    return Optimizer(init, update, bool(decays), by_entry)


PROBE = (2, 3)


def _probed(
    build: Callable[[list[Tensor], Tensor], torch.optim.Optimizer],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What it remembers of a small matrix after a step, and its settings."""
    leaf = torch.zeros(PROBE)
    leaf.grad = torch.ones(PROBE)
    torch_optimizer = build([leaf], torch.zeros((), dtype=torch.int64))
    try:
        torch_optimizer.step()
    except (TypeError, RuntimeError) as error:
        if "closure" in str(error) or "dense gradients" in str(error):
            raise TypeError(
                f"A pure step has dense gradients and no closure; "
                f"{type(torch_optimizer).__name__} says: {error}. Use an "
                "optimizer that works from gradients, such as torch.optim.Adam."
            ) from None
        # What does not run on a CPU is none of this function's business.
    return _tensor_state(torch_optimizer.state[leaf]), torch_optimizer.defaults


def _setting_at(name: str, setting: Any, step: Tensor) -> Any:
    if not callable(setting):
        return setting
    value = setting(step)
    number = known_values(value) if isinstance(value, Tensor) else value
    if not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(
            f"A schedule gives one finite number for each step; {name} is {value!r} at step "
            f"{int(step)}."
        )
    return number


def _taken(t: Tensor, donate: bool) -> Tensor:
    return t.detach() if donate else t.detach().clone()


def _tensor_state(remembered: dict[str, Any]) -> dict[str, Tensor]:
    return {name: t for name, t in remembered.items() if isinstance(t, Tensor)}
