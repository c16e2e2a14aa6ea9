"""Can cooper's optimizers hold a density?

The expected density carries the gradient; the density that test-time gates keep moves the
multiplier. Needs ``pip install cooper-optim scikit-learn tqdm``. Without cooper,
``l0func.lagrangian`` does the same as a pure function.
"""

from __future__ import annotations

import argparse

import command_line as cli
import cooper
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

import l0func as l0


class DensityTarget(cooper.ConstrainedMinimizationProblem):
    """The loss on a batch, under the constraint that a share ``target`` of the weights stays."""

    def __init__(self, module: nn.Module, target: float) -> None:
        super().__init__()
        multiplier = cooper.multipliers.DenseMultiplier(num_constraints=1)
        # Without the quadratic penalty the multiplier swings around the target.
        damping = cooper.penalty_coefficients.DensePenaltyCoefficient(init=torch.tensor([0.1]))
        augmented = cooper.formulations.AugmentedLagrangian
        self.density = cooper.Constraint(
            cooper.ConstraintType.EQUALITY, augmented, multiplier, damping
        )
        self.fn, params, self.buffers = l0.make_functional(module)
        self.spec = l0.gate_spec(params, {"*.weight": l0.element()})
        gates = l0.init_gates(l0.random.key(0), self.spec, droprate=0.2)
        self.params = {path: t.requires_grad_() for path, t in params.items()}
        self.gates = {name: t.requires_grad_() for name, t in gates.items()}
        self.apply = l0.gated(self.fn, self.spec)
        self.target, self.size = target, sum(t.numel() for t in gates.values())

    def compute_cmp_state(self, key: Tensor, x: Tensor, y: Tensor) -> cooper.CMPState:
        loss = F.cross_entropy(self.apply(self.params, self.gates, self.buffers, key, x), y)
        expected = l0.expected_l0(self.gates, self.spec) / self.size
        # Relative to the target, so that the same rates do for every target.
        violation = (expected / self.target - 1).reshape(1)
        strict = torch.tensor([self.realised() / self.target - 1])
        state = cooper.ConstraintState(violation=violation, strict_violation=strict)
        return cooper.CMPState(loss=loss, observed_constraints={self.density: state})

    @torch.no_grad()
    def realised(self) -> float:
        masks = l0.deterministic_masks(self.gates, self.spec)
        return sum(int((mask != 0).sum()) for mask in masks.values()) / self.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=cli.fraction, default=0.2)
    parser.add_argument("--steps", type=cli.whole(1), default=3000, help="fewer claim nothing")
    options = parser.parse_args()
    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    order = l0.random.uniform(l0.random.key(2), len(x)).argsort()
    x, y = x[order].float() / 16, y[order]
    torch.manual_seed(0)
    problem = DensityTarget(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), options.target
    )
    weights, gates = list(problem.params.values()), list(problem.gates.values())
    primal = torch.optim.Adam([{"params": weights, "lr": 1e-2}, {"params": gates, "lr": 5e-2}])
    dual = torch.optim.SGD(problem.dual_parameters(), lr=1e-5, maximize=True)
    both = cooper.optim.SimultaneousOptimizer(problem, primal, dual)
    for step in trange(options.steps):
        rows = torch.arange(100) + 100 * (step % 14)
        key = l0.random.fold_in(l0.random.key(1), step)
        both.roll(compute_cmp_state_kwargs={"key": key, "x": x[rows], "y": y[rows]})
    pruned = l0.prune(problem.params, problem.gates, problem.spec)
    right = (problem.fn(pruned, problem.buffers, x[1400:]).argmax(1) == y[1400:]).float().mean()
    print(
        f"target {options.target:.1%}: {problem.realised():.1%} of the weights kept, {right:.1%} "
        f"of unseen digits read"
    )
    if options.steps >= 3000:
        assert abs(problem.realised() - options.target) <= 0.01, (
            "within a point of what was asked for"
        )


if __name__ == "__main__":
    main()
