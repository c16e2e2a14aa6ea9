"""How complex are data? The open gates that one network needs to fit each of several data sets.

At one λ for all, a network gives up on data that are too hard, closes everything, and they look
simple. So every member of the sweep has its own λ: it rises while the member's running
cross-entropy is below a fixed level, and falls while it is above. The measure is the least
expected L0 at which the running cross-entropy was at that level: a number for this architecture,
this optimizer and this level, and nothing else. Every seed has its own examples, weights and
draws. Biases have no gates and are free.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import command_line as cli
import torch
from complexity_best import Best
from complexity_report import LEVEL, Found, check, draw, table
from complexity_tasks import LSTM, Data, Tasks, drawn, image_tasks, images, mlp, string_tasks
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

import l0func as l0

LAMS, SPEED = (1e-6, 1.0), 0.2
STEPS, SEEDS, BATCH = 4000, 5, 64
Tree = dict[str, Tensor]


class Study:
    """One network, and its training for all tasks and seeds as one vmapped run."""

    def __init__(self, module: Callable[[], nn.Module], steps: int) -> None:
        self.module, self.steps = module, steps
        self.fn, params, _ = l0.make_functional(module())
        self.spec = l0.gate_spec(params, {"*weight*": l0.element()})
        self.apply = l0.gated(self.fn, self.spec)
        later = max(1, steps // 2)
        rates = [l0.schedules.linear(rate, rate / 20, later, later) for rate in (1e-2, 5e-2)]
        adams = [l0.optimizer(torch.optim.Adam, lr=rate) for rate in rates]
        self.single = l0.training(self.loss, *adams)
        self.sweep = l0.training(self.loss, *adams, in_dims=(0, 0, 0), donate=True)

    def loss(
        self,
        params: Tree,
        gates: Tree,
        buffers: Tree,
        key: Tensor,
        x: Tensor,
        y: Tensor,
        lam: Tensor,
    ) -> tuple[Tensor, Tree]:
        entropy = F.cross_entropy(self.apply(params, gates, {}, key, x), y)
        count = l0.expected_l0(gates, self.spec)
        running = buffers["entropy"].lerp(entropy.detach(), 0.03)
        return entropy + lam * count, {"entropy": running, "count": count.detach()}

    def start(self, member: int, data: Callable[[Tensor], Data]) -> tuple[l0.TrainState, Data]:
        torch.manual_seed(member)
        own, choice, training = l0.random.split(l0.random.key(member), 3)
        gates = l0.init_gates(own, self.spec, droprate=0.02)
        running = {"entropy": torch.tensor(1.0), "count": torch.tensor(0.0)}
        _, params, _ = l0.make_functional(self.module())
        return self.single.init(training, params, gates, running), data(choice)

    def trained(self, title: str, states: l0.TrainState, x: Tensor, y: Tensor) -> Best:
        lam = torch.full((len(x),), LAMS[0])
        best = Best(torch.full((len(x),), torch.inf), states.params, states.gates)
        for step in trange(self.steps, desc=title):
            key = l0.random.fold_in(l0.random.key(0), step)
            rows = drawn(key, BATCH, torch.arange(x.shape[1]))
            states, _ = self.sweep.step(states, x[:, rows], y[:, rows], lam)
            entropy = states.buffers["entropy"]
            lam = (lam * (SPEED * (LEVEL - entropy)).exp()).clamp(*LAMS)
            best = best.updated(states)
        return best

    def end(self, params: Tree, gates: Tree, x: Tensor, y: Tensor) -> tuple[float, ...]:
        """Expected open gates, weights left, and the cross-entropy of those on all examples."""
        masks = l0.deterministic_masks(gates, self.spec)
        left = sum(int((mask != 0).sum()) for mask in masks.values())
        pruned = l0.prune(params, gates, self.spec)
        entropy = F.cross_entropy(self.fn(pruned, {}, x), y)
        return l0.expected_l0(gates, self.spec).item(), left, entropy.item()

    def measured(self, title: str, tasks: Tasks, seeds: int) -> list[Found]:
        """Measure every task; the task with the lowest need comes first."""
        members = [data for data in tasks.values() for _ in range(seeds)]
        starts = [self.start(member, data) for member, data in enumerate(members)]
        states = l0.stack([state for state, _ in starts])
        x = torch.stack([x for _, (x, _) in starts])
        y = torch.stack([y for _, (_, y) in starts])
        best = self.trained(title, states, x, y)
        params, gates = l0.unstack(best.params), l0.unstack(best.gates)
        ends = [self.end(params[i], gates[i], x[i], y[i]) for i in range(len(members))]
        needed, pruned, entropy = torch.tensor(ends).view(len(tasks), seeds, 3).unbind(2)
        reached = best.count.isfinite().view(-1, seeds)
        found = []
        for i, task in enumerate(tasks):
            found.append(Found(task, needed[i], pruned[i], entropy[i], reached[i]))
        return sorted(found, key=Found.interval)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=cli.mnist, help="MNIST; without, scikit-learn's digits")
    parser.add_argument("--steps", type=cli.whole(1), default=STEPS, help="fewer claim nothing")
    parser.add_argument("--seeds", type=cli.whole(2), default=SEEDS, help="fewer claim nothing")
    parser.add_argument("--picture", type=cli.picture, default="complexity_picture.png")
    options = parser.parse_args()
    found = {}
    for title, module, tasks in (
        ("MLP 64-64-10, images", mlp, image_tasks(*images(options.data))),
        ("LSTM 2-12-2, strings", LSTM, string_tasks()),
    ):
        found[title] = Study(module, options.steps).measured(title, tasks, options.seeds)
    for title, ranking in found.items():
        table(title, ranking)
    draw(found, options.picture)
    print(f"The picture is in {options.picture}.")
    if options.steps >= STEPS and options.seeds >= SEEDS:
        check(found)


if __name__ == "__main__":
    main()
