"""Checks of the arguments of ``training``, and of the state that a step gets."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from l0func.internal.watch import warn_user
from l0func.train.lagrangian import Lagrangian
from l0func.train.numbers import check_number, whole_number
from l0func.train.optimizer import Optimizer
from l0func.train.state import TrainState


def renamed(name: str, value: Any, former: str, old_value: Any) -> Any:
    """An argument that may come under its former name, with a DeprecationWarning.

    Raises:
        TypeError: The argument is missing, or comes under both names.
    """
    if old_value is None:
        if value is None:
            raise TypeError(
                f"training takes a loss, weights_optimizer and gates_optimizer; {name} is missing."
            )
        return value
    if value is not None:
        raise TypeError(f"{former} is the former name of {name}; got both.")
    warn_user(f"training's argument {former} is now named {name}.", DeprecationWarning)
    return old_value


def check_optimizers(weights: Any, gates: Any, in_dims: Any) -> None:
    """Refuse optimizers from elsewhere, weight decay of gates, and couplings in a sweep.

    Raises:
        TypeError: An optimizer is not from :func:`l0func.optimizer`.
        ValueError: The gates' optimizer decays; or a sweep's couples entries.
    """
    _check_optimizer("weights", weights, in_dims)
    _check_optimizer("gates", gates, in_dims)
    if gates.decays:
        raise ValueError(
            "Weight decay pulls gates to log_alpha = 0, half open. Give gates an optimizer with "
            "weight_decay=0, and let l0func.penalty(weight_decay=...) decay the weights behind "
            "them."
        )


def _check_optimizer(name: str, given: Any, in_dims: Any) -> None:
    if not isinstance(given, Optimizer):
        raise TypeError(
            f"The optimizer of {name} comes from l0func.optimizer, such as "
            f"l0func.optimizer(torch.optim.Adam, lr=1e-3); got {given!r}."
        )
    if in_dims is not None and not given.by_entry:
        raise ValueError(
            f"The optimizer of {name} couples entries, in its memory or in its steps, so members "
            "of a stack would move each other. Use one that works entry by entry, such as "
            "torch.optim.Adam, or train the members apart; clip=l0func.clip_norm(...) has a norm "
            "for each member."
        )


def check_functions(loss: Any, penalty: Any, clip: Any, reduce: Any) -> None:
    """Refuse a loss, a penalty, a clip or a reduce that is no function of its arguments.

    Raises:
        TypeError: One of them is something else, or takes another number of arguments.
    """
    if not _takes_arguments(loss, 4, more=True):
        raise TypeError(f"loss is a function (params, gates, buffers, key, ...); got {loss!r}.")
    if penalty is not None and not _takes_arguments(penalty, 2):
        raise TypeError(
            "penalty is a function (params, gates), such as lambda params, gates: "
            f"l0func.penalty(params, gates, spec, lam); got {penalty!r}."
        )
    if clip is not None and not _takes_arguments(clip, 2):
        raise TypeError(
            "clip is a function over the gradients of weights and gates, such as "
            f"l0func.clip_norm(1.0); got {clip!r}."
        )
    if reduce is not None and not _takes_arguments(reduce, 2):
        raise TypeError(
            "reduce is a function (tree, rows) over all processes, such as "
            f"l0func.all_reduce_mean; got {reduce!r}."
        )


def _takes_arguments(value: Any, count: int, more: bool = False) -> bool:
    """Whether a value is a function of so many arguments by position, as far as it shows.

    Args:
        value: Any value.
        count: The number of arguments.
        more: Whether it may need more than these.
    """
    if not callable(value):
        return False
    try:
        # What a decorator wraps may take other arguments than the wrapper.
        signature = inspect.signature(value, follow_wrapped=False)
    except (TypeError, ValueError):
        return True
    bind = signature.bind_partial if more else signature.bind
    try:
        bind(*([None] * count))
    except TypeError:
        return False
    return True


def check_control(control: Any) -> None:
    """Refuse anything but a controller or None.

    Raises:
        TypeError: ``control`` is something else.
    """
    if control is not None and not isinstance(control, Lagrangian):
        raise TypeError(f"control comes from l0func.lagrangian; got {control!r}.")


def check_average(average: Any) -> None:
    """Refuse a decay outside of [0, 1).

    Raises:
        TypeError: It is no number.
        ValueError: It is outside.
    """
    check_number("The average's decay", average)
    if not 0.0 <= average < 1.0:
        raise ValueError(
            f"The average's decay is in [0, 1), and 0 keeps no average; got {average}."
        )


def check_sweep(in_dims: Any, chunk_size: Any) -> None:
    """Refuse dimensions that are no sequence, and chunks without a sweep.

    Raises:
        TypeError: ``in_dims`` is no sequence, or ``chunk_size`` no integer.
        ValueError: ``chunk_size`` is not positive, or there is no sweep.
    """
    if in_dims is not None and (isinstance(in_dims, str) or not isinstance(in_dims, Sequence)):
        raise TypeError(
            f"in_dims has an entry for each input, such as (0, 0, None); got {in_dims!r}."
        )
    if chunk_size is None:
        return
    if whole_number("chunk_size", chunk_size) < 1 or in_dims is None:
        raise ValueError(
            f"chunk_size is a number of members of a sweep, at least 1, and goes with in_dims; "
            f"got {chunk_size} and in_dims {in_dims}. None computes all members at once."
        )


def check_state(state: Any, control: Lagrangian | None, average: float) -> None:
    """Refuse a state that another training made.

    Raises:
        TypeError: It is no training state.
        ValueError: It has averages or a controller's state and should not, or the reverse.
    """
    if not isinstance(state, TrainState):
        raise TypeError(
            f"A step takes the state that init or a step returned; got {type(state).__name__}."
        )
    _check_both("averages", bool(state.averages), average > 0.0)
    _check_both("controller state", state.control is not None, control is not None)


def _check_both(name: str, has: bool, wants: bool) -> None:
    if has == wants:
        return
    there = name if has else f"no {name}"
    wanted = "keeps some" if wants else "has none"
    raise ValueError(
        f"The state has {there}, and this training {wanted}: it is another training's. Begin with "
        "this one's init, or build it with the same control and average."
    )
