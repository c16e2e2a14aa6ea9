"""A trial: does the network without some units equal the one whose gates on them are closed?

``unit_groups`` returns only groups that passed a trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from l0func import random
from l0func.compaction.closings import Closing, closings
from l0func.compaction.examples import copied_numbers, in_float64, same_output
from l0func.compaction.failure import Failure, Progress, difference, failure_by
from l0func.compaction.removal import KeptSlices, cut_out, kept_slices
from l0func.compaction.scratch import Scratch
from l0func.compaction.trial_weights import as_before, random_weights
from l0func.gates.checks import Gates
from l0func.internal.outputs import copied
from l0func.pure.functional import Functional, PureModule
from l0func.pure.inputs import Inputs
from l0func.pure.keyed import Keyed
from l0func.spec.build import gate_spec
from l0func.spec.plan import GateSpec, Group, GroupSlices

# How many times to draw weights until the output depends on them.
_WEIGHT_DRAWS = 5
# The outputs that are remembered; wrong attributes fail early.
_REMEMBERED_RUNS = 3


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
    _expected: _Expected = field(default_factory=lambda: _Expected())

    @cached_property
    def output(self) -> Any:
        """The output of the whole network."""
        return self.call(Functional(self.fn, self.params, self.buffers))

    def call(self, function: Functional) -> Any:
        """A function's output on the trial's inputs."""
        args, kwargs, *_ = self.inputs.copied()
        with torch.no_grad(), self.inputs.explained(), self.inputs.casts(), Keyed(None):
            return function.fn.run(function.params, function.buffers, *args, **kwargs)[0]

    def failure(self, groups: Mapping[str, Group]) -> Failure | None:
        """Compare the smaller network with the gated one, for many choices of closed units.

        In the gated network the closed gates multiply by 0, and the slices that they own are as
        before: a unit that reaches the output by a road without a gate shows. The first run also
        compares the pruned network, in which owned slices are 0.

        Returns:
            None if they are always equal; otherwise the first difference or error.
        """
        progress, runs = Progress(), 0
        try:
            spec = gate_spec(self.params, groups=groups, buffers=self.buffers)
            self._expected.begin(groups)
            scratch = Scratch(self.params)
            sizes = [gate.shape[0] for gate in spec.gates]
            for runs, closing in enumerate(closings(sizes, self._sizes())):
                progress = Progress()
                opens = _open_units(spec, closing, runs)
                other = self._differs_from(spec, opens, scratch, runs, progress)
                if other is not None:
                    return difference(runs, other)
        except Exception as error:
            # A forward of unknown code may raise anything when its sizes change.
            return failure_by(error, progress, runs)
        return None

    def _differs_from(
        self, spec: GateSpec, opens: Gates, scratch: Scratch, run: int, progress: Progress
    ) -> str | None:
        """The network that the smaller one differs from, with these units open; None if none."""
        expected = self._expected.outputs.get(run)
        if expected is None:
            expected = self._with_zeros(scratch, kept_slices(spec, opens, multiplied_only=True))
            if run < _REMEMBERED_RUNS:
                self._expected.outputs[run] = expected
        kept = kept_slices(spec, opens)
        small = cut_out(Functional(self.fn, self.params, self.buffers), kept, spec, opens)
        with progress:
            output = self.call(small)
        if not same_output(output, expected, self.tolerance):
            return "gated"
        # Zeros in place of owned slices may be numbers that no random ones are, such as log(0).
        if run == 0 and not same_output(self._with_zeros(scratch, kept), expected, self.tolerance):
            return "pruned"
        return None

    def _with_zeros(self, scratch: Scratch, kept: KeptSlices) -> Any:
        """The numbers in the network's output with zeros outside of the kept slices."""
        zeroed = Functional(self.fn, scratch.pruned(kept), self.buffers)
        return copied_numbers(self.call(zeroed))

    def _sizes(self) -> list[int]:
        """The sizes of inputs and parameters along their dimensions, frequent ones first."""
        sizes: Counter[int] = Counter()
        for tensor in (*_input_tensors(self.inputs), *self.params.values()):
            sizes.update(tensor.shape)
        return [size for size, _ in sizes.most_common()]


