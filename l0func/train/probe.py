"""A torch optimizer tried on a small tensor: its state, and reasons that it cannot be pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from l0func.internal.watch import listed_names

Build: TypeAlias = Callable[[list[Tensor], Tensor], torch.optim.Optimizer]
"""``build(leaves, step)``: a torch optimizer for these leaves."""

Number: TypeAlias = bool | int | float

# Some optimizers remember more after some steps, such as slow weights.
_STEPS = 12


class Probe(NamedTuple):
    """A torch optimizer after its first step with a small tensor, and what it keeps later."""

    state: dict[str, Any]
    """Its state for the tensor after one step."""

    defaults: dict[str, Any]
    """Its settings."""

    later: frozenset[str]
    """Names in its state after some more steps."""

    works: bool
    """Whether it can take a step here; some need a GPU."""


def probed(build: Build, leaf: Tensor, slope: float, steps: int = _STEPS) -> Probe:
    """Take steps from zero with the same gradient in all entries.

    Args:
        build: The optimizer.
        leaf: Zeros to move.
        slope: The gradient.
        steps: Number of steps, at least 1.

    Raises:
        TypeError: The optimizer needs a closure or sparse gradients, or keeps something that a
            pure step would lose.
    """
    leaf.grad = torch.full_like(leaf, slope)
    torch_optimizer = build([leaf], torch.zeros((), dtype=torch.int64))
    kind = type(torch_optimizer).__name__
    _check_state(kind, torch_optimizer, leaf)
    own = _Own(torch_optimizer)
    first: dict[str, Any] | None = None
    for _ in range(steps):
        if not _steps(kind, torch_optimizer):
            break
        _check_state(kind, torch_optimizer, leaf)
        own.check_unchanged(kind)
        if first is None:
            state = torch_optimizer.state[leaf]
            first = {name: _kept(value) for name, value in state.items()}
    state = torch_optimizer.state[leaf]
    later = frozenset(name for name, value in state.items() if value is not None)
    return Probe(first or {}, torch_optimizer.defaults, later, first is not None)


def _steps(kind: str, torch_optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer can take a step here."""
    try:
        torch_optimizer.step()
    except (TypeError, RuntimeError, AssertionError) as error:
        if "closure" in str(error) or "dense gradients" in str(error):
            raise TypeError(
                f"A pure step has dense gradients and no closure; {kind} says: {error}. Use an "
                "optimizer that works from gradients, such as torch.optim.Adam."
            ) from None
        # Other errors pass: an optimizer that needs a GPU fails here and works there.
        return False
    return True


def _check_state(kind: str, torch_optimizer: torch.optim.Optimizer, leaf: Tensor) -> None:
    """Refuse state that belongs to no leaf, or is neither a tensor nor a number."""
    for holder, state in torch_optimizer.state.items():
        if holder is not leaf:
            raise TypeError(
                f"{kind} keeps state under {holder!r}, and a pure step carries the state of "
                "leaves alone: it would be lost. Use an optimizer that keeps its state by leaf, "
                "such as torch.optim.Adam."
            )
        check_moments(kind, state)


def check_moments(kind: str, state: Mapping[str, Any]) -> None:
    """Refuse an optimizer's state for a leaf if a value is neither a tensor nor a number.

    Raises:
        TypeError: There is such a value.
    """
    for name, value in state.items():
        if value is not None and not isinstance(value, Tensor | Number):
            raise TypeError(
                f"{kind} keeps {name!r}, a {type(value).__name__}, in its state, and a pure step "
                "carries tensors and numbers: it would be lost. Use an optimizer whose state is "
                "tensors and numbers, such as torch.optim.Adam."
            )


class _Own:
    """The numbers and tensors that an optimizer keeps in its groups and in its attributes."""

    def __init__(self, torch_optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = torch_optimizer
        self.before = self._values()

    def check_unchanged(self, kind: str) -> None:
        """Refuse values that a step changed, since every pure step makes its optimizer anew."""
        now = self._values()
        both = self.before.keys() & now.keys()
        changed = sorted(name for name in both if not _is_unchanged(self.before[name], now[name]))
        # A value that the first step adds is compared from the second on.
        self.before = now
        if changed:
            raise TypeError(
                f"A step of {kind} changes its own {listed_names(changed)}, and a pure step makes "
                "its optimizer anew: the change would be lost. Use an optimizer that keeps all of "
                "its state by leaf, such as torch.optim.Adam; a learning rate that changes is a "
                "schedule, as in l0func.schedules."
            )

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for group in self.optimizer.param_groups:
            for name, value in group.items():
                if name != "params":
                    values[f"param_groups[0][{name!r}]"] = _kept(value)
        for name, value in vars(self.optimizer).items():
            if not isinstance(value, bool):
                values[name] = _kept(value)
        return values


def _kept(value: Any) -> Any:
    """A number as it is, a copy of a tensor, and None for all else."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value if isinstance(value, Number) else None


def _is_unchanged(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return torch.equal(before, now)
    return before is now or before == now
