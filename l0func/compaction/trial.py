"""A trial: does the network without some units equal the pruned one?

``unit_groups`` returns only groups that passed a trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from l0func import random
from l0func.compaction.closings import closings
from l0func.compaction.examples import same_output
from l0func.compaction.failure import Failure, Progress, difference, failure_by
from l0func.compaction.removal import remove
from l0func.gates.checks import Gates
from l0func.gates.masks import deterministic_gates
from l0func.gates.prune import pruned_by
from l0func.internal import tree
from l0func.internal.names import stream
from l0func.internal.outputs import copied
from l0func.pure.functional import Functional, PureModule
from l0func.pure.inputs import Inputs
from l0func.spec.build import gate_spec
from l0func.spec.plan import GateSpec, GateVector, Group

# How many times to draw weights until the output depends on them.
_WEIGHT_DRAWS = 5


@dataclass(frozen=True)
class Trial:
    """A network with random weights, from which a trial removes units.

    Build it with :func:`prepare_trial`.

    Attributes:
        fn: The pure function.
        params: Its random parameters, flat.
        buffers: Its random buffers, flat.
        inputs: Example inputs.
        tolerance: The largest difference between equal outputs, relative to the largest number.
    """

    fn: PureModule
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    inputs: Inputs
    tolerance: float

    def failure(self, groups: Mapping[str, Group]) -> Failure | None:
        """Compare the smaller network with the pruned one, for many choices of closed units.

        Returns:
            None if the two are always equal; otherwise the first difference or error.
        """
        progress, runs = Progress(), 0
        try:
            spec = gate_spec(self.params, groups=groups, buffers=self.buffers)
            sizes = [gate.shape[0] for gate in spec.gates]
            for runs, closed in enumerate(closings(sizes, self._sizes())):
                progress = Progress()
                if not self._is_exact(spec, self._gates(spec, closed, runs), progress):
                    return difference(runs)
        except Exception as error:
            # A forward of unknown code may raise anything when its sizes change.
            return failure_by(error, progress, runs)
        return None

    def _is_exact(self, spec: GateSpec, gates: Gates, progress: Progress) -> bool:
        """Whether the smaller network equals the pruned one, with these gates."""
        z = deterministic_gates(gates, spec, "louizos")
        pruned = pruned_by(self.params, z, spec)
        expected = self.inputs.call(self.fn, pruned, self.buffers)
        opens = {name: value != 0 for name, value in z.items()}
        small = remove(self.fn, pruned, self.buffers, spec, opens)
        with progress:
            output = self.inputs.call(*small)
        return same_output(output, expected, self.tolerance)

    def _gates(self, spec: GateSpec, closed: Sequence[int], run: int) -> Gates:
        device = next(iter(self.params.values())).device
        gates: Gates = {}
        for gate, count in zip(spec.gates, closed, strict=True):
            gates[gate.name] = _random_gates(gate, count, run).to(device, gate.dtype)
        return gates

    def _sizes(self) -> list[int]:
        """The sizes of inputs and parameters along their dimensions, frequent ones first."""
        sizes: Counter[int] = Counter()
        for tensor in (*_input_tensors(self.inputs), *self.params.values()):
            sizes.update(tensor.shape)
        return [size for size, _ in sizes.most_common()]


def prepare_trial(function: Functional, inputs: Inputs) -> Trial:
    """A trial on these inputs, in float64 if the function's forward accepts that.

    An input with equal numbers everywhere, such as zeros, becomes random if forward accepts that:
    it could not tell right from wrong. Weights are drawn again while the output does not depend on
    them.
    """
    trials: list[Trial] = []
    for draw in range(_WEIGHT_DRAWS):
        trial = _prepared(function, inputs, draw)
        if _is_informative(trial):
            return trial
        trials.append(trial)
    return trials[0]


def _prepared(function: Functional, inputs: Inputs, draw: int) -> Trial:
    # Weights near the function's own first; then others, which may wake what is dead.
    params = _randomised(function.params, draw, noise=0.03 + 0.3 * draw)
    buffers = _randomised(function.buffers, draw, noise=0.0)
    wide_params, wide_buffers = tree.map_tensors(_in_float64, (params, buffers))
    varied = copied(_varied, inputs)
    for examples in (varied, inputs):
        wide_inputs = copied(_in_float64, examples)
        wide_inputs = wide_inputs.widened(function.fn, wide_params, wide_buffers)
        wide = Trial(function.fn, wide_params, wide_buffers, wide_inputs, tolerance=1e-7)
        if _runs(wide):
            return wide
    # Forward makes tensors of a fixed type.
    narrow = Trial(function.fn, params, buffers, varied, tolerance=1e-3)
    return narrow if _runs(narrow) else replace(narrow, inputs=inputs)


def _is_informative(trial: Trial) -> bool:
    """Whether the output changes with the weights: behind a dead ReLU every network is right."""
    if not _runs(trial):
        return False
    other = {path: 0.8 * p for path, p in trial.params.items() if p.is_floating_point()}
    output = trial.inputs.call(trial.fn, trial.params, trial.buffers)
    changed = trial.inputs.call(trial.fn, {**trial.params, **other}, trial.buffers)
    return not same_output(changed, output, trial.tolerance)


def _runs(trial: Trial) -> bool:
    try:
        trial.inputs.call(trial.fn, trial.params, trial.buffers)
    except Exception:
        # A forward of unknown code may raise anything on inputs that it does not expect.
        return False
    return True


def _input_tensors(inputs: Inputs) -> list[Tensor]:
    found: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    copied(noted, inputs)
    return found


def _in_float64(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _varied(tensor: Tensor) -> Tensor:
    """Random numbers in place of a tensor with equal numbers; anything else as it is."""
    if not tensor.is_floating_point() or tensor.numel() < 2:
        return tensor
    if bool((tensor != tensor.flatten()[0]).any()):
        return tensor
    shape = tuple(tensor.shape)
    return random.normal(random.key(3), shape).to(tensor)


def _randomised(tensors: Mapping[str, Tensor], draw: int, noise: float) -> dict[str, Tensor]:
    """Tensors in which no two channels are alike; integers stay.

    In a fresh BatchNorm all channels are alike, so that a trial could not tell them apart.
    """
    result = dict(tensors)
    for path, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        shape = tuple(tensor.shape)
        key = random.fold_in(random.key(draw), stream(path))
        scale_key, noise_key = random.split(key, 2)
        scale = 0.5 + random.uniform(scale_key, shape).to(tensor)
        offset = random.normal(noise_key, shape).to(tensor)
        result[path] = tensor * scale + noise * offset
    return result


def _random_gates(gate: GateVector, closed: int, run: int) -> Tensor:
    """Gate locations that close ``closed`` random gates and open the others to random degrees."""
    key = random.fold_in(random.key(1), stream(gate.name))
    u = random.uniform(random.fold_in(key, run), gate.shape[0])
    rank = u.argsort().argsort()
    return torch.where(rank < closed, -20.0, 4 * u)
