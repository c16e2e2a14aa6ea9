"""The parameters for a call that gives every row its own masks.

:class:`~l0func.engine.gated.Gated` asks for them. A gated parameter replaces each weight, so that
no row needs a mask as large as the weight. Vectors are multiplied by their masks.
"""

from __future__ import annotations

from torch import Tensor

from l0func.engine.entry_gates import EntryGates, SumLog
from l0func.engine.layout import Layout, layouts
from l0func.engine.ops import HANDLERS
from l0func.engine.parameter import GatedParameter, stand_in
from l0func.gates.checks import (
    Gates,
    Masks,
    check_device,
    check_gated_shapes,
    check_gates,
    check_single_key,
)
from l0func.gates.masks import apply_masks, draw_gates, gate_keys
from l0func.internal import tree
from l0func.internal.kinds import real_dtype
from l0func.internal.tree import Pytree
from l0func.spec.plan import GateSpec


class StandIns:
    """A function ``(key, params, gates) -> params``; its result holds stand-ins for gated weights.

    Args:
        spec: The gate spec.
        local_reparam: Whether layers draw their sums in place of the entry gates' masks.

    Attributes:
        layouts: For each parameter that gets a stand-in, by path: how its gates act on it.
        masked: The other parameters with a gate; they are multiplied by their masks.
        sampled: The gate vectors that are drawn before the function runs.
        per_entry: The gate vectors that are drawn inside the operations that use them.

    Raises:
        ValueError: Local reparameterisation would be wrong for a rule.
    """

    def __init__(self, spec: GateSpec, local_reparam: bool) -> None:
        self.spec = spec
        self.local_reparam = local_reparam
        self.layouts = layouts(spec)
        bindings = [layout.per_entry for layout in self.layouts.values()]
        names = [binding.gate for binding in bindings if binding is not None]
        if local_reparam:
            for path, layout in self.layouts.items():
                _check_sums(path, layout, names)
        self.per_entry = [gate for gate in spec.gates if gate.name in names]
        self.sampled = [gate for gate in spec.gates if gate.name not in names]
        multiplied = [p for p in spec.parameters if p.multiplied]
        self.masked = [p for p in multiplied if p.path not in self.layouts]

    def __call__(self, key: Tensor, params: Pytree, gates: Pytree) -> Pytree:
        """The parameters under the masks of one key.

        Args:
            key: A key, shape ``(2,)``.
            params: Parameters, flat or nested.
            gates: ``{gate name: log_alpha}``.

        Returns:
            A pytree like ``params``.
        """
        check_single_key(key)
        log_alphas = check_gates(gates, self.spec)
        check_gated_shapes(params, self.spec)
        keys = gate_keys(key, log_alphas, [*self.sampled, *self.per_entry])
        count = len(self.sampled)
        values = draw_gates(keys[:count], log_alphas, self.sampled)
        entry_gates = self._entry_gates(keys, log_alphas)
        masked = apply_masks(params, self._masks(values))
        tensors = tree.leaves(masked)
        for path, layout in self.layouts.items():
            _check_gate_devices(layout, tensors[path], log_alphas)
            tensors[path] = _stand_in(layout, tensors[path], values, entry_gates)
        return tree.rebuild(masked, tensors)

    def _masks(self, values: Gates) -> Masks:
        masks: Masks = {}
        for parameter in self.masked:
            mask = parameter.spread(values, owned=False)
            masks[parameter.path] = mask.to(real_dtype(parameter.dtype))
        return masks

    def _entry_gates(self, keys: Tensor, log_alphas: Gates) -> dict[str, EntryGates]:
        """The call's entry gates, by gate name; their keys come after those for ``sampled``."""
        sums = SumLog()
        found: dict[str, EntryGates] = {}
        for i, gate in enumerate(self.per_entry, len(self.sampled)):
            la = log_alphas[gate.name]
            own = EntryGates(gate.distribution, keys[i], la, sums, self.local_reparam)
            found[gate.name] = own
        return found


def _stand_in(
    layout: Layout, weight: Tensor, values: Gates, entry_gates: dict[str, EntryGates]
) -> GatedParameter:
    binding = layout.per_entry
    own = None if binding is None else entry_gates[binding.gate]
    return stand_in(weight, layout.scales(values), own, HANDLERS, layout.parameter.path)


def _check_gate_devices(layout: Layout, weight: Tensor, log_alphas: Gates) -> None:
    for binding in layout.parameter.bindings:
        check_device(layout.parameter.path, weight, log_alphas[binding.gate])


def _check_sums(path: str, layout: Layout, per_entry: list[str]) -> None:
    """Refuse gates that local reparameterisation would draw wrongly.

    It would treat a gate as independent in each term of a sum and in each parameter.

    Args:
        path: The parameter.
        layout: Its layout.
        per_entry: The entry gates' names, one for each parameter with entry gates.
    """
    binding = layout.per_entry
    if binding is None:
        return
    shape = layout.parameter.shape
    of_rule = binding.rule.gates(shape)
    if of_rule != shape:
        raise ValueError(
            "Local reparameterisation needs a gate for every entry, in the weight's own shape; "
            f"{path!r} has shape {shape}, and its gates, by {binding.rule}, have {of_rule}. Use "
            "sampling='exact', or element()."
        )
    if per_entry.count(binding.gate) > 1:
        raise ValueError(
            f"The gates {binding.gate!r} are on several parameters, and local reparameterisation "
            "would draw them anew for each. Use sampling='exact'."
        )
