"""First and second derivatives of every public function that has them, by finite differences."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import l0func as l0
from l0func.costs.latency_text import LayerTime, WidthAxis
from l0func.costs.machine import Machine

pytestmark = pytest.mark.on_cpu
DOUBLE = torch.float64
KEY = l0.random.key(2)
SHAPES = {"0.weight": (3, 2), "0.bias": (3,), "2.weight": (2, 3), "2.bias": (2,)}


@dataclass(frozen=True)
class LogisticGate(l0.CustomGate):
    """A gate of one's own: a clipped logistic variable."""

    scale: float = 0.3

    def draw(self, u, log_alpha):
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t, log_alpha):
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    return l0.make_functional(module)


FN, PARAMS, BUFFERS = network()
UNITS = l0.group({"2.weight": l0.axis(1)}, owns={"0.weight": l0.axis(0), "0.bias": l0.axis(0)})
SPEC = l0.gate_spec(PARAMS, {"0.weight": l0.element()}, groups={"units": UNITS})
X = l0.random.normal(l0.random.key(4), (2, 2)).double()
GATES = {
    "0.weight": torch.tensor([[-0.8, 0.3], [0.1, 0.6], [-0.4, 0.9]], dtype=DOUBLE),
    "units": torch.tensor([0.2, -0.5, 0.7], dtype=DOUBLE),
}
COUNTS = l0.count_macs(FN, PARAMS, BUFFERS, X)
ROWS = l0.per_example(l0.gated(FN, SPEC))
KEYS = l0.random.split(KEY, 2)


def of_gates(function):
    """A function of the gates alone, on tensors in the spec's order."""
    return lambda *tensors: total(function(dict(zip(GATES, tensors, strict=True)))), GATES


def of_params(function):
    return lambda *tensors: total(function(dict(zip(PARAMS, tensors, strict=True)))), PARAMS


def of_both(function):
    def call(*tensors):
        params = dict(zip(PARAMS, tensors[: len(PARAMS)], strict=True))
        return total(function(params, dict(zip(GATES, tensors[len(PARAMS) :], strict=True))))

    return call, {**PARAMS, **{f"gates {name}": t for name, t in GATES.items()}}


def total(output):
    tensors = output.values() if isinstance(output, dict) else [output]
    return sum((t.sin() * (i + 1)).sum() for i, t in enumerate(tensors))


def table():
    """A latency table of the hidden units."""
    machine = Machine.here(torch.device("cpu"), "torch.float64", "(2, 2)")
    layer = LayerTime("0", (0,), ((1.0,), (4.0,)))
    shapes = {path: tuple(p.shape) for path, p in PARAMS.items()}
    axis = WidthAxis("0.weight", 0, (1.0, 3.0))
    return l0.LatencyTable((axis,), (layer,), 0.5, {"units": 3}, shapes, machine, 0.01)


MASKS = l0.sample_masks(KEY, GATES, SPEC)
FUNCTIONS = {
    "apply_masks": of_params(lambda p: l0.apply_masks(p, MASKS)),
    "sample_masks": of_gates(lambda g: l0.sample_masks(KEY, g, SPEC)),
    "mean_masks": of_gates(lambda g: l0.mean_masks(g, SPEC)),
    "deterministic_masks": of_gates(lambda g: l0.deterministic_masks(g, SPEC)),
    "expected_l0": of_gates(lambda g: l0.expected_l0(g, SPEC)),
    "expected_sparsity": of_gates(lambda g: l0.expected_sparsity(g, SPEC)),
    "expected_macs": of_gates(lambda g: l0.expected_macs(g, SPEC, COUNTS) / 10),
    "expected_l2": of_both(lambda p, g: l0.expected_l2(p, g, SPEC)),
    "squared_mean": of_both(lambda p, g: l0.squared_mean(p, g, SPEC)),
    "penalty": of_both(lambda p, g: l0.penalty(p, g, SPEC, 0.1, weight_decay=0.1)),
    "make_functional": of_params(lambda p: FN(p, BUFFERS, X)),
    "gated": of_both(lambda p, g: l0.gated(FN, SPEC)(p, g, BUFFERS, KEY, X)),
    "per_example": of_both(lambda p, g: ROWS(p, g, BUFFERS, KEYS, X)),
    "stack": of_params(lambda p: l0.stack([p, p])),
    "unstack": of_params(lambda p: l0.unstack(l0.stack([p, p]))[1]),
    "compensate": of_both(lambda p, g: l0.compensate(p, g, SPEC)),
    "expected_ms": of_gates(lambda g: l0.expected_ms(g, SPEC, table())),
}
LAWS = {
    "HardConcrete": l0.HardConcrete(),
    "HardKuma": l0.HardKuma(),
    "GaussianGate": l0.GaussianGate(),
    "BernoulliGate": l0.BernoulliGate(),
    "CustomGate": LogisticGate(),
}

