"""``unit_groups`` finds a module's hidden units by tracing it, and verifies them by trials."""

from __future__ import annotations

from typing import Any

from torch import nn

from l0func.compaction.advice import with_advice
from l0func.compaction.alibi import has_alibi
from l0func.compaction.examples import check_rows
from l0func.compaction.failure import DIFFERENT_OUTPUTS
from l0func.compaction.found_groups import UnitGroups
from l0func.compaction.grouping import unit_vectors
from l0func.compaction.norm_scales import name_eps
from l0func.compaction.resize import RMS_NORMS
from l0func.compaction.trial import prepare_trial
from l0func.compaction.unit_slices import rolled_makers
from l0func.compaction.verification import verified
from l0func.internal.waiting import line_when_slow
from l0func.internal.whole import check_whole
from l0func.pure.functional import Functional, PureModule, make_functional
from l0func.pure.inputs import Inputs, fitting, read_examples
from l0func.tracing.follow import follow
from l0func.tracing.trace import Trace

# A try with another number of units runs, and pairs other units with each other.
_ROLLED = "'roll' moves them by a number of places that counts removed units too"


def unit_groups(module: nn.Module, *example_inputs: Any, **kwargs: Any) -> UnitGroups:
    """Groups of hidden units, channels and attention heads, found by tracing the module.

    Each unit's gate multiplies the slices that read the unit and owns those that make it,
    normalisation and running statistics included. A closed unit is therefore gone, whatever the
    activation.

    The module runs once on the examples, in eval mode whatever its own, and the trace follows its
    units through every operation. Units are refused, with the reason and with advice, if an
    operation cannot be followed or if they cannot be removed exactly (a LayerNorm runs over them,
    or they are a module output).

    Then each group is tried: some units are removed from a copy with random weights, and the
    smaller copy must have the same output as the pruned one. Trials also find the attributes that
    forward reads sizes from, such as head counts.

    Args:
        module: Any module. It is not changed.
        *example_inputs: The inputs of its ``forward``, two rows or more: as in a call,
            ``unit_groups(net, x, mask=mask)``; or in one value, a tensor, a tuple of inputs, or a
            dict of keyword inputs. A dict with other keys than forward's arguments is its only
            input; ``({...},)`` is one in any case.
        **kwargs: Its keyword inputs.

    Returns:
        A dict of groups, with ``sizes`` and ``refused``; ``print`` it.

    Raises:
        TypeError: ``module`` is not an eager nn.Module; forward does not take these inputs; or it
            returns tensors in an object that cannot be taken apart.
        ValueError: An example is on another device or of another type than the module; forward
            branches on data or returns no tensor; or no unit at all can be removed, with the
            reasons.

    Example:
        >>> import l0func as l0
        >>> from torch import nn
        >>> import torch
        >>> module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> l0.unit_groups(module, torch.ones(2, 4))
        UnitGroups: 3 units in 1 group
          0: 3 units
          stays 2.weight: they are an output of the module
    """
    check_whole("unit_groups", module=module)
    fn, params, buffers = make_functional(module)
    inputs = _inputs_of(fn, example_inputs, kwargs)
    check_rows(inputs)
    function = Functional(fn.eval(), params, buffers)
    count = sum(p.numel() for p in params.values())
    kind = type(module).__name__
    with line_when_slow(
        f"l0func.unit_groups: {kind} has {count:,} parameters; its units are traced and "
        "removed on trial. The time grows with the cost of one call: two short rows are enough."
    ):
        groups = groups_in(function, inputs, follow(*function, inputs))
    if not groups:
        reasons = [f"{path!r}: {reason}" for path, reason in groups.refused.items()]
        nothing = (
            "No layer of it reads what another one makes" if params else "It has no parameters"
        )
        text = "; ".join(reasons) or nothing
        raise ValueError(f"No units of this {kind} can be removed. {text}.")
    return groups


def _inputs_of(fn: PureModule, examples: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """The inputs of ``unit_groups``: one value for all of them, or as in a call of forward."""
    if "example_inputs" in kwargs:
        examples = (*examples, kwargs.pop("example_inputs"))
    if len(examples) == 1 and not kwargs:
        return read_examples(fn, examples[0])
    return fitting(fn, examples, kwargs)


def groups_in(function: Functional, inputs: Inputs, trace: Trace) -> UnitGroups:
    """The groups of a function that was traced on these inputs; there may be none.

    Raises:
        TypeError: The output holds tensors in an object of unknown kind.
        ValueError: The output holds no tensor.
    """
    if trace.output_error is not None:
        raise trace.output_error
    name_eps(trace, dict(function.fn.parts()), RMS_NORMS)
    found, refused = unit_vectors(trace)
    vectors, groups, refusals = verified(prepare_trial(function, inputs), found, trace)
    rolled = rolled_makers(trace)
    for maker, reason in refusals:
        is_moved = maker in rolled and DIFFERENT_OUTPUTS in reason
        refused.setdefault(maker, f"{reason}, and {_ROLLED}" if is_moved else reason)
    sizes = {vector.name: vector.count for vector in vectors}
    normed = [vector.name for vector in vectors if vector.normed]
    alibi = has_alibi(part.kind for _, part in function.fn.parts())
    advised = {maker: with_advice(reason, alibi) for maker, reason in refused.items()}
    return UnitGroups(groups, sizes, advised, normed)
