"""``refit``: the readers of closed units are fitted again, to compute what the whole network does.

Two calls suffice: the whole network is asked for the output of each reader, and the pruned one is
mended reader by reader as it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.compaction.examples import check_rows
from l0func.compaction.least_squares import NormalEquations
from l0func.compaction.products import Extent, Matrix, Product, Products, Visit, overlap
from l0func.compaction.replay import Replay
from l0func.gates.checks import (
    Gates,
    MaskEstimator,
    check_devices,
    check_finite,
    check_gates,
    check_params,
    check_values,
)
from l0func.gates.density import Density, fixed_gates
from l0func.gates.prune import open_entries, pruned_by
from l0func.gates.twice import warn_if_pruned
from l0func.internal import tree
from l0func.internal.interception import Interception
from l0func.internal.scalars import with_type
from l0func.internal.stacked import check_not_mapped
from l0func.internal.tree import Tree, TreeT
from l0func.internal.untyped import untyped
from l0func.internal.watch import warn_user
from l0func.internal.whole import check_whole
from l0func.pure.functional import PureModule, check_function
from l0func.pure.inputs import Inputs, read_examples
from l0func.pure.written_out.mode import WrittenOut
from l0func.spec.plan import GateSpec, check_spec


def refit(
    fn: PureModule,
    params: TreeT,
    gates: Tree,
    buffers: Tree,
    spec: GateSpec,
    examples: Any,
    estimator: MaskEstimator = "louizos",
    *,
    density: Density | None = None,
    ridge: float | None = None,
) -> TreeT:
    r"""Parameters with the readers of closed units fitted again by least squares.

    A reader is a matrix or a kernel with closed columns: a closed unit's output no longer reaches
    it. Its open entries, and its bias, change so that it computes what the whole network's reader
    computes, as nearly as its remaining inputs allow:

    .. math:: \min_D \sum_n |y_n - (\hat W + D) \hat x_n|^2 + \lambda\, \overline{x^2}\, |D|^2

    Here :math:`y` is the reader's output in the network with all gates open, :math:`\hat W` its
    weight under test-time gates, and :math:`\hat x` its input in the pruned network, where
    earlier readers are fitted already. A few hundred examples and no training are needed. Use it
    before the gates' network is trained further, or in place of training.

    Args:
        fn: A pure function from ``make_functional``.
        params: Its parameters, flat or nested, before :func:`l0func.prune`.
        gates: ``{gate name: log_alpha}``.
        buffers: Its buffers.
        spec: The gate spec.
        examples: The inputs of forward, some hundred rows: a tensor, a tuple of inputs, or a dict
            of keyword inputs.
        estimator: The test-time gates.
        density: In place of an estimator, the share that stays, as for :func:`l0func.prune`.
        ridge: :math:`\lambda`, relative to the mean square of the inputs: it holds the weights
            where the examples do not determine them. By default each reader has its own, the one
            whose fit to four fifths of the rows explains most of the others.

    Returns:
        Parameters in the structure of ``params``. Only open entries of readers of closed units,
        and these readers' biases, differ. Prune or compact them with the same gates.

    Raises:
        TypeError: ``fn`` is not from ``make_functional``, or forward does not take the examples.
        ValueError: The trees do not fit the spec or each other; the network is random, such as
            with dropout in training mode; a reader is of a kind that cannot be fitted, such as a
            transposed convolution; or its output is not finite.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)).eval()
        >>> x = l0.random.normal(l0.random.key(0), (64, 4))
        >>> fn, params, buffers = l0.make_functional(net)
        >>> spec = l0.gate_spec(params, groups=l0.unit_groups(net, x))
        >>> gates = {"0": torch.tensor([4.0, -9.0, 4.0])}
        >>> fitted = l0.refit(fn, params, gates, buffers, spec, x)
        >>> [path for path in params if not torch.equal(params[path], fitted[path])]
        ['1.weight', '1.bias']
    """
    check_whole("refit", params=params, gates=gates, buffers=buffers)
    check_function(fn)
    check_spec(spec)
    _check_ridge(ridge)
    with torch.no_grad():
        tensors, named_gates = check_params(params, spec), check_gates(gates, spec)
        check_values(named_gates)
        check_devices(tensors, named_gates, spec)
        check_not_mapped("refit reads values", params=tensors, gates=named_gates)
        check_finite(tensors)
        z = fixed_gates(named_gates, spec, estimator, density)
        warn_if_pruned("refit", tensors, z, spec)
        inputs = read_examples(fn, examples)
        check_rows(inputs)
        pruned = pruned_by(tensors, z, spec)
        network = _ObservedNetwork(fn, tree.leaves(buffers, "buffers"), inputs)
        fitted = _with_fitted_readers(
            network, tensors, pruned, _Refit(open_entries(z, spec), ridge)
        )
    return tree.rebuild(params, _behind_gates(tensors, pruned, fitted, z, spec))


def _check_ridge(ridge: Any) -> None:
    if ridge is None:
        return
    if isinstance(ridge, bool) or not isinstance(ridge, Real):
        raise TypeError(f"ridge is a number; got {with_type(ridge)}.")
    if not 0.0 <= float(ridge) < math.inf:
        raise ValueError(f"ridge is a finite number, at least 0; got {ridge}.")


class _ObservedNetwork(NamedTuple):
    """A function with the inputs that it is called on."""

    fn: PureModule
    buffers: Mapping[str, Tensor]
    inputs: Inputs

    def call(self, params: Mapping[str, Tensor], visit: Visit) -> set[str]:
        """Show every product of a parameter to ``visit``.

        Returns:
            The parameters that are read in other ways, too.
        """
        with WrittenOut(), _Flat(), Products(params, visit) as products:
            self.inputs.call(self.fn, dict(params), dict(self.buffers))
        return products.read_otherwise


class _Flat(Interception):
    """A context where a linear layer adds its bias in the product, whatever its input's rank."""

    def __init__(self) -> None:
        super().__init__({F.linear: _flat_linear})