@dataclass
class _Expected:
    """The gated network's outputs: tries with other attributes and the same slices need them too.

    Attributes:
        slices: The slices of the groups that they are for.
        outputs: The outputs of the first runs, by their numbers.
    """

    slices: list[tuple[GroupSlices, GroupSlices]] = field(default_factory=list[Any])
    outputs: dict[int, Any] = field(default_factory=dict[int, Any])

    def begin(self, groups: Mapping[str, Group]) -> None:
        """Forget the outputs if they are for other slices."""
        slices = [(group.multiplies, group.owns) for group in groups.values()]
        if slices != self.slices:
            self.slices, self.outputs = slices, {}


def _open_units(spec: GateSpec, closing: Closing, run: int) -> Gates:
    """Open gates in one run, with as many closed in each group as ``closing`` says."""
    sizes = [gate.shape[0] for gate in spec.gates]
    u = random.uniform(random.fold_in(random.key(1), run), (sum(sizes),))
    opens: Gates = {}
    start = 0
    for gate, size, count in zip(spec.gates, sizes, closing.counts, strict=True):
        rank = torch.arange(size, device="cpu")
        if closing.which == "last":
            rank = rank.flip(0)
        elif closing.which == "any":
            rank = u[start : start + size].argsort().argsort()
        opens[gate.name] = rank >= count
        start += size
    return opens


def prepare_trial(function: Functional, inputs: Inputs) -> Trial:
    """A trial on these inputs, in float64 if the function's forward accepts that.

    An input with equal numbers everywhere, such as zeros, becomes random if forward accepts that:
    it could not tell right from wrong. Weights are drawn again while the output does not depend on
    them.
    """
    first: Trial | None = None
    for draw in range(_WEIGHT_DRAWS):
        trial, output = _prepared(function, inputs, draw)
        if output is not None and _is_informative(trial, output[0]):
            return trial
        first = first or trial
    assert first is not None
    return first


def _prepared(function: Functional, inputs: Inputs, draw: int) -> tuple[Trial, _Output]:
    # Weights near the function's own first; then others, which may wake what is dead.
    params = random_weights(function.params, draw, noise=0.05 + 0.5 * draw)
    buffers = random_weights(function.buffers, draw, noise=0.0)
    varied = copied(_varied, inputs)
    for examples in (varied, inputs):
        wide_inputs = copied(in_float64, examples)
        wide_inputs = wide_inputs.widened(function.fn, params, buffers)
        wide = Trial(function.fn, params, buffers, wide_inputs, tolerance=1e-7)
        output = _output(wide)
        if output is not None:
            return wide, output
    # Forward makes tensors of a fixed type.
    params, buffers = as_before(params, function.params), as_before(buffers, function.buffers)
    narrow = Trial(function.fn, params, buffers, varied, tolerance=1e-3)
    output = _output(narrow)
    if output is not None:
        return narrow, output
    narrow = replace(narrow, inputs=inputs)
    return narrow, _output(narrow)


def _is_informative(trial: Trial, output: Any) -> bool:
    """Whether the output changes with the weights: behind a dead ReLU every network is right."""
    other = {path: 0.8 * p for path, p in trial.params.items() if p.is_floating_point()}
    changed = trial.call(Functional(trial.fn, {**trial.params, **other}, trial.buffers))
    return not same_output(changed, output, trial.tolerance)


_Output = tuple[Any] | None
"""The output of a call; None if the call failed."""


def _output(trial: Trial) -> _Output:
    try:
        return (trial.output,)
    except Exception:
        # A forward of unknown code may raise anything on inputs that it does not expect.
        return None


def _input_tensors(inputs: Inputs) -> list[Tensor]:
    found: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    copied(noted, inputs)
    return found


def _varied(tensor: Tensor) -> Tensor:
    """Random numbers in place of a tensor with equal numbers; anything else as it is."""
    if not tensor.is_floating_point() or tensor.numel() < 2:
        return tensor
    if bool((tensor != tensor.flatten()[0]).any()):
        return tensor
    shape = tuple(tensor.shape)
    return random.normal(random.key(3), shape).to(tensor)
