"""Training as a function: a state and a batch in, a state and a loss out; of one network, or of a
stack of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from l0func import random
from l0func.internal import names, tree
from l0func.internal.mapped import flatten_mapped
from l0func.internal.tree import Tree
from l0func.internal.untyped import untyped
from l0func.train.lagrangian import Lagrangian
from l0func.train.optimizer import Moments, Optimizer
from l0func.train.stacks import check_members
from l0func.train.state import TrainState


class Training(NamedTuple):
    """What :func:`training` returns."""

    init: Callable[[Tensor, Tree, Tree, Tree], TrainState]
    """``init(key, params, gates, buffers)``: the state to start from."""

    step: Callable[..., tuple[TrainState, Tensor]]
    """``step(state, *inputs)``: the state after it, and the loss before it."""


def training(
    loss: Callable[..., Any],
    params: Optimizer,
    gates: Optimizer,
    *,
    control: Lagrangian | None = None,
    average: float = 0.0,
    in_dims: Sequence[int | None] | None = None,
    chunk_size: int | None = None,
    compile: bool = False,
    donate: bool = False,
) -> Training:
    r"""A training step as a pure function.

    Averages are exponential and start at the first state: after t steps the state of step i weighs
    :math:`\beta^{t-i}(1-\beta)/(1-\beta^t)`.

    Args:
        loss: ``loss(params, gates, buffers, key, *inputs)`` to a scalar, or to a scalar and new
            buffers. What changes from step to step (a batch, λ) is an input; pass numbers as
            tensors.
        params: The optimizer of the parameters.
        gates: The optimizer of the gates; without weight decay, and with a larger learning rate.
        control: A controller, whose penalty is added and whose state is updated.
        average: :math:`\beta` of the averages of params and gates, in [0, 1); 0 keeps none.
        in_dims: For a sweep: where the members are in each input, None for one that all share. The
            leaves of the state, but for ``step``, are stacks then, see :func:`stack`.
        chunk_size: Members of a sweep to compute at once; None is all. Memory falls with it.
            Convolutions over mapped weights are grouped ones, which a CPU may do more slowly than
            one after another.
        compile: Whether ``torch.compile`` sees the gradient.
        donate: Whether a step may write into the state that it is given, which is used up then.

    Returns:
        ``init(key, params, gates, buffers)`` and ``step(state, *inputs)``.

    Raises:
        TypeError: An optimizer is not what :func:`l0func.optimizer` returned, or ``control`` not a
            controller; ``in_dims`` is no sequence; when a step is made, the loss returned neither
            a scalar nor a scalar and buffers.
        ValueError: The optimizer of the gates has weight decay; an optimizer of a sweep couples
            entries; ``average`` is outside [0, 1); ``chunk_size`` is not positive, or there is no
            sweep to take it from; when a step is made, the state is another training's, or the
            buffers that the loss returned are not those that it was given.
    """
    _check_kinds(params, gates, control, in_dims)
    if gates.decays:
        raise ValueError(
            "Weight decay pulls gates to log_alpha = 0, half open. Give gates an optimizer with "
            "weight_decay=0, and let "
            "l0func.penalty(weight_decay=...) decay the weights behind them."
        )
    if not 0.0 <= average < 1.0:
        raise ValueError(
            f"The average's decay is in [0, 1), and 0 keeps no average; got {average}."
        )
    if chunk_size is not None and (in_dims is None or operator.index(chunk_size) < 1):
        raise ValueError(
            f"chunk_size is a number of members of a sweep, at least 1, and goes with in_dims; "
            f"got {chunk_size} and in_dims "
            f"{in_dims}. None computes all members at once."
        )

    def objective(
        trained: tuple[Tree, Tree], buffers: Tree, key: Tensor, held: Any, *inputs: Any
    ) -> Any:
        # Containers of its own: a loss that writes into a dict must not write into the state.
        result: Any = loss(*trained, tree.map_tensors(lambda t: t, buffers), key, *inputs)
        value, updated = _value_and_buffers(result, buffers)
        total: Tensor = value if control is None else value + control.penalty(held, trained[1])
        return total, (value, updated)

    slopes: Any = (
        torch.func.grad(objective, has_aux=True)
        if in_dims is not None or compile
        else _value_and_grad(objective)
    )
    if in_dims is not None:
        slopes = torch.vmap(slopes, (0, 0, 0, 0, *in_dims))
    if compile:
        slopes = untyped.compile(slopes, fullgraph=True)
    if chunk_size is not None:
        slopes = _in_chunks(slopes, (0, 0, 0, 0, *(in_dims or ())), chunk_size)

    def init(key: Tensor, weights: Tree, log_alpha: Tree, buffers: Tree, /) -> TrainState:
        random.check_key(key)
        held = None if control is None else control.init(log_alpha)
        moments = {"params": params.init(weights), "gates": gates.init(log_alpha)}
        start = (tree.leaves(weights), tree.leaves(log_alpha, "gates"))
        kept = {} if average == 0.0 else {"params": _copied(start[0]), "gates": _copied(start[1])}
        step = torch.zeros((), dtype=torch.int64, device=key.device)
        return TrainState(
            step, key, _copied(weights), _copied(log_alpha), _copied(buffers), moments, kept, held
        )

    def step(state: TrainState, /, *inputs: Any) -> tuple[TrainState, Tensor]:
        _check_state(state, control, average)
        if in_dims is not None:
            check_members(state, inputs, in_dims)
        key = random.fold_in(state.key, state.step)
        trained = (state.params, state.gates)
        # vmap takes no None for a pytree without leaves.
        held: Any = () if state.control is None else state.control
        grads, (value, buffers) = slopes(trained, state.buffers, key, held, *inputs)
        moments: dict[str, Moments] = {}
        new: list[Tree] = []
        parts = zip(("params", "gates"), (params, gates), trained, grads, strict=True)
        for name, update, leaves, slope in parts:
            leaves, moments[name] = update.update(
                slope, state.moments[name], leaves, state.step, donate=donate
            )
            new.append(leaves)
        averages = _averaged(
            state.averages, dict(zip(("params", "gates"), new, strict=True)), average, state.step
        )
        if control is not None:
            held = (torch.vmap(control.update) if in_dims is not None else control.update)(
                held, new[1]
            )
        following = state._replace(
            step=state.step + 1, params=new[0], gates=new[1], buffers=buffers, moments=moments
        )
        return following._replace(
            averages=averages, control=None if control is None else held
        ), value.detach()

    return Training(init, step)


def _check_kinds(params: Any, gates: Any, control: Any, in_dims: Any) -> None:
    for name, given in (("params", params), ("gates", gates)):
        if not isinstance(given, Optimizer):
            raise TypeError(
                f"The optimizer of {name} is what l0func.optimizer returns, such as "
                f"l0func.optimizer(torch.optim.Adam, lr=1e-3); got {given!r}."
            )
        if in_dims is not None and not given.by_entry:
            raise ValueError(
                f"The optimizer of {name} remembers sums over several entries, so that members of "
                f"a stack would move each "
                "other. Use one that works entry by entry, such as torch.optim.Adam, or train the "
                "members apart."
            )
    if control is not None and not isinstance(control, Lagrangian):
        raise TypeError(f"control is what l0func.lagrangian returns; got {control!r}.")
    if in_dims is not None and not isinstance(in_dims, Sequence):
        raise TypeError(
            f"in_dims has an entry for each input, such as (0, 0, None); got {in_dims!r}."
        )


def _check_state(state: Any, control: Lagrangian | None, average: float) -> None:
    if not isinstance(state, TrainState):
        raise TypeError(
            f"A step takes the state that init or a step returned; got {type(state).__name__}."
        )
    for what, there, wanted in (
        ("averages", bool(state.averages), average > 0.0),
        ("controller state", state.control is not None, control is not None),
    ):
        if there != wanted:
            raise ValueError(
                f"The state has {'' if there else 'no '}{what}, and this training "
                f"{'keeps some' if wanted else 'has none'}: "
                "it is another training's. Begin with this one's init, or build it with the same "
                "control and average."
            )


def _value_and_buffers(result: Any, buffers: Tree) -> tuple[Tensor, Tree]:
    pair: Any = (result, buffers) if isinstance(result, Tensor) else result
    if not (_is_pair(pair) and isinstance(pair[0], Tensor)):
        raise TypeError(
            f"A loss returns a scalar tensor, or (scalar, new buffers); got "
            f"{type(result).__name__}."
        )
    value, updated = pair
    if value.dim() or not value.is_floating_point():
        raise ValueError(
            f"A loss is one real number; got {value.dtype} of shape {tuple(value.shape)}. Average "
            f"over the batch."
        )
    named, known = tree.leaves(updated, "the new buffers"), tree.leaves(buffers, "buffers")
    names.check_names(
        named, known, "What stands for the state's buffers, as the loss returned it,"
    )
    for path, t in named.items():
        if t.shape != known[path].shape:
            raise ValueError(
                f"A buffer keeps its shape; the loss returned {path!r} of shape {tuple(t.shape)} "
                f"for "
                f"{tuple(known[path].shape)}."
            )
    return value, updated


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(cast("tuple[Any, ...]", value)) == 2


def _value_and_grad(objective: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.func.grad(objective, has_aux=True)`` for what is neither mapped nor compiled."""

    # torch.func.grad keeps what a second derivative would need: a small network's step takes twice
    # as long with it.
    def slopes(trained: tuple[Tree, Tree], *others: Any) -> Any:
        with torch.enable_grad():
            taken = {
                path: t.detach().requires_grad_()
                for path, t in tree.leaves(trained, "what is trained").items()
            }
            total, aux = objective(tree.rebuild(trained, taken), *others)
            grads: Any = torch.autograd.grad(total, list(taken.values()), allow_unused=True)
        found = {
            path: t.new_zeros(t.shape) if g is None else g
            for (path, t), g in zip(taken.items(), grads, strict=True)
        }
        return tree.rebuild(trained, found), tree.map_tensors(lambda t: t.detach(), aux)

    return slopes


