"""Parameters for a function whose every row has its own masks: gated ones stand for their product
and never hold it.
"""

from __future__ import annotations

from torch import Tensor

from l0func.engine.layout import Layout, layouts
from l0func.engine.ops import HANDLERS
from l0func.engine.parameter import EntryGates, GatedParameter, stand_in
from l0func.gates.checks import check_device, check_gates, check_single_key
from l0func.gates.masks import apply_masks, draw_gates, gate_keys
from l0func.internal import tree
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec
from l0func.spec.rules import element


class StandIns:
    """For a spec, ``(key, params, gates)`` to params in which gated tensors of rank 2 or more are
    stand-ins.
    """

    def __init__(self, spec: GateSpec, local_reparam: bool) -> None:
        self.spec, self.local_reparam = spec, local_reparam
        self.layouts, self.per_entry = layouts(spec)
        if local_reparam:
            self._check_sums()
        self.order = [g for g in spec.gates if g.name not in self.per_entry] + [
            g for g in spec.gates if g.name in self.per_entry
        ]
        self.distributions = {gate.name: gate.distribution for gate in spec.gates}

    def __call__(self, key: Tensor, params: Tree, gates: Tree) -> Tree:
        """The parameters under the masks of one key."""
        check_single_key(key)
        named = check_gates(gates, self.spec)
        count = len(self.order) - len(self.per_entry)
        keys = gate_keys(key, named, self.order)
        values = draw_gates(keys[:count], named, self.order[:count])
        own = {gate.name: keys[count + i] for i, gate in enumerate(self.order[count:])}
        masks = {
            p.path: p.spread(values, owned=False).to(p.dtype)
            for p in self.spec.parameters
            if p.multiplied and p.path not in self.layouts
        }
        masked = apply_masks(params, masks)
        tensors = tree.leaves(masked)
        made = {
            path: self._made(tensors[path], layout, values, named, own)
            for path, layout in self.layouts.items()
        }
        return tree.rebuild(masked, tensors | made)

    def _made(
        self,
        weight: Tensor,
        layout: Layout,
        values: dict[str, Tensor],
        gates: dict[str, Tensor],
        keys: dict[str, Tensor],
    ) -> GatedParameter:
        for binding in layout.parameter.bindings:
            check_device(layout.parameter.path, weight, gates[binding.gate])
        per_entry: EntryGates | None = None
        if layout.per_entry is not None:
            name = layout.per_entry.gate
            per_entry = EntryGates(
                self.distributions[name],
                keys[name],
                gates[name],
                uses=[] if self.local_reparam else None,
            )
        return stand_in(weight, layout.scales(values), per_entry, HANDLERS, layout.parameter.path)

    def _check_sums(self) -> None:
        """Refuse gates whose sums have no Gaussian of independent terms."""
        users = [
            layout.per_entry.gate
            for layout in self.layouts.values()
            if layout.per_entry is not None
        ]
        for path, layout in self.layouts.items():
            if layout.per_entry is None:
                continue
            if not isinstance(layout.per_entry.rule, element):
                raise ValueError(
                    f"Local reparameterisation needs a gate for every entry; one gate of {path!r} "
                    f"serves several terms of "
                    f"a sum ({layout.per_entry.rule}). Use sampling='exact', or element()."
                )
            if users.count(layout.per_entry.gate) > 1:
                raise ValueError(
                    f"The gates {layout.per_entry.gate!r} are on several parameters, which local "
                    f"reparameterisation would draw "
                    "apart. Use sampling='exact'."
                )
