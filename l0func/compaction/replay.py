"""The outputs of fitted readers, kept so that later calls of a network need not compute them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from torch import Tensor

from l0func.compaction.products import Extent, Matrix


class Replay:
    """The outputs of fitted readers, in a network that is fitted while it runs, call after call.

    A call is final up to the first output that a later fit can change. Each output of a fitted
    reader in that stretch is kept, and is the same in every later call.

    Attributes:
        final: Whether the current call is final so far. Set it to False at the first output that
            can change.
    """

    def __init__(self) -> None:
        self._outputs: dict[Extent, list[Tensor]] = {}
        self._uses: Counter[Extent] = Counter()
        self._reader_of: dict[str, Extent] = {}
        self._shared: set[str] = set()
        self.final = True

    def restart(self) -> None:
        """Begin a call."""
        self._uses.clear()
        self.final = True

    def note(self, matrix: Matrix) -> None:
        """Note a reader of the network."""
        for path in filter(None, (matrix.path, matrix.bias_path)):
            if self._reader_of.setdefault(path, matrix.extent) != matrix.extent:
                self._shared.add(path)

    def share(self, paths: set[str]) -> None:
        """Note that operations other than readers read these parameters."""
        self._shared |= paths

    def changed(self, matrix: Matrix) -> None:
        """Note that a reader has new weights: it may share them with one that ran before."""
        if not self._shared.isdisjoint((matrix.path, matrix.bias_path)):
            self._outputs.clear()
            self.final = False

    def output(self, matrix: Matrix, run: Callable[[], Tensor]) -> Tensor:
        """The next output of a fitted reader: a kept one, or that of ``run()``."""
        if not self.final:
            return run()
        extent = matrix.extent
        kept = self._outputs.setdefault(extent, [])
        if self._uses[extent] == len(kept):
            kept.append(run())
        self._uses[extent] += 1
        # The network may write into its copy.
        return kept[self._uses[extent] - 1].clone()