# Why each of the others has no derivatives to compare.
WITHOUT = {
    "a class or a type": (
        "GateDistribution GateSpec L0Module Lagrangian LagrangianState LatencyTable MacCounts "
        "Optimizer TrainState Training Tree UnitGroups"
    ),
    "it makes rules, specs or settings": (
        "axes axis blocks element gate_spec group tiles whole clip_norm lagrangian optimizer "
        "training schedules use_kernel kernel_in_use plot"
    ),
    "it makes new values or reads modules": (
        "init_gates init_params to_module unit_groups latency_table count_macs summary diverged"
    ),
    "it removes parts, or counts what is open": (
        "compact prune refit resize_to to_sparse_csr realised_macs realised_ms"
    ),
    "files and processes": (
        "all_reduce_mean check_agreement gather place_gates load load_shards load_state save "
        "save_shards save_state"
    ),
    "its gradient is that of an expectation; see tests/gates/test_arm.py": "arm",
}


def leaves(named):
    return [t.clone().requires_grad_() for t in named.values()]


def test_every_public_name_has_a_case_or_a_reason():
    without = " ".join(WITHOUT.values()).split()
    assert len(set(without)) == len(without)
    assert not set(without) & (set(FUNCTIONS) | set(LAWS))
    assert set(without) | set(FUNCTIONS) | set(LAWS) == set(l0.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives_are_those_of_finite_differences(name):
    function, named = FUNCTIONS[name]
    tensors = leaves(named)
    # Random directions: all of the entries would take minutes.
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True, atol=1e-4)


CONTINUOUS = [name for name in LAWS if name != "BernoulliGate"]
OF_LOCATIONS = ["prob_nonzero", "prob_one", "mean", "second_moment", "variance"]
AT = torch.tensor([-0.6, -0.1, 0.2, 0.45], dtype=DOUBLE)


def check_twice(function, la=AT):
    la = la.clone().requires_grad_()
    assert torch.autograd.gradcheck(function, la)
    assert torch.autograd.gradgradcheck(function, la)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", [*OF_LOCATIONS, "mean_and_variance", "cdf"])
def test_moments_and_probabilities_have_exact_derivatives(law, name):
    # A quadrature of one's own function takes long.
    at = AT[1:2] if law == "CustomGate" else AT
    if name == "cdf":
        check_twice(lambda la: LAWS[law].cdf(0.3, la), at)
    else:
        check_twice(getattr(LAWS[law], name), at)


@pytest.mark.parametrize("law", CONTINUOUS)
@pytest.mark.parametrize("u", [0.4, 0.5, 0.55])
def test_draws_have_exact_derivatives_between_the_atoms(law, u):
    d = LAWS[law]
    z = d.quantile(torch.tensor(u, dtype=DOUBLE), AT)
    at = AT[(z > 0.01) & (z < 0.99)]
    assert len(at)
    check_twice(lambda la: d.quantile(torch.tensor(u, dtype=DOUBLE), la), at)


@pytest.mark.parametrize("law", CONTINUOUS)
@pytest.mark.parametrize("estimator", ["louizos", "median", "mean"])
def test_gates_at_test_time_have_exact_derivatives(law, estimator):
    z = LAWS[law].deterministic(AT, estimator)
    between = AT[(z > 0.01) & (z < 0.99)]
    assert len(between)
    between = between[:1] if law == "CustomGate" else between
    check_twice(lambda la: LAWS[law].deterministic(la, estimator), between)


@pytest.mark.parametrize("law", LAWS)
def test_no_method_of_a_distribution_is_forgotten(law):
    methods = {name for name in dir(LAWS[law]) if callable(getattr(LAWS[law], name))}
    covered = {*OF_LOCATIONS, "mean_and_variance", "cdf", "quantile", "deterministic", "sample"}
    others = {"draws", "init", "to_dict", "formula", "derivatives", "derived_names"}
    others |= {"draw", "survival", "cumulative", "fixed", "location"}
    assert {name for name in methods if not name.startswith("_")} <= covered | others
