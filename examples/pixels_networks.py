"""The networks of pixels.py: two judges that read images, and selectors that gate the pixels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

import l0func as l0

BATCH = 100
# A λ for each honest selector, and one for a selector that is paid for wrong decisions.
LAMS, LIE = (0.005, 0.01, 0.02, 0.04, 0.08), 0.02
Tree = dict[str, Tensor]


def both(x: Tensor) -> Tensor:
    """Ink and paper of every pixel."""
    return torch.cat((x, 1 - x), dim=1)


def mlp(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batch(key: Tensor, step: int, of: Tensor) -> Tensor:
    return (l0.random.uniform(l0.random.fold_in(key, step), BATCH) * len(of)).long()


def two_judges(steps: int, x: Tensor, y: Tensor) -> tuple[Callable[..., Tensor], Tree, Tree]:
    """Two networks that differ in their start and in the random masks that they learn under."""
    made = [l0.make_functional(mlp(2 * x.shape[1], 256, 256, 10)) for _ in range(2)]
    fn = made[0].fn

    def loss(
        params: Tree, gates: Tree, buffers: Tree, key: Tensor, x: Tensor, y: Tensor
    ) -> Tensor:
        places, densities = l0.random.split(key)
        seen = l0.random.uniform(places, x.shape) < l0.random.uniform(densities, (len(x), 1))
        return F.cross_entropy(fn(params, buffers, both(x) * seen.repeat(1, 2)), y)

    adam = l0.optimizer(torch.optim.Adam, lr=l0.schedules.cosine(3e-3, 1e-5, steps))
    init, step = l0.training(loss, adam, adam, in_dims=(None, None), donate=True)
    keys = l0.random.split(l0.random.key(1))
    states = l0.stack([init(keys[i], judge.params, {}, {}) for i, judge in enumerate(made)])
    for i in trange(steps, desc="two judges"):
        rows = batch(l0.random.key(3), i, x)
        states, _ = step(states, x[rows], y[rows])
    first, second = l0.unstack(states)
    return fn, first.params, second.params


class Selectors:
    """A selector for each λ, side by side.

    All learn from the decisions of one judge on whole images, and from no label.
    """

    def __init__(self, fn: Callable[..., Tensor], judge: Tree, x: Tensor) -> None:
        self.fn, self.judge, self.x = fn, judge, x
        self.mean, self.std = x.mean(0), x.std(0) + 0.1
        # One gate for both columns of a pixel.
        self.spec = l0.gate_spec(judge, {"0.weight": l0.tiles(1, 2)})
        (self.gate,) = self.spec.gates
        self.look, self.start, _ = l0.make_functional(mlp(x.shape[1], 256, x.shape[1]))
        self.rows = l0.per_example(l0.gated(fn, self.spec), gate_dims=0)

    def log_alpha(self, params: Tree, x: Tensor) -> Tensor:
        """The gates of every image."""
        # Centred: from raw pixels all images came out with one and the same mask.
        return 5 * self.look(params, {}, (x - self.mean) / self.std).tanh()

    def loss(
        self,
        params: Tree,
        gates: Tree,
        buffers: Tree,
        key: Tensor,
        x: Tensor,
        y: Tensor,
        lam: Tensor,
    ) -> Tensor:
        own = {self.gate.name: self.log_alpha(params, x)}
        keys = l0.random.split(key, len(x))
        decisions = self.rows(self.judge, own, {}, keys, both(x))
        pixels = self.gate.distribution.prob_nonzero(own[self.gate.name]).sum(1)
        return F.cross_entropy(decisions, y) + lam * pixels.mean()

    def trained(self, steps: int) -> list[l0.TrainState]:
        adam = l0.optimizer(torch.optim.Adam, lr=l0.schedules.cosine(1e-3, 3e-5, steps))
        init, step = l0.training(self.loss, adam, adam, in_dims=(None, 0, 0), donate=True)
        lams = torch.tensor([*LAMS, LIE])
        states = l0.stack([init(l0.random.key(4), self.start, {}, {})] * len(lams))
        decided = self.fn(self.judge, {}, both(self.x)).argmax(1)
        wanted = torch.stack([decided] * len(LAMS) + [(decided + 1) % 10])
        for i in trange(steps, desc=f"{len(lams)} selectors"):
            rows = batch(l0.random.key(5), i, self.x)
            share = min(1.0, 2 * (i + 1) / steps)
            states, _ = step(states, self.x[rows], wanted[:, rows], lams * share)
        return l0.unstack(states)

    def kept(self, state: l0.TrainState, x: Tensor) -> Tensor:
        """The pixels with open test-time gates; they are shown in full, whatever the value."""
        return self.gate.distribution.deterministic(self.log_alpha(state.params, x)) != 0

    def masks(self, state: l0.TrainState, x: Tensor) -> dict[str, Tensor]:
        """Three masks for every image, with equally many pixels."""
        kept, often = self.kept(state, x), self.kept(state, self.x).float().mean(0)
        masks = {"its own": kept}
        random = l0.random.uniform(l0.random.key(6), x.shape)
        for name, score in (("most often kept", often.expand_as(x)), ("random", random)):
            rank = score.argsort(1, descending=True).argsort(1)
            masks[name] = rank < kept.sum(1, keepdim=True)
        return masks
