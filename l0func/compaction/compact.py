"""A smaller network: closed units gone from every tensor, open gates folded into the weights."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from l0func.compaction.idle import fold_constants
from l0func.compaction.removal import remove
from l0func.compaction.trial import same_output
from l0func.gates.checks import MaskEstimator, check_gates
from l0func.gates.masks import deterministic_gates
from l0func.gates.prune import prune
from l0func.internal import names, tree
from l0func.internal.tree import Tree
from l0func.pure.functional import Functional, PureModule, check_function
from l0func.spec.plan import GateSpec, check_spec

Empty = Literal["raise", "constant"]


def compact(
    fn: PureModule,
    params: Tree,
    gates: Tree,
    buffers: Tree,
    spec: GateSpec,
    estimator: MaskEstimator = "louizos",
    *,
    example_inputs: Any = None,
    empty: Empty = "raise",
) -> Functional:
    """The network without its closed units: a smaller pure function with smaller parameters and
    buffers.

    The gates of groups remove: what a closed one multiplies or owns goes from every tensor, and
    the attributes that forward reads its sizes from follow. Open gates are folded into the
    weights. Gates by rules, on single weights or on rows without what depends on them, remove
    nothing by themselves: their zeros stay, and so does a bias that speaks for a row of zeros.

    With ``example_inputs`` the result is traced as well. Units that nothing reads any more go,
    whatever gates did it; those whose rows are all zero say a constant, which moves into the
    biases of what reads them; where that would not be exact, as before a padded convolution, they
    are kept. And the result is run: if it fails, or differs from the pruned network, that is an
    error.

    Args:
        fn: What ``make_functional`` returned.
        params: Its parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        buffers: Its buffers.
        spec: The plan.
        estimator: The test-time gates.
        example_inputs: A tensor, or a tuple of the inputs of forward, two rows or more.
        empty: What to do with a group that closes altogether: ``"raise"``, or keep one unit of it
            as ``"constant"``, whose weights are 0.

    Returns:
        ``fn, params, buffers``; on every input the output is that of ``fn(prune(params, gates,
        spec, estimator), buffers)``, up to the order of sums.

    Raises:
        TypeError: ``fn`` is not what ``make_functional`` returned.
        ValueError: The trees do not fit the spec or each other; a group closes altogether; groups
            contradict each other, or name slices that a module cannot do without, such as a
            LayerNorm's; or the smaller network, on the examples, fails or differs.

    Example:
        >>> import l0func as l0
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> fn, params, buffers = l0.make_functional(net)
        >>> spec = l0.gate_spec(params, groups=l0.unit_groups(net, torch.ones(2, 4)))
        >>> small = compact(fn, params, {"0": torch.tensor([4.0, -4.0, 4.0])}, buffers, spec)
        >>> {path: tuple(p.shape) for path, p in small.params.items()}
        {'0.weight': (2, 4), '0.bias': (2,), '2.weight': (2, 2), '2.bias': (2,)}
    """
    check_function(fn)
    check_spec(spec)
    if empty not in ("raise", "constant"):
        raise ValueError(
            f"A group that closes altogether is to 'raise' or to become 'constant'; got {empty!r}."
        )
    state = tree.leaves(buffers, "buffers")
    names.check_names(
        [p.path for p in spec.parameters], fn.shapes, "The function, unlike the spec,"
    )
    with torch.no_grad():
        pruned = tree.leaves(prune(params, gates, spec, estimator))
        z = deterministic_gates(check_gates(gates, spec), spec, estimator)
        opens = {name: _kept_open(name, value != 0, spec, empty) for name, value in z.items()}
        names.check_names(state, fn.buffer_names, "The function's buffers")
        for p in spec.buffers:
            names.check_names(
                state.keys() & {p.path}, [p.path], f"The buffers ({', '.join(state) or 'none'})"
            )
        small = remove(fn, pruned, state, spec, opens)
        if example_inputs is None:
            return small
        inputs = (
            cast("tuple[Any, ...]", example_inputs)
            if isinstance(example_inputs, tuple)
            else (example_inputs,)
        )
        expected = fn(pruned, state, *inputs)
        _check_equal(small, inputs, expected)
        return _without_idle_units(small, inputs, expected, empty)


def _without_idle_units(
    small: Functional, inputs: tuple[Any, ...], expected: Any, empty: Empty
) -> Functional:
    folded, spec, read = fold_constants(small, inputs)
    if spec is None:
        return small
    opens = {name: _kept_open(name, opened, spec, empty) for name, opened in read.items()}
    smaller = remove(*folded, spec, opens)
    _check_equal(smaller, inputs, expected)
    return smaller


def _kept_open(name: str, opens: Tensor, spec: GateSpec, empty: Empty) -> Tensor:
    if bool(opens.any()) or name not in dict(spec.attrs):
        return opens
    if empty == "raise":
        owned = [
            p.path
            for p in spec.parameters
            for b in p.bindings
            if b.gate == name and not b.multiplies
        ]
        what = ", ".join(map(repr, owned[:3])) or repr(name)
        raise ValueError(
            f"All {opens.numel()} units of {name!r} are closed, so that nothing is left of "
            f"{what}. "
            "Train with a smaller lam or a larger learning rate of the gates, choose another "
            "estimator, or pass "
            "empty='constant', which keeps one unit with weights of 0."
        )
    kept = opens.clone()
    kept.view(-1)[0] = True
    return kept


def _check_equal(small: Functional, inputs: tuple[Any, ...], expected: Any) -> None:
    """Refuse a smaller network that does not give what is expected of it.

    Raises:
        ValueError: It fails, or gives something else.
    """
    fn, params, buffers = small
    try:
        output = fn(params, buffers, *inputs)
    except Exception as error:
        # Whatever a stranger's forward raises on other sizes is the reason.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"The compacted network does not run on the examples: {reason}. Its groups leave "
            f"something "
            "out, such as the other branch of a residual connection; l0func.unit_groups finds all "
            "that goes together."
        ) from None
    if not same_output(output, expected):
        raise ValueError(
            "The compacted network's output on the examples is not the pruned one's: its groups "
            "remove units that something "
            "else still depends on. l0func.unit_groups finds all that goes together."
        )


def to_module(fn: PureModule, params: Tree, buffers: Tree) -> nn.Module:
    """A plain nn.Module with copies of these tensors, for a state_dict, for export, for anyone
    without this library.

    Args:
        fn: What ``make_functional`` or ``compact`` returned.
        params: Its parameters, flat or nested.
        buffers: Its buffers.

    Returns:
        A module of the classes that the original had. Only attention that has lost heads and
        recurrent layers of unequal widths are of a class in ``l0func.smaller``, since torch has
        none.

    Raises:
        TypeError: ``fn`` is not what ``make_functional`` returned.
        ValueError: The trees do not fit ``fn``.
    """
    check_function(fn)
    return fn.module(params, buffers)
