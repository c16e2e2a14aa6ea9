"""L0 regularisation for PyTorch as pure functions.

Describe in *spec*, hold in *gates*, run in *engine*, pay in *costs*, learn in *train*, cut in
*compaction*. Before that, *pure* makes a function of a module; *distributions* has the laws that
gates follow; *files* keeps the results on disk; *sharding* is for tensors in many processes. This
file collects the public names.
"""

from l0func import distributions as distributions
from l0func import plot, schedules
from l0func import random as random
from l0func import smaller as smaller
from l0func.compaction.compact import compact, to_module
from l0func.compaction.refit import refit
from l0func.compaction.resize_to import resize_to
from l0func.compaction.units import UnitGroups, unit_groups
from l0func.costs.expected import (
    expected_l0,
    expected_l2,
    expected_sparsity,
    penalty,
    squared_mean,
)
from l0func.costs.latency import LatencyTable, expected_ms, realised_ms
from l0func.costs.macs import MacCounts, count_macs, expected_macs, realised_macs
from l0func.costs.summary import summary
from l0func.distributions import (
    BernoulliGate,
    CustomGate,
    GateDistribution,
    GaussianGate,
    HardConcrete,
    HardKuma,
)
from l0func.engine.gated import gated
from l0func.engine.per_example import per_example
from l0func.files.network import load, save
from l0func.files.sparse import to_sparse_csr
from l0func.gates.arm import arm
from l0func.gates.init import compensate, init_gates
from l0func.gates.masks import apply_masks, deterministic_masks, mean_masks, sample_masks
from l0func.gates.prune import prune
from l0func.internal.tree import Tree
from l0func.kernels.choice import kernel_in_use, use_kernel
from l0func.module import L0Module
from l0func.module.agreement import check_agreement
from l0func.pure.functional import make_functional
from l0func.pure.init_params import init_params
from l0func.sharding.gather import gather
from l0func.sharding.place import place_gates
from l0func.spec.build import gate_spec, group
from l0func.spec.plan import GateSpec
from l0func.spec.rules import axes, axis, blocks, element, tiles, whole
from l0func.timing.latency_table import latency_table
from l0func.train.all_reduce import all_reduce_mean
from l0func.train.checkpoint import load_state, save_state
from l0func.train.clipping import clip_norm
from l0func.train.lagrangian import Lagrangian, LagrangianState, lagrangian
from l0func.train.optimizer import Optimizer, optimizer
from l0func.train.shards import load_shards, save_shards
from l0func.train.stacks import diverged, stack, unstack
from l0func.train.state import TrainState
from l0func.train.training import Training, training

# Not in __all__: ``random``, which a star import would put in the place of Python's own module,
# and two modules that a user names in full.
__all__ = [
    "BernoulliGate",
    "CustomGate",
    "GateDistribution",
    "GateSpec",
    "GaussianGate",
    "HardConcrete",
    "HardKuma",
    "L0Module",
    "Lagrangian",
    "LagrangianState",
    "LatencyTable",
    "MacCounts",
    "Optimizer",
    "TrainState",
    "Training",
    "Tree",
    "UnitGroups",
    "all_reduce_mean",
    "apply_masks",
    "arm",
    "axes",
    "axis",
    "blocks",
    "check_agreement",
    "clip_norm",
    "compact",
    "compensate",
    "count_macs",
    "deterministic_masks",
    "diverged",
    "element",
    "expected_l0",
    "expected_l2",
    "expected_macs",
    "expected_ms",
    "expected_sparsity",
    "gate_spec",
    "gated",
    "gather",
    "group",
    "init_gates",
    "init_params",
    "kernel_in_use",
    "lagrangian",
    "latency_table",
    "load",
    "load_shards",
    "load_state",
    "make_functional",
    "mean_masks",
    "optimizer",
    "penalty",
    "per_example",
    "place_gates",
    "plot",
    "prune",
    "realised_macs",
    "realised_ms",
    "refit",
    "resize_to",
    "sample_masks",
    "save",
    "save_shards",
    "save_state",
    "schedules",
    "squared_mean",
    "stack",
    "summary",
    "tiles",
    "to_module",
    "to_sparse_csr",
    "training",
    "unit_groups",
    "unstack",
    "use_kernel",
    "whole",
]

__version__ = "0.1.0"

_PUBLIC_MODULES = ("distributions", "plot", "random", "schedules", "smaller")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PUBLIC_MODULES, "__version__"})
