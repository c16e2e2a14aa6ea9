"""L0 regularisation for PyTorch as pure functions."""

from l0func import plot, random, schedules
from l0func.checkpoint import load_state, save_state
from l0func.compact import compact, to_module
from l0func.costs import expected_l0, expected_l2, expected_sparsity, penalty, squared_mean
from l0func.distributions import BernoulliGate, GateDistribution, GaussianGate, HardConcrete, HardKuma
from l0func.estimators import arm
from l0func.files import load, save
from l0func.functional import make_functional
from l0func.gated import gated, per_example
from l0func.gates import apply_masks, compensate, deterministic_masks, init_gates, mean_masks, sample_masks
from l0func.init import init_params
from l0func.kernels.choice import kernel_in_use, use_kernel
from l0func.lagrangian import Lagrangian, LagrangianState, lagrangian
from l0func.macs import MacCounts, count_macs, expected_macs, realised_macs
from l0func.module import L0Module
from l0func.optimizer import Optimizer, optimizer
from l0func.prune import prune
from l0func.rules import axes, axis, blocks, element, tiles, whole
from l0func.sparse import to_sparse_csr
from l0func.spec import GateSpec, gate_spec, group
from l0func.state import TrainState, diverged, stack, unstack
from l0func.structure import UnitGroups, unit_groups
from l0func.summary import summary
from l0func.training import Training, training
from l0func.tree import Tree

__all__ = [
    "BernoulliGate",
    "GateDistribution",
    "GateSpec",
    "GaussianGate",
    "HardConcrete",
    "HardKuma",
    "L0Module",
    "Lagrangian",
    "LagrangianState",
    "MacCounts",
    "Optimizer",
    "TrainState",
    "Training",
    "Tree",
    "UnitGroups",
    "apply_masks",
    "arm",
    "axes",
    "axis",
    "blocks",
    "compact",
    "compensate",
    "count_macs",
    "deterministic_masks",
    "diverged",
    "element",
    "expected_l0",
    "expected_l2",
    "expected_macs",
    "expected_sparsity",
    "gate_spec",
    "gated",
    "group",
    "init_gates",
    "init_params",
    "kernel_in_use",
    "lagrangian",
    "load",
    "load_state",
    "make_functional",
    "mean_masks",
    "optimizer",
    "penalty",
    "per_example",
    "plot",
    "prune",
    "random",
    "realised_macs",
    "sample_masks",
    "save",
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