def _flat_linear(
    mode: _Flat, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    if input.dim() < 3 or bias is None:
        return func(input, weight, bias)
    output: Tensor = func(input.reshape(-1, input.shape[-1]), weight, bias)
    return output.reshape(*input.shape[:-1], -1)


def _with_fitted_readers(
    network: _ObservedNetwork,
    params: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    refit: _Refit,
) -> dict[str, Tensor]:
    """The pruned parameters with their readers fitted."""
    otherwise = network.call(_contiguous_copies(params), refit.watch)
    refit.leave(otherwise, "is read in another way, too")
    refit.leave(refit.read_in_two_ways(params), "is read in two ways, as by a transposed product")
    fitted = _contiguous_copies(pruned)
    while not refit.finished:
        refit.restart()
        network.call(fitted, refit.fit)
    for path, reason in refit.left.items():
        warn_user(f"refit leaves {path!r} as it is: this reader of closed units {reason}.")
    return fitted


def _behind_gates(
    params: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    fitted: Mapping[str, Tensor],
    z: Gates,
    spec: GateSpec,
) -> dict[str, Tensor]:
    """Parameters that these gates multiply to the fitted ones; unchanged entries stay."""
    plans = {p.path: p for p in spec.parameters}
    result: dict[str, Tensor] = {}
    for path, original in params.items():
        own, plan = fitted[path], plans[path]
        if plan.multiplied:
            own = own / plan.spread(z, owned=False)
        changed = fitted[path] != pruned[path]
        result[path] = torch.where(changed, own.to(original.dtype), original)
    return result


class _Refit:
    """The fit of one pruned network, reader by reader while the network runs.

    Args:
        opened: For every gated parameter, whether each entry is behind open gates only.
        ridge: The ridge, relative to the mean square of a reader's inputs; None to choose it for
            each reader.

    Attributes:
        left: The readers that stay as they are, with the reason.
    """

    def __init__(self, opened: Mapping[str, Tensor], ridge: float | None) -> None:
        self._opened, self._ridge = opened, ridge
        self._whole: dict[Extent, list[Tensor]] = {}
        self._parts: dict[str, set[Extent]] = {}
        self._biased: dict[Extent | None, set[Extent]] = {}
        self._settled: set[Extent] = set()
        self._replay = Replay()
        self._sums: dict[Extent, _ReaderEquations] = {}
        self._stale = False
        self.left: dict[str, str] = {}

    @property
    def finished(self) -> bool:
        """Whether every reader is fitted."""
        return not self._whole

    def watch(self, product: Product, run: Callable[[], Tensor]) -> Tensor:
        """Remember what a reader computes in the whole network."""
        output, matrix = run(), product.matrix
        self._replay.note(matrix)
        self._parts.setdefault(matrix.path, set()).add(matrix.extent)
        self._biased.setdefault(matrix.bias_extent, set()).add(matrix.extent)
        if not _lacks_inputs(matrix, self._opened):
            return output
        if product.fits:
            self._whole.setdefault(matrix.extent, []).append(output)
        else:
            self.left[matrix.path] = "has a matrix for each of several groups"
        # The network may write into its copy.
        return output.clone()

    def read_in_two_ways(self, params: Mapping[str, Tensor]) -> set[str]:
        """The parameters with an entry in two different parts: a fit of one would change both."""
        found = self._parts.items()
        return {path for path, extents in found if overlap(params[path].numel(), extents)}

    def leave(self, paths: set[str], reason: str) -> None:
        """Leave these parameters as they are."""
        self._replay.share(paths)
        for extent in list(self._whole):
            if extent[0] in paths:
                self.left[extent[0]] = reason
                del self._whole[extent]

    def restart(self) -> None:
        """Begin a call of the pruned network."""
        self._sums.clear()
        self._replay.restart()
        self._stale = False

    def fit(self, product: Product, run: Callable[[], Tensor]) -> Tensor:
        """Fit a reader in the pruned network, and compute its output then."""
        matrix = product.matrix
        extent = matrix.extent
        if extent in self._settled:
            return self._replay.output(matrix, run)
        if self._stale or extent not in self._whole:
            return run()
        if extent not in self._sums:
            self._sums[extent] = self._new_sums(matrix)
        sums, whole = self._sums[extent], self._whole[extent]
        wanted = whole[sums.uses]
        sums.add(product, run(), wanted)
        if sums.uses < len(whole):
            # A recurrent layer's next inputs are then those that a good fit would give it.
            self._replay.final = False
            return wanted.clone()
        sums.fit(matrix, self._ridge)
        # The earlier uses in this call did not have the new weights.
        self._stale = len(whole) > 1
        self._settle(matrix)
        return self._replay.output(matrix, run)

    def _settle(self, matrix: Matrix) -> None:
        self._settled.add(matrix.extent)
        self._replay.changed(matrix)
        del self._whole[matrix.extent], self._sums[matrix.extent]

    def _new_sums(self, matrix: Matrix) -> _ReaderEquations:
        has_bias = matrix.bias is not None and len(self._biased[matrix.bias_extent]) == 1
        return _ReaderEquations(matrix.entries(self._opened[matrix.path]), has_bias)


class _ReaderEquations:
    """The normal equations for one reader.

    Args:
        entries: Whether each entry of its matrix is open, shape (outputs, columns).
        has_bias: Whether its bias is fitted too.

    Attributes:
        uses: The number of calls that are in the sums.
    """

    def __init__(self, entries: Tensor, has_bias: bool) -> None:
        self.uses = 0
        self._columns = entries.any(0).nonzero().flatten()
        self._outputs = entries.any(1).nonzero().flatten()
        self._entries = entries[self._outputs][:, self._columns]
        sizes = len(self._columns), len(self._outputs)
        self._seen = NormalEquations.empty(*sizes, entries.device, has_bias)
        self._held_out = NormalEquations.empty(*sizes, entries.device, has_bias)

    def add(self, product: Product, output: Tensor, whole: Tensor) -> None:
        """Add one call: its output in the pruned network and in the whole one."""
        outputs = zip(product.outputs(output), product.outputs(whole), strict=True)
        for block, (mine, target) in zip(product.blocks(), outputs, strict=True):
            x = block[:, self._columns].double()
            residual = (target.double() - mine.double())[:, self._outputs]
            seen = round(_SEEN * len(x))
            self._seen.add(x[:seen], residual[:seen])
            self._held_out.add(x[seen:], residual[seen:])
        self.uses += 1

    def fit(self, matrix: Matrix, ridge: float | None) -> None:
        """Write the fitted weights and bias."""
        every_row = self._seen.joined(self._held_out)
        if not every_row.finite():
            raise ValueError(
                f"The examples give {matrix.path!r} inputs or outputs that are not finite: "
                "nothing can be fitted to them."
            )
        values = matrix.values().double()
        for columns, own in _same_columns(self._entries):
            best = self._best_ridge(columns, own) if ridge is None else ridge
            change = every_row.part(columns, own).system().solve(best)
            outputs = self._outputs[own]
            values[outputs[:, None], self._columns[columns]] += change.matrix
            if matrix.bias is not None:
                matrix.bias[outputs] += change.constant.to(matrix.bias)
        matrix.write(values)

    def _best_ridge(self, columns: Tensor, outputs: Tensor) -> float:
        """The ridge whose fit to some rows explains most of the others."""
        seen = self._seen.part(columns, outputs).system()
        held_out = self._held_out.part(columns, outputs)
        return max(_RIDGES, key=lambda ridge: held_out.gain(seen.solve(ridge)))


_SEEN = 0.8
_RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0)


def _same_columns(entries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The outputs in sets that have the same open columns: pairs of columns and outputs."""
    patterns: Tensor
    pattern_of: Tensor
    patterns, pattern_of = untyped.unique(entries, dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        yield pattern.nonzero().flatten(), (pattern_of == number).nonzero().flatten()


def _contiguous_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies, each with a storage of its own."""
    own: dict[str, Tensor] = {}
    for path, tensor in tensors.items():
        own[path] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return own


def _lacks_inputs(matrix: Matrix, opened: Mapping[str, Tensor]) -> bool:
    """Whether an open output of the matrix has a closed entry."""
    if matrix.path not in opened:
        return False
    entries = matrix.entries(opened[matrix.path])
    outputs = entries.any(1, keepdim=True)
    return bool((outputs & ~entries).any())
