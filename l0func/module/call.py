"""One forward of an ``L0Module``: it runs on clones, and gives back what it wrote on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from l0func.engine.gated import Gated, Sampling
from l0func.gates.checks import MaskEstimator, Masks
from l0func.internal import tree
from l0func.internal.context import is_mapped
from l0func.internal.tree import Pytree
from l0func.module.buffers import new_buffers, write_buffers
from l0func.module.exchange import tensors_in
from l0func.module.give_back import Writes
from l0func.module.hooks import give_hooks
from l0func.module.live import Live
from l0func.module.shards import (
    GatedShards,
    check_one_mask_for_all,
    has_shards,
    naming_uneven,
    wait_for_gathering,
)
from l0func.module.snapshot import Snapshot
from l0func.spec.plan import GateSpec

CallResult = tuple[Any, list[Tensor], dict[str, Tensor]]
"""The output, the tensors that forward left in attributes, and the buffers."""


class LiveCall:
    """One call of a live module, so that nothing that it writes is lost.

    Args:
        live: The module.
        by_row: Whether the call is mapped over rows.
    """

    def __init__(self, live: Live, by_row: bool) -> None:
        self.live = live
        self.by_row = by_row
        self.clones: list[nn.Module] = []
        self.before: list[Snapshot] = []
        self.left: list[Tensor] = []
        self.masks: Callable[[], Masks] | None = None

    def gated(self, spec: GateSpec, estimator: MaskEstimator, sampling: Sampling) -> Gated[Any]:
        """The call behind gates."""
        apply = self._gated(spec, estimator, sampling)
        # The call's own function is new, and the module's is not.
        apply.other_draws = self.live.fn.other_draws
        return apply

    def _gated(self, spec: GateSpec, estimator: MaskEstimator, sampling: Sampling) -> Gated[Any]:
        live = self.live
        if not has_shards(live.params, live.late):
            return Gated(self.run, spec, estimator, sampling)
        check_one_mask_for_all(self.by_row)
        apply = GatedShards(self.run, spec, estimator, sampling)
        apply.late = live.late
        self.masks = lambda: apply.masks
        return apply

    def run(self, params: Pytree, buffers: Pytree, /, *inputs: Any, **kwargs: Any) -> CallResult:
        """The module's output, and everything else to hand out of the transforms around it."""
        self.clones = self.live.assembled(params, buffers)
        if self.masks is not None:
            modules = list(self.live.modules.values())
            wait_for_gathering(self.live.late, self.masks, modules, self.clones)
        self.before = self.live.snapshots(self.clones)
        own_params = tree.leaves(params)
        output = self._forward(own_params, inputs, kwargs)
        self._check_registered()
        self.writes = Writes(self.clones, self.before)
        left: list[Tensor] = []
        if self.by_row:
            new = [*self.writes.tensors(), *new_buffers(self.clones, self.before)]
            # A tensor that no row made, such as a table of positions, is whole already.
            self.left = [tensor for tensor in new if is_mapped(tensor)]
            left = [_as_row(tensor) for tensor in self.left]
        return output, left, self.live.fn.buffers_of(self.clones)

    def _forward(self, params: dict[str, Tensor], inputs: Any, kwargs: Any) -> Any:
        forward = self.live.fn.forward
        if self.masks is None:
            return forward(self.clones[0], params, inputs, kwargs)
        with naming_uneven(self.live.params, self.live.late):
            return forward(self.clones[0], params, inputs, kwargs)

    def give_back(self, left: Sequence[Tensor], buffers: dict[str, Tensor]) -> None:
        """Put what forward wrote on the clones where a plain module would have it.

        Args:
            left: The tensors in attributes, as they came out of the transforms.
            buffers: The buffers, likewise.
        """
        inside = map(id, self.left)
        outside = dict(zip(inside, left, strict=True))
        others = write_buffers(self.live, self.clones, self.before, buffers, outside)
        others = give_hooks(self.clones, self.live.modules.values()) or others
        if not any(self.writes.names):
            return
        modules = self.live.modules
        starts = list(map(self._start, range(len(modules))))
        self.writes.give(list(modules.values()), outside)
        for number, path in enumerate(modules):
            self._note(number, path, starts[number], outside)
        if not others and not any("_modules" in names for names in self.writes.names):
            self.live.refresh()

    def _start(self, number: int) -> dict[str, Any]:
        """The values that forward started from, of the attributes that it wrote."""
        path, module = list(self.live.modules.items())[number]
        names = self.writes.names[number]
        return {name: self.live.written.start(path, module, name) for name in names}

    def _note(
        self, number: int, path: str, start: dict[str, Any], outside: Mapping[int, Tensor]
    ) -> None:
        written, module = self.live.written, self.live.modules[path]
        written.note(path, [name for name in start if name != "_modules"])
        for name, before in start.items():
            now = vars(self.clones[number]).get(name)
            is_kept = now is self.before[number].values.get(name)
            if not is_kept and any(id(tensor) in outside for tensor in tensors_in(now)):
                written.note_rows(path, name, vars(module)[name], before)

    def _check_registered(self) -> None:
        """Refuse parameters that forward made: no gate and no optimizer knows them."""
        for path, clone, before in zip(self.live.modules, self.clones, self.before, strict=True):
            names = self._new_parameters(clone, before)
            if names:
                raise ValueError(
                    f"forward of {type(clone).__name__} {path!r} made parameters in {names}. "
                    "L0Module gates the parameters that a module has when it is wrapped: run the "
                    "module once on an example first."
                )

    def _new_parameters(self, clone: nn.Module, before: Snapshot) -> list[str]:
        """The names under which a clone holds parameters that no module held before."""
        now: dict[str, Any] = vars(clone)
        own: dict[str, Any] = before.items_before(now["_parameters"]) or {}
        found = [name for name, p in now["_parameters"].items() if p is not own.get(name)]
        for name, child in now["_modules"].items():
            if child is None or any(child is other for other in self.clones):
                continue
            if list(child.parameters()):
                found.append(name)
        return found


def _as_row(tensor: Tensor) -> Tensor:
    """A row's tensor with a dimension for rows at the front."""
    has_row = tensor.dim() > 0 and tensor.shape[0] == 1
    return tensor if has_row else tensor.unsqueeze(0)
