"""``compact`` removes closed units from a network; ``to_module`` makes it an nn.Module again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from l0func.compaction.comparison import Comparison
from l0func.compaction.constants import with_constants
from l0func.compaction.empty import Empty, check_empty, settle_empty
from l0func.compaction.examples import check_rows
from l0func.compaction.idle import fold_constants
from l0func.compaction.input_units import removed_inputs
from l0func.compaction.nothing import say_if_same_size
from l0func.compaction.removal import remove
from l0func.compaction.unread_sizes import with_unread_sizes
from l0func.gates.checks import (
    MaskEstimator,
    check_devices,
    check_finite,
    check_gates,
    check_params,
    check_values,
)
from l0func.gates.closed import warn_if_closed
from l0func.gates.density import Density, decision, fixed_gates
from l0func.gates.masks import apply_masks, masks_of
from l0func.gates.prune import pruned_by
from l0func.gates.twice import warn_if_pruned
from l0func.internal import names, tree
from l0func.internal.kinds import check_has_values
from l0func.internal.stacked import check_not_mapped
from l0func.internal.tree import Tree
from l0func.internal.whole import check_whole
from l0func.pure.example_kinds import explained_kinds
from l0func.pure.functional import OWN_BUFFERS, Functional, PureModule, check_function
from l0func.pure.inputs import read_examples
from l0func.spec.plan import GateSpec, check_spec


def compact(
    fn: PureModule,
    params: Tree,
    gates: Tree,
    buffers: Tree,
    spec: GateSpec,
    estimator: MaskEstimator = "louizos",
    *,
    example_inputs: Any = None,
    empty: Empty | None = None,
    density: Density | None = None,
) -> Functional:
    """The network without its closed units, as a smaller pure function.

    Group gates remove units: every slice that a closed gate multiplies or owns is removed, and the
    attributes that forward reads sizes from become smaller too. Open gates are multiplied into the
    weights. Gates by rules, on single weights or on rows alone, remove nothing by themselves:
    their zeros stay. If a whole row is zero, its bias stays too, and the unit still outputs a
    constant. If nothing is removed at all, a line on stderr says why, once.

    Slices that read the network's own inputs go too, and the result then takes the inputs that
    stay. With ``example_inputs``, which have all inputs, such a group is refused.

    With ``example_inputs`` the result is traced as well, and idle units are removed, whatever gate
    made them idle. A unit that nothing reads is removed. A unit that outputs a constant, because
    its row is all zero, is folded into the biases of its readers and removed; it is kept where
    folding would not be exact, as before a padded convolution. Finally the result is run on the
    examples: a failure, or a difference from the pruned network, is an error. So is a difference
    between the pruned network and the gated one, where owned slices stay.

    Args:
        fn: A pure function from ``make_functional``.
        params: Its parameters, flat or nested, before :func:`l0func.prune`.
        gates: ``{gate name: log_alpha}``.
        buffers: Its buffers.
        spec: The gate spec.
        estimator: The test-time gates.
        example_inputs: The inputs of forward, two rows or more: a tensor, a tuple of inputs, or a
            dict of keyword inputs. A dict with other keys than forward's arguments is its only
            input.
        empty: For a group with no open unit: ``"raise"`` an error; keep one unit as a
            ``"constant"``, with weights of 0; or ``"remove"`` the layers of a block that is added
            to a stream, so that its last bias stays as a constant. None removes where a trace on
            the examples shows such a block, and raises elsewhere.
        density: In place of an estimator, the share that stays, as for :func:`l0func.prune`.

    Returns:
        ``fn, params, buffers``; on every input the output equals that of ``fn(prune(params, gates,
        spec, estimator), buffers)``, up to rounding.

    Raises:
        TypeError: ``fn`` is not from ``make_functional``, or its forward does not take the
            examples, or returns tensors in an object that cannot be taken apart.
        ValueError: The trees do not fit the spec or each other, or are inside torch.vmap; a group
            has no open unit;
            groups contradict each other, or name slices that a module cannot lose, such as a
            LayerNorm's; or the smaller network fails or differs on the examples, as may the gated
            one from the pruned one.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import l0func as l0
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> fn, params, buffers = l0.make_functional(net)
        >>> spec = l0.gate_spec(params, groups=l0.unit_groups(net, torch.ones(2, 4)))
        >>> small = l0.compact(fn, params, {"0": torch.tensor([4.0, -4.0, 4.0])}, buffers, spec)
        >>> {path: tuple(p.shape) for path, p in small.params.items()}
        {'0.weight': (2, 4), '0.bias': (2,), '2.weight': (2, 2), '2.bias': (2,)}
    """
    check_whole("compact", params=params, gates=gates, buffers=buffers)
    check_function(fn)
    check_spec(spec)
    check_empty(empty, example_inputs)
    named_buffers = tree.leaves(buffers, "buffers")
    gated_paths = [p.path for p in spec.parameters]
    names.check_names(gated_paths, fn.shapes, "the spec", "the function")
    with torch.no_grad():
        tensors, named_gates = check_params(params, spec), check_gates(gates, spec)
        check_values(named_gates)
        check_devices(tensors, named_gates, spec)
        check_not_mapped("compact reads values", params=tensors, gates=named_gates)
        check_has_values({**tensors, **named_gates}, "compact")
        check_finite(tensors)
        z = fixed_gates(named_gates, spec, estimator, density)
        warn_if_pruned("compact", tensors, z, spec)
        pruned = _unshared(pruned_by(tensors, z, spec), tensors)
        named_buffers = _unshared(named_buffers, named_buffers)
        _check_buffers(fn, named_buffers, spec)
        whole = Functional(fn, pruned, named_buffers)
        inputs = None if example_inputs is None else read_examples(fn, example_inputs)
        opens = {name: value != 0 for name, value in z.items()}
        settled = settle_empty(whole, opens, spec, empty, inputs)
        decided = decision(spec, estimator, density)
        warn_if_closed(settled.opens, spec, decided)
        small = remove(*whole, spec, settled.opens)
        if inputs is None:
            small = with_unread_sizes(whole, small)
            say_if_same_size(whole, small, z, spec, decided)
            return small
        check_rows(inputs)
        with explained_kinds(inputs, tensors):
            pruned_one = Comparison(whole, inputs)
        pruned_one.check_smaller(small, partial(removed_inputs, inputs, spec, settled.opens))
        gated = apply_masks(tensors, masks_of(z, spec))
        pruned_one.check_owned(Functional(fn, gated, named_buffers))
        small, weights = _without_idle_units(small, pruned_one, empty)
        small = with_unread_sizes(whole, small)
        small = _without_blocks(small, settled.weights | weights, pruned_one)
        say_if_same_size(whole, small, z, spec, decided)
        return small


def _unshared(tensors: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory with the given ones: those among them are copied."""
    own: dict[str, Tensor] = {}
    for path, tensor in tensors.items():
        own[path] = tensor.detach().clone() if tensor is given[path] else tensor
    return own


