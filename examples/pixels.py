"""Which pixels does a decision need? A network looks at an image and gives each of its pixels a
gate, before a frozen judge.

A pixel is shown as two numbers, ink and paper, and a hidden one as neither: that there is no ink
is something to see. The judge learns from images under random masks; then a selector is paid for
the judge's decision on the whole image, and pays λ for each pixel. It could write the class into
*which* pixels it shows (Jethani et al. 2021, arXiv:2103.01890). So accuracies are those of a
second, unseen judge; and one more selector is paid for wrong decisions, to see how far that goes.

    python examples/pixels.py [--data mnist.npz] [--steps 1500] [--picture pixels.png]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

import l0func as l0

HERE = Path(__file__).parent
BATCH, STEPS = 100, 1500
LAMS, LIE, SHOWN = (0.005, 0.01, 0.02, 0.04, 0.08), 0.02, (0, 3)


def images(data: Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train and test: MNIST, averaged to 14×14, or scikit-learn's digits of 8×8."""
    if data is not None:
        from reproduce.mnist import mnist

        x, y, x_test, y_test = mnist(data)
        x, x_test = (
            F.avg_pool2d(of.unflatten(1, (1, 28, 28)), 2).flatten(1) for of in (x, x_test)
        )
        return x, y, x_test, y_test
    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    order = l0.random.uniform(l0.random.key(2), len(x)).argsort()
    x, y = x[order].float() / 16, y[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def both(x: Tensor) -> Tensor:
    return torch.cat((x, 1 - x), dim=1)


def mlp(*sizes: int) -> nn.Module:
    return nn.Sequential(
        *[of for a, b in itertools.pairwise(sizes) for of in (nn.Linear(a, b), nn.ReLU())][:-1]
    )


def batch(key: Tensor, step: int, of: Tensor) -> Tensor:
    return (l0.random.uniform(l0.random.fold_in(key, step), BATCH) * len(of)).long()


def two_judges(steps: int, x: Tensor, y: Tensor) -> tuple[Callable[..., Tensor], l0.Tree, l0.Tree]:
    """They differ in their start and in the masks that they see, which are of all densities."""
    made = [l0.make_functional(mlp(2 * x.shape[1], 256, 256, 10)) for _ in range(2)]
    fn = made[0][0]

    def loss(
        params: l0.Tree, gates: l0.Tree, buffers: l0.Tree, key: Tensor, x: Tensor, y: Tensor
    ) -> Tensor:
        keys = l0.random.split(key)
        seen = l0.random.uniform(keys[0], x.shape) < l0.random.uniform(keys[1], (len(x), 1))
        return F.cross_entropy(fn(params, buffers, both(x) * seen.repeat(1, 2)), y)

    adam = l0.optimizer(torch.optim.Adam, lr=l0.schedules.cosine(3e-3, 1e-5, steps))
    init, step = l0.training(loss, adam, adam, in_dims=(None, None), donate=True)
    states = l0.stack(
        [
            init(key, of[1], {}, {})
            for key, of in zip(l0.random.split(l0.random.key(1)), made, strict=True)
        ]
    )
    for i in trange(steps, desc="two judges"):
        rows = batch(l0.random.key(3), i, x)
        states, _ = step(states, x[rows], y[rows])
    return fn, *(state.params for state in l0.unstack(states))


class Selectors:
    """One for each λ, side by side; all learn from the decisions of one judge on whole images, and
    from no label.
    """

    def __init__(self, fn: Callable[..., Tensor], judge: l0.Tree, x: Tensor) -> None:
        self.fn, self.judge, self.x, self.mean, self.std = fn, judge, x, x.mean(0), x.std(0) + 0.1
        self.spec = l0.gate_spec(
            judge, {"0.weight": l0.tiles(1, 2)}
        )  # one gate for both columns of a pixel
        (self.gate,) = self.spec.gates
        self.look, self.start, _ = l0.make_functional(mlp(x.shape[1], 256, x.shape[1]))

    def log_alpha(self, params: l0.Tree, x: Tensor) -> Tensor:
        # Centred: from raw pixels all images came out with one and the same mask.
        return 5 * self.look(params, {}, (x - self.mean) / self.std).tanh()

    def trained(self, steps: int) -> list[l0.TrainState]:
        rows_of = l0.per_example(l0.gated(self.fn, self.spec), gate_dims=0)

        def loss(
            params: l0.Tree,
            gates: l0.Tree,
            buffers: l0.Tree,
            key: Tensor,
            x: Tensor,
            y: Tensor,
            lam: Tensor,
        ) -> Tensor:
            own = {self.gate.name: self.log_alpha(params, x)}
            decisions = rows_of(self.judge, own, {}, l0.random.split(key, len(x)), both(x))
            pixels = self.gate.distribution.prob_nonzero(own[self.gate.name]).sum(1)
            return F.cross_entropy(decisions, y) + lam * pixels.mean()

        adam = l0.optimizer(torch.optim.Adam, lr=l0.schedules.cosine(1e-3, 3e-5, steps))
        init, step = l0.training(loss, adam, adam, in_dims=(None, 0, 0), donate=True)
        lams = torch.tensor([*LAMS, LIE])
        states = l0.stack([init(l0.random.key(4), self.start, {}, {})] * len(lams))
        decided = self.fn(self.judge, {}, both(self.x)).argmax(1)
        wanted = torch.stack([decided] * len(LAMS) + [(decided + 1) % 10])
        for i in trange(steps, desc=f"{len(lams)} selectors"):
            rows = batch(l0.random.key(5), i, self.x)
            states, _ = step(
                states, self.x[rows], wanted[:, rows], lams * min(1.0, 2 * (i + 1) / steps)
            )
        return l0.unstack(states)

    def kept(self, state: l0.TrainState, x: Tensor) -> Tensor:
        """Where the test-time gates are open; such a pixel is shown whole, so that no shade of z
        says more.
        """
        return self.gate.distribution.deterministic(self.log_alpha(state.params, x)) != 0


def ways(selectors: Selectors, state: l0.TrainState, x: Tensor) -> dict[str, Tensor]:
    """Three masks for every image, of as many pixels."""
    kept, often = selectors.kept(state, x), selectors.kept(state, selectors.x).float().mean(0)
    scores = {
        "most often kept": often.expand_as(x),
        "random": l0.random.uniform(l0.random.key(6), x.shape),
    }
    ranks = {name: score.argsort(1, descending=True).argsort(1) for name, score in scores.items()}
    return {"its own": kept} | {
        name: rank < kept.sum(1, keepdim=True) for name, rank in ranks.items()
    }


def draw(
    curves: dict[str, list[tuple[float, float]]],
    whole: float,
    x: Tensor,
    rows: list[tuple],
    file: Path,
) -> None:
    figure = Figure(figsize=(9, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.2, 1))
    side, paper, ink = (
        int(x.shape[1] ** 0.5),
        torch.tensor([0.55, 0.80, 1.0]),
        torch.tensor([0.85, 0.25, 0.0]),
    )
    for line, (title, kept, read) in zip(above.subplots(len(rows), len(x)), rows, strict=True):
        shade = x[..., None].expand(-1, -1, 3)
        pictures = (
            1 - shade
            if kept.all()
            else torch.where(kept[..., None], paper.lerp(ink, shade), 1 - 0.2 * shade)
        )
        line[0].set_ylabel(title)
        for right, (axis, picture, digit) in enumerate(
            zip(line, pictures, read.tolist(), strict=True)
        ):
            axis.imshow(picture.unflatten(0, (side, side)).numpy())
            axis.set_title(digit, fontsize=10, pad=2, color="black" if digit == right else "red")
            axis.set(xticks=[], yticks=[])
    axis = below.subplots()
    for name, points in curves.items():
        axis.plot(*zip(*points, strict=True), "o-", label=name)
    axis.axhline(whole, color="0.6", linestyle="--", label="all pixels")
    axis.set(
        xlabel=f"pixels shown, of {x.shape[1]}: mean over unseen images",
        ylabel="accuracy of the unseen judge, %",
    )
    axis.legend(title="which pixels")
    above.suptitle(
        "what the unseen judge reads (orange: ink that is shown, blue: paper that is shown)",
        fontsize=10,
    )
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="MNIST; without, scikit-learn's digits")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--picture", type=Path, default=HERE / "pixels.png")
    options = parser.parse_args()
    torch.manual_seed(0)
    x, y, x_test, y_test = images(options.data)
    fn, judge, unseen = two_judges(options.steps, x, y)
    selectors = Selectors(fn, judge, x)
    *honest, liar = (ways(selectors, state, x_test) for state in selectors.trained(options.steps))

    def read(by: l0.Tree, kept: Tensor) -> Tensor:
        return fn(by, {}, both(x_test) * kept.repeat(1, 2)).argmax(1)

    def share(by: l0.Tree, kept: Tensor, right: Tensor = y_test) -> float:
        return 100 * float((read(by, kept) == right).float().mean())

    everything = torch.ones_like(x_test, dtype=torch.bool)
    whole = share(unseen, everything)
    print(
        f"the unseen judge reads {whole:.1f} % of unseen images from all {x.shape[1]} pixels, and"
    )
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in liar}
    for lam, masks in zip(LAMS, honest, strict=True):
        pixels = float(masks["its own"].float().sum(1).mean())
        for name, mask in masks.items():
            curves[name].append((pixels, share(unseen, mask)))
        found = "   ".join(f"{name} {points[-1][1]:.1f} %" for name, points in curves.items())
        print(
            f"λ {lam:<5}   {pixels:5.1f} pixels   {found}   (its own to its judge "
            f"{share(judge, masks['its own']):.1f} %)"
        )
    lie, wrong = liar["its own"], (read(judge, everything) + 1) % 10
    pixels, fooled = (
        float(lie.float().sum(1).mean()),
        [share(by, lie, wrong) for by in (judge, unseen)],
    )
    print(
        f"paid for wrong decisions, {pixels:.1f} pixels: {fooled[0]:.1f} % fool its judge, "
        f"{fooled[1]:.1f} % the unseen one"
    )

    first = torch.stack([(y_test == digit).nonzero()[0, 0] for digit in range(10)])
    shown = [("all", everything)] + [
        (f"{curves['its own'][i][0]:.0f} pixels", honest[i]["its own"]) for i in SHOWN
    ]
    rows = [(title, kept[first], read(unseen, kept)[first]) for title, kept in shown]
    draw(curves, whole, x_test[first], rows, options.picture)
    if options.steps >= STEPS:
        own, often, random = (points[SHOWN[1]][1] for points in curves.values())
        assert own > often > random, "every image has pixels of its own that are enough"
        assert fooled[1] < fooled[0], (
            "some of what a selector says to its judge is between the two of them"
        )
        if options.data is None:
            assert own > max(whole - 5, often + 5, random + 25), (
                "a few pixels do, and it matters which"
            )


if __name__ == "__main__":
    main()
