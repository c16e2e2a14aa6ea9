"""The best network so far of every member of a sweep."""

from __future__ import annotations

from typing import NamedTuple

import torch
from complexity_report import LEVEL
from torch import Tensor

import l0func as l0

Tree = dict[str, Tensor]


class Best(NamedTuple):
    """For every member its fewest expected open gates at the level, and the network there."""

    count: Tensor
    params: Tree
    gates: Tree

    def updated(self, states: l0.TrainState) -> Best:
        """The best after one more step."""
        entropy, count = states.buffers["entropy"], states.buffers["count"]
        fits = entropy <= LEVEL
        # A member that has never fitted keeps its present network.
        better = torch.where(fits, count < self.count, self.count.isinf())
        least = torch.where(fits, count.minimum(self.count), self.count)
        params = chosen(better, states.params, self.params)
        return Best(least, params, chosen(better, states.gates, self.gates))


def chosen(where: Tensor, new: Tree, old: Tree) -> Tree:
    """Member by member, the new tensors or the old ones."""
    trees = {}
    for name, t in new.items():
        trees[name] = torch.where(where.view(-1, *[1] * (t.dim() - 1)), t, old[name])
    return trees