def _check_buffers(fn: PureModule, buffers: Mapping[str, Tensor], spec: GateSpec) -> None:
    """Refuse buffers that the function lacks, or buffers without those that the spec names."""
    names.check_argument(buffers, fn.buffer_names, "function", "buffers", OWN_BUFFERS)
    given = f"the buffers given ({', '.join(buffers) or 'none'})"
    for p in spec.buffers:
        names.check_names(buffers.keys() & {p.path}, [p.path], given, "the spec")


def _without_idle_units(
    small: Functional, pruned_one: Comparison, empty: Empty | None
) -> tuple[Functional, set[str]]:
    """The network without idle units, and the weights of the blocks that go."""
    folded = fold_constants(small, pruned_one.inputs)
    if folded is None:
        return small, set()
    settled = settle_empty(folded.function, folded.read, folded.spec, empty, pruned_one.inputs)
    smaller = remove(*folded.function, folded.spec, settled.opens)
    pruned_one.check_smaller(smaller)
    return smaller, settled.weights


def _without_blocks(
    small: Functional, weights: Collection[str], pruned_one: Comparison
) -> Functional:
    if not weights:
        return small
    smaller = with_constants(small, weights)
    pruned_one.check_smaller(smaller)
    return smaller


def to_module(fn: PureModule, params: Tree, buffers: Tree) -> nn.Module:
    """A plain nn.Module with copies of these tensors.

    Use it for a state_dict, for export, or where this library is not installed.

    Args:
        fn: A pure function from ``make_functional`` or ``compact``.
        params: Its parameters, flat or nested.
        buffers: Its buffers.

    Returns:
        A module made from the original classes. Only attention that has lost heads, and recurrent
        layers with unequal widths, have a class in ``l0func.smaller``: torch has none for them.

    Raises:
        TypeError: ``fn`` is not from ``make_functional`` or ``compact``.
        ValueError: The trees do not fit ``fn``.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> net = torch.nn.Linear(3, 2)
        >>> fn, params, buffers = l0.make_functional(net)
        >>> doubled = {path: 2 * p for path, p in params.items()}
        >>> l0.to_module(fn, doubled, buffers)
        Linear(in_features=3, out_features=2, bias=True)
    """
    check_whole("to_module", params=params, buffers=buffers)
    check_function(fn)
    return fn.module(params, buffers)
