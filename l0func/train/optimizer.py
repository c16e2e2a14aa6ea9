"""torch's optimizers as pure functions: leaves and moments in, new leaves and moments out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from l0func.internal import names, tree
from l0func.internal.tree import Tree, TreeT
from l0func.train.factory import PROBE_SHAPE, Factory, name_of, several
from l0func.train.first_moments import FirstMoments
from l0func.train.probe import Number, check_moments, probed
from l0func.train.setting_checks import check_builds, check_settings
from l0func.train.trial import check_repeats, keeps_members_apart

OwnMoments: TypeAlias = dict[str, Tensor | None]
"""``{name: tensor}``: the optimizer's state for a leaf; None for what the first step will make."""

OTHERS = "*"
"""A name for moments that later steps may add."""

Moments: TypeAlias = dict[str, OwnMoments | None]
"""``{leaf path: moments}``; None where nothing is known of them before the first step."""

ONE_FOR_EACH_PART = (
    "For parts of the leaves with optimizers of their own, build an l0func.Optimizer that hands "
    "each part on, as the page 'Your own optimizer' shows."
)


class Update(Protocol):
    """How an optimizer moves leaves."""

    def __call__(
        self,
        grads: Tree,
        moments: Moments,
        leaves: TreeT,
        step: Tensor,
        /,
        *,
        donate: bool = False,
    ) -> tuple[TreeT, Moments]:
        """New leaves and moments."""
        ...


class Optimizer(NamedTuple):
    """An optimizer as pure functions; :func:`optimizer` makes it.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> adam = l0.optimizer(torch.optim.Adam, lr=0.1)
        >>> w = {"w": torch.ones(2)}
        >>> moments = adam.init(w)
        >>> adam.update({"w": torch.ones(2)}, moments, w, torch.tensor(0))[0]
        {'w': tensor([0.9000, 0.9000])}
    """

    init: Callable[[Tree], Moments]
    """``init(leaves)``: the moments before the first step."""

    update: Update
    """``update(grads, moments, leaves, step, donate=False)``: new leaves and moments."""

    decays: bool
    """Whether it pulls the leaves to 0, now or by a schedule."""

    by_entry: bool
    """Whether it moves every entry by that entry's own numbers, and counts that all share.

    Only then does the optimizer treat stacked networks like separate ones.
    """


def optimizer(kind: type[torch.optim.Optimizer], /, **settings: Any) -> Optimizer:
    """A torch optimizer as pure functions over a pytree.

    An optimizer that works entry by entry (SGD, Adam, RMSprop and their kin) treats K stacked
    networks like K optimizers with one network each.

    Moments are tensors. A Python number in the optimizer's state, such as a step counter, becomes
    a 0-d tensor, and the optimizer gets it back as a number.

    Args:
        kind: An optimizer class, such as ``torch.optim.Adam``.
        **settings: Its keyword arguments. A number may be a schedule: a function from the step
            to a number.

    Returns:
        ``init(leaves)`` and ``update(grads, moments, leaves, step, donate=False)``. With
        ``donate`` the update writes into its arguments' tensors, and the result owns them:
        nothing is copied, and the arguments are used up.

    Raises:
        TypeError: ``kind`` is no optimizer class, does not take a setting, or needs a closure or
            sparse gradients; or it keeps something that a pure step would lose: a value in its
            groups or attributes that its step changes, state outside of the leaves, or state that
            is neither a tensor nor a number; or its step draws random numbers.
        ValueError: A setting is outside its range.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> sgd = l0.optimizer(torch.optim.SGD, lr=0.5)
        >>> w = {"w": torch.ones(2)}
        >>> sgd.update({"w": torch.ones(2)}, sgd.init(w), w, torch.tensor(0))[0]
        {'w': tensor([0.5000, 0.5000])}
    """
    given: Any = kind
    if not (isinstance(given, type) and issubclass(given, torch.optim.Optimizer)):
        raise TypeError(
            f"kind is a class of torch.optim, such as torch.optim.Adam; got {given!r}."
        )
    if "params" in settings:
        raise TypeError(
            f"params is no setting: {given.__name__} gets its leaves from each step, and its "
            f"settings hold for all of them. {ONE_FOR_EACH_PART}"
        )
    check_settings(given, settings)
    factory = Factory(given, settings)
    check_builds(factory)
    probe = probed(factory.build, torch.zeros(PROBE_SHAPE), 1.0)
    other = probed(factory.build, torch.zeros(PROBE_SHAPE), -3.0, steps=1)
    functions = _OptimizerFunctions(factory, _number_types(probe.state), probe.later)
    functions.check_repeats(torch.zeros(PROBE_SHAPE))
    by_entry = _has_moments_by_entry(_as_moments(probe.state), _as_moments(other.state))
    apart = keeps_members_apart(factory.steady)
    if apart is None:
        apart = not several(settings)
    by_entry = by_entry and apart
    decays = _decays(settings, probe.defaults)
    return Optimizer(functions.init, functions.update, decays, by_entry)


