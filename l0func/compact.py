"""A smaller network: closed units gone from every tensor, open gates folded into the weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from l0func import tree
from l0func.functional import Functional, PureModule, check_function
from l0func.gates import Estimator, check_gates, deterministic_gates
from l0func.prune import prune
from l0func.removal import remove
from l0func.spec import GateSpec
from l0func.tree import Tree

Empty = Literal["raise", "constant"]


def compact(
    fn: PureModule,
    params: Tree,
    gates: Tree,
    buffers: Tree,
    spec: GateSpec,
    estimator: Estimator = "louizos",
    *,
    empty: Empty = "raise",
) -> Functional:
    """The network without its closed units: a smaller pure function with smaller parameters and buffers.

    The gates of groups remove: what a closed one multiplies or owns goes from every tensor, and the attributes that forward
    reads its sizes from follow. Gates by rules, on single weights or on rows without what depends on them, remove nothing:
    their zeros stay, and so does a bias that speaks for a row of zeros. Open gates are folded into the weights.

    Args:
        fn: What ``make_functional`` returned.
        params: Its parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        buffers: Its buffers.
        spec: The plan.
        estimator: The test-time gates.
        empty: What to do with a group that closes altogether: ``"raise"``, or keep one unit of it as ``"constant"``, whose
            weights are 0.

    Returns:
        ``fn, params, buffers``; on every input the output is that of ``fn(prune(params, gates, spec, estimator), buffers)``,
        up to the order of sums.

    Raises:
        TypeError: ``fn`` is not what ``make_functional`` returned.
        ValueError: The trees do not fit the spec or each other; a group closes altogether; groups contradict each other, or
            name slices that a module cannot do without, such as a LayerNorm's.
    """
    check_function(fn)
    if empty not in ("raise", "constant"):
        raise ValueError(f"A group that closes altogether is to 'raise' or to become 'constant'; got {empty!r}.")
    state = tree.leaves(buffers, "buffers")
    tree.check_names([p.path for p in spec.parameters], fn.shapes, "The function, unlike the spec,")
    with torch.no_grad():
        pruned = tree.leaves(prune(params, gates, spec, estimator))
        z = deterministic_gates(check_gates(gates, spec), spec, estimator)
        opens = {name: _kept_open(name, value != 0, spec, empty) for name, value in z.items()}
        for p in spec.buffers:
            tree.check_names(state.keys() & {p.path}, [p.path], f"The buffers ({', '.join(state) or 'none'})")
        return remove(fn, pruned, state, spec, opens)


def _kept_open(name: str, opens: Tensor, spec: GateSpec, empty: Empty) -> Tensor:
    if bool(opens.any()) or name not in dict(spec.attrs):
        return opens
    if empty == "raise":
        owned = [p.path for p in spec.parameters for b in p.bindings if b.gate == name and not b.multiplies]
        what = ", ".join(map(repr, owned[:3])) or repr(name)
        raise ValueError(
            f"All {opens.numel()} units of {name!r} are closed, so that nothing is left of {what}. "
            "Train with a smaller lam or a larger learning rate of the gates, choose another estimator, or pass "
            "empty='constant', which keeps one unit with weights of 0."
        )
    kept = opens.clone()
    kept.view(-1)[0] = True
    return kept


def to_module(fn: PureModule, params: Tree, buffers: Tree) -> nn.Module:
    """A plain nn.Module with copies of these tensors, for a state_dict, for export, for anyone without this library.

    Args:
        fn: What ``make_functional`` or ``compact`` returned.
        params: Its parameters, flat or nested.
        buffers: Its buffers.

    Returns:
        A module of the classes that the original had. Only attention that has lost heads and recurrent layers of unequal
        widths are of a class in ``l0func.smaller``, since torch has none.

    Raises:
        TypeError: ``fn`` is not what ``make_functional`` returned.
        ValueError: The trees do not fit ``fn``.
    """
    check_function(fn)
    return fn.module(params, buffers)
