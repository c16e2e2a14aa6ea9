"""A mask for every row over DTensors: each process draws and multiplies its own part.

torch has no vmap over DTensors, so :class:`~l0func.engine.per_example.PerExample` maps plain parts
here. A draw sends nothing: a part's draws are the whole draw's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from l0func.engine.gated import Gated
from l0func.engine.own_parameter import PartPlace
from l0func.engine.own_stand_ins import Own, OwnStandIns, Parts, Use
from l0func.gates.checks import check_device, check_gates, check_params, check_single_key
from l0func.internal import tree
from l0func.internal.context import compiling
from l0func.internal.sharding import is_dtensor, layout_of, owned_by
from l0func.internal.shards import part, unequal
from l0func.internal.tree import Pytree
from l0func.pure.functional import PureModule
from l0func.spec.parts import Binding
from l0func.spec.sharded_spread import Factor, check_holds

WHOLE_ROWS = (
    "Every process passes all rows, as plain tensors: l0func.gather(x). The parameters alone are "
    "laid out."
)
"""What to do instead about DTensors among the rows."""


def has_dtensors(params: Pytree, gates: Pytree) -> bool:
    """Whether a parameter or a gate vector is a DTensor."""
    tensors = tree.leaves(params), tree.leaves(gates, "gates")
    return any(is_dtensor(t) for named in tensors for t in named.values())


def check_not_compiled(params: Pytree, gates: Pytree) -> None:
    """Refuse a compiler over DTensors: it follows none into its part.

    Args:
        params: Parameters.
        gates: ``{gate name: log_alpha}``.

    Raises:
        ValueError: A compiler is tracing this code, and a parameter or gate vector is a DTensor.
    """
    if compiling() and has_dtensors(params, gates):
        raise ValueError(
            "per_example over DTensors runs eagerly: torch.compile cannot follow each process's "
            "parts of them. Call it outside of compiled code, such as through "
            "torch.compiler.disable(rows); or compile it over whole tensors: "
            "l0func.gather(params)."
        )


def check_rows_fit_shards(apply: Any, gate_dims: int | None) -> Gated[Any]:
    """The gated function behind a call over DTensors, if rows can be mapped over them.

    Args:
        apply: The function that the user mapped.
        gate_dims: The dimension of rows in the gates, or None.

    Raises:
        TypeError: It is not l0func.gated's own.
        ValueError: Gates differ from row to row; or a module has hooks that make DTensors.
    """
    own: Gated[Any] | None = getattr(apply, "__self__", apply)
    if not isinstance(own, Gated):
        raise TypeError(
            "With params that are DTensors, per_example maps a function of l0func.gated itself, "
            f"so that it can give each process its own part; got {type(apply).__name__}. Put what "
            "is around the gated function into fn: l0func.gated(fn, spec)."
        )
    if gate_dims is not None:
        raise ValueError(
            "per_example with gate_dims gives each row gates of its own, and DTensors hold one "
            "set of gates. Gather them: l0func.gather(gates), l0func.gather(params)."
        )
    _check_no_hooks(own.fn)
    return own


def _check_no_hooks(fn: Any) -> None:
    """Refuse a function whose modules make DTensors in their hooks: vmap takes none.

    Raises:
        ValueError: A module has a hook of torch.distributed.
    """
    if not isinstance(fn, PureModule):
        return
    for path, part_of in fn.parts():
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            table: dict[int, Any] = part_of.attribute(name) or {}
            homes = [getattr(hook, "__module__", None) or "" for hook in table.values()]
            if any(home.startswith("torch.distributed") for home in homes):
                raise ValueError(
                    f"The module {path!r} has hooks of parallelize_module, which make DTensors of "
                    "a row's tensors, and torch.vmap takes none. Make the function before the "
                    "layout: fn, _, buffers = l0func.make_functional(net), then "
                    "parallelize_module(net, mesh, plan), and params = "
                    "dict(net.named_parameters())."
                )


class GatedOnShards(Gated[Any]):
    """A gated function of the parts of DTensors.

    Args:
        apply: The gated function.
        params: Parameters, some of them DTensors.
        gates: ``{gate name: log_alpha}``, laid out as the parameters.

    Attributes:
        params: The parts of the parameters, plain.
        gates: The parts of the gate vectors, by use.

    Raises:
        ValueError: Params or gates do not fit the spec, or the layouts do not match.
    """

    def __init__(self, apply: Gated[Any], params: Pytree, gates: Pytree) -> None:
        super().__init__(apply.fn, apply.spec, apply.estimator, apply.sampling)
        tensors, named = check_params(params, self.spec), check_gates(gates, self.spec)
        parts = Parts({}, {}, {}, {})
        for path, t in tensors.items():
            parts.own[path] = _indices_of(path, t)
            if is_dtensor(t) and not layout_of(t, path).is_whole:
                place = PartPlace(parts.own[path], tuple(t.shape), layout_of(t, path))
                parts.places[path] = place
        for name, t in named.items():
            parts.held[name] = _indices_of(name, t)
        for plan in self.spec.parameters:
            for binding in plan.bindings:
                if binding.multiplies:
                    use = _use(plan.path, binding, tensors[plan.path], named[binding.gate])
                    parts.uses[plan.path, binding.gate] = use
        self.own_stand_ins = OwnStandIns(self.stand_ins, parts)
        self.params = tree.rebuild(params, {path: _part(t) for path, t in tensors.items()})
        self.gates: dict[str, Tensor] = {}
        # In one order in all processes: their gradients are sent.
        for use in sorted(set(parts.uses.values())):
            self.gates[use.name] = _part(named[use.gate], use.summed)

    def mapped(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        """The method of this function that the user mapped of the original."""
        name = getattr(apply, "__name__", "")
        return self.with_buffers if name == "with_buffers" else self

    def _masked(self, params: Pytree, gates: Pytree, key: Tensor | None) -> Pytree:
        assert key is not None
        check_single_key(key)
        return self.own_stand_ins(key, params, gates)


def _indices_of(name: str, tensor: Tensor) -> Own:
    if is_dtensor(tensor):
        return tuple(owned_by(tensor, name))
    return tuple([range(size) for size in tensor.shape])


def _part(tensor: Tensor, summed: tuple[int, ...] = ()) -> Tensor:
    return part(tensor, summed) if is_dtensor(tensor) else tensor


def _use(path: str, binding: Binding, param: Tensor, log_alpha: Tensor) -> Use:
    """How a gate vector acts on a parameter.

    Raises:
        ValueError: Its layout does not serve that of the parameter.
    """
    check_device(path, param, log_alpha)
    gate = binding.gate
    if not is_dtensor(log_alpha):
        if is_dtensor(param):
            raise ValueError(
                f"{path!r} is a DTensor, {layout_of(param, path)}, and its gates {gate!r} are a "
                "plain tensor. Lay the gates out like the parameters: gates = "
                "l0func.place_gates(spec, params, gates)."
            )
        return Use(gate, ())
    own = layout_of(log_alpha, gate)
    if not is_dtensor(param):
        if own.is_whole:
            return Use(gate, ())
        raise ValueError(
            f"{path!r} is a plain tensor, and its gates {gate!r} are a DTensor, {own}. Distribute "
            "the parameter too, or gather the gates: l0func.gather(gates)."
        )
    layout = layout_of(param, path)
    if own.mesh != layout.mesh:
        raise ValueError(
            f"{path!r} is on the mesh {layout.mesh}, and its gates {gate!r} are on {own.mesh}. "
            "Lay the gates out like the parameters: gates = l0func.place_gates(spec, params, "
            "l0func.gather(gates))."
        )
    check_holds(path, Factor(gate, binding.rule, log_alpha, True, ()), layout, tuple(param.shape))
    return Use(gate, tuple(unequal(own, layout)))