def _in_chunks(
    mapped: Callable[..., Any], dims: tuple[int | None, ...], size: int
) -> Callable[..., Any]:
    """A mapped function over ``size`` members at a time."""

    # Outside of what is compiled: torch.vmap's own chunks would be laid out in the graph, one
    # after another.
    def chunks(*arguments: Any) -> Any:
        parts = flatten_mapped(arguments, dims, "in_dims")
        members = next(x.shape[d] for x, d in parts.mapped())
        found: list[Any] = []
        for start in range(0, members, size):
            some = [x.narrow(d, start, min(size, members - start)) for x, d in parts.mapped()]
            found.append(mapped(*parts.rebuilt(some)))
        named = [tree.leaves(of, "a chunk") for of in found]
        return tree.rebuild(
            found[0], {path: torch.cat([of[path] for of in named]) for path in named[0]}
        )

    return chunks


def _copied(leaves: Tree) -> Tree:
    return tree.map_tensors(lambda t: t.detach().clone(), leaves)


def _averaged(averages: Tree, new: dict[str, Tree], decay: float, step: Tensor) -> Tree:
    if not averages:
        return averages
    t = int(step)
    weight = (1 - decay) / (1 - decay ** (t + 1))
    return {
        part: {path: a.lerp(tree.leaves(new[part])[path], weight) for path, a in of.items()}
        for part, of in averages.items()
    }