@dataclass(frozen=True)
class _OptimizerFunctions:
    """The functions ``init`` and ``update`` in an :class:`Optimizer`."""

    factory: Factory
    numbers: Mapping[str, type[Number]]
    """``{name: Python type}`` for the moments that the torch optimizer holds as numbers."""

    later: frozenset[str]
    """Names of moments that it may add after its first step."""

    names: dict[tuple[int, torch.dtype, torch.device], frozenset[str] | None] = field(
        default_factory=dict[Any, Any]
    )
    """A memo: names of the moments after a first step, for each kind of leaf."""

    @cached_property
    def first(self) -> FirstMoments:
        """The moments before a first step."""
        return FirstMoments(self.factory.build, _as_moments, self._update_one)

    def init(self, leaves: Tree, /) -> Moments:
        named = tree.leaves(leaves, "leaves")
        found: Moments = {}
        for path, leaf in named.items():
            try:
                found[path] = self._before(leaf)
            except ValueError as error:
                raise ValueError(
                    f"{name_of(self.factory.kind)} takes no leaf such as {path!r} of shape "
                    f"{tuple(leaf.shape)}: {error}. {ONE_FOR_EACH_PART}"
                ) from error
        return found

    def _before(self, leaf: Tensor) -> OwnMoments | None:
        """A leaf's moments before the first step, with the names of what steps will make."""
        first, own = self.first.of(leaf), self._names_of(leaf)
        if own is None:
            return {**first} or None
        to_make = sorted(own - first.keys())
        others = [OTHERS] if self.later - own else []
        return {**first, **dict.fromkeys([*to_make, *others])}

    def _update_one(
        self, grad: Tensor, moments: dict[str, Tensor], leaf: Tensor, step: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        moved, kept = self._moved({"": grad}, {"": moments}, {"": leaf}, step)
        return moved[""], kept[""]

    def update(
        self,
        grads: Tree,
        moments: Moments,
        leaves: TreeT,
        step: Tensor,
        /,
        *,
        donate: bool = False,
    ) -> tuple[TreeT, Moments]:
        slopes = tree.leaves(grads, "grads")
        named = tree.leaves(leaves, "leaves")
        names.check_names(slopes, named, "the gradients", "the leaves")
        _check_moves_these(moments, named)
        if not named:
            return leaves, {}
        held = {path: made(of_leaf) for path, of_leaf in moments.items()}
        for path, of_leaf in held.items():
            self._check_own(path, of_leaf, named[path])
        moved, kept = self._moved(slopes, held, named, step, donate)
        return tree.rebuild(leaves, moved), {path: {**of_leaf} for path, of_leaf in kept.items()}

    def _moved(
        self,
        slopes: Mapping[str, Tensor],
        moments: Mapping[str, dict[str, Tensor]],
        leaves: Mapping[str, Tensor],
        step: Tensor,
        donate: bool = False,
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """One step of torch's own optimizer."""
        taken = {path: _taken(t, donate) for path, t in leaves.items()}
        torch_optimizer = self.factory.build(list(taken.values()), step)
        for path, leaf in taken.items():
            leaf.grad = slopes[path].detach()
            if moments[path]:
                torch_optimizer.state[leaf] = self._as_state(moments[path], donate)
        torch_optimizer.step()
        kept = {path: _as_moments(torch_optimizer.state[leaf]) for path, leaf in taken.items()}
        return {path: leaf.detach() for path, leaf in taken.items()}, kept

    def _check_own(self, path: str, moments: Mapping[str, Tensor], leaf: Tensor) -> None:
        """Refuse the moments of another optimizer: it would miss some, or carry others along."""
        own = self._names_of(leaf)
        got = moments.keys()
        if not got or own is None or (own <= got and got <= own | self.later):
            return
        raise ValueError(
            f"{name_of(self.factory.kind)} keeps {sorted(own) or 'no moments'} for {path!r}; the "
            f"state has {sorted(got)}, the moments of another optimizer or of other settings. "
            "Go on with that optimizer, or begin with new moments: "
            "state._replace(moments=init(key, params, gates, buffers).moments)."
        )

    def check_repeats(self, likeness: Tensor) -> None:
        """Refuse steps that depend on more than gradients, state and settings.

        Raises:
            TypeError: They do.
        """
        factory = Factory(self.factory.kind, self.factory.steady_settings)
        steady = replace(self, factory=factory)
        start = torch.zeros((), dtype=torch.int64)

        def update(grads: Any, moments: Any, leaves: Any) -> Any:
            return steady._moved(grads, moments, leaves, start)

        check_repeats(name_of(factory.kind), factory.steady, update, likeness)

    def _names_of(self, leaf: Tensor) -> frozenset[str] | None:
        """The moments' names after a first step on such a leaf; None if they are unknown."""
        likeness = (leaf.dim(), leaf.dtype, leaf.device)
        if likeness not in self.names:
            small = torch.zeros((2,) * leaf.dim(), dtype=leaf.dtype, device=leaf.device)
            probe = probed(self.factory.build, small, 1.0, steps=1)
            kept = frozenset(_as_moments(probe.state))
            self.names[likeness] = kept if probe.works else None
            if not leaf.is_meta:
                # Some draw only for leaves of one kind, such as to round those in half precision.
                self.check_repeats(torch.zeros_like(small))
        return self.names[likeness]

    def _as_state(self, moments: Mapping[str, Tensor], donate: bool) -> dict[str, Any]:
        """The torch optimizer's state for one leaf; numbers are Python numbers again."""
        state: dict[str, Any] = {}
        for name, t in moments.items():
            number = self.numbers.get(name)
            if number is None:
                state[name] = _taken(t, donate)
            else:
                state[name] = number(t.item())
        return state


def _check_moves_these(moments: Moments, leaves: Mapping[str, Tensor]) -> None:
    """Refuse the moments of other leaves than those that move."""
    try:
        names.check_names(moments, leaves, "the state's moments", "the leaves that move")
    except ValueError as error:
        raise ValueError(
            f"{error} It is of a training with another trainable. Go on with that one, or begin "
            "with new moments: state._replace(moments=init(state.key, state.params, state.gates, "
            "state.buffers).moments)."
        ) from None


def made(moments: Mapping[str, Tensor | None] | None, /) -> dict[str, Tensor]:
    """The moments of a leaf that are there."""
    return {name: t for name, t in (moments or {}).items() if t is not None}


def _as_moments(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors and numbers that a torch optimizer holds for one leaf, all as tensors."""
    check_moments("The optimizer", state)
    moments: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            moments[name] = value
        elif isinstance(value, Number):
            # A Python float has 64 bits: the optimizer gets back exactly its own number.
            dtype = torch.float64 if isinstance(value, float) else None
            moments[name] = torch.tensor(value, dtype=dtype)
    return moments


def _number_types(state: Mapping[str, Any]) -> dict[str, type[Number]]:
    return {name: type(value) for name, value in state.items() if isinstance(value, Number)}


def _has_moments_by_entry(moments: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether each moment has a number per entry, or is a count.

    A count is a 0-d moment that is the same after two different gradients.
    """
    for name, t in moments.items():
        same = name in others and torch.equal(t, others[name])
        is_count = same and t.dim() == 0
        if t.shape != PROBE_SHAPE and not is_count:
            return False
    return True


def _decays(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    for name in ("weight_decay", "lambd"):
        if callable(settings.get(name)) or defaults.get(name, 0):
            return True
    return False


def _taken(t: Tensor, donate: bool) -> Tensor:
    return t.detach() if donate else t.detach().clone()
