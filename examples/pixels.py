"""Which pixels does a decision need? A network gives each pixel of an image a gate.

A pixel is shown as two numbers, ink and paper; in a hidden pixel both are 0, so that it differs
from a white one. A judge learns from images under random masks. Then a selector is paid for the
judge's decision on the whole image, and pays λ for each pixel. It could write the class into
*which* pixels it shows (Jethani et al. 2021, arXiv:2103.01890). So accuracies are those of a
second, unseen judge; and one more selector is paid for wrong decisions, to see how far that goes.

    python examples/pixels.py [--data mnist.npz] [--steps 1500] [--picture pixels_picture.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import command_line as cli
import torch
from matplotlib.figure import Figure
from pixels_networks import LAMS, Selectors, both, two_judges
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

import l0func as l0

STEPS, SHOWN = 1500, (0, 3)


class Line(NamedTuple):
    """A line of the picture: its title, the pixels that are shown, and the digits read."""

    title: str
    kept: Tensor
    read: Tensor


def images(data: Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train and test: MNIST, averaged to 14×14, or scikit-learn's digits of 8×8."""
    if data is not None:
        from reproduce.mnist import mnist

        x, y, x_test, y_test = mnist(data)
        halves = [F.avg_pool2d(of.unflatten(1, (1, 28, 28)), 2).flatten(1) for of in (x, x_test)]
        return halves[0], y, halves[1], y_test
    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    order = l0.random.uniform(l0.random.key(2), len(x)).argsort()
    x, y = x[order].float() / 16, y[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def painted(x: Tensor, kept: Tensor) -> Tensor:
    """Colours of the pixels: orange for ink that is shown, blue for paper that is shown."""
    paper, ink = torch.tensor([0.55, 0.80, 1.0]), torch.tensor([0.85, 0.25, 0.0])
    shade = x[..., None].expand(-1, -1, 3)
    if kept.all():
        return 1 - shade
    return torch.where(kept[..., None], paper.lerp(ink, shade), 1 - 0.2 * shade)


def draw(
    curves: dict[str, list[tuple[float, float]]],
    whole: float,
    x: Tensor,
    lines: list[Line],
    file: Path,
) -> None:
    figure = Figure(figsize=(9, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.2, 1))
    side = int(x.shape[1] ** 0.5)
    grid = above.subplots(len(lines), len(x))
    for axes, line in zip(grid, lines, strict=True):
        axes[0].set_ylabel(line.title)
        pictures = painted(x, line.kept).unflatten(1, (side, side)).numpy()
        for digit, axis in enumerate(axes):
            read = int(line.read[digit])
            axis.imshow(pictures[digit])
            axis.set_title(read, fontsize=10, pad=2, color="black" if read == digit else "red")
            axis.set(xticks=[], yticks=[])
    axis = below.subplots()
    for name, points in curves.items():
        axis.plot([n for n, _ in points], [share for _, share in points], "o-", label=name)
    axis.axhline(whole, color="0.6", linestyle="--", label="all pixels")
    axis.set_xlabel(f"pixels shown, of {x.shape[1]}: mean over unseen images")
    axis.set_ylabel("accuracy of the unseen judge, %")
    axis.legend(title="which pixels")
    title = "what the unseen judge reads (orange: ink that is shown, blue: paper that is shown)"
    above.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=cli.mnist, help="MNIST; without, scikit-learn's digits")
    parser.add_argument("--steps", type=cli.whole(1), default=STEPS, help="fewer claim nothing")
    parser.add_argument("--picture", type=cli.picture, default="pixels_picture.png")
    options = parser.parse_args()
    torch.manual_seed(0)
    x, y, x_test, y_test = images(options.data)
    fn, judge, unseen = two_judges(options.steps, x, y)
    selectors = Selectors(fn, judge, x)
    *honest, liar = [selectors.masks(one, x_test) for one in selectors.trained(options.steps)]

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
        own = share(judge, masks["its own"])
        print(f"λ {lam:<5}   {pixels:5.1f} pixels   {found}   (its own to its judge {own:.1f} %)")
    lie, wrong = liar["its own"], (read(judge, everything) + 1) % 10
    pixels = float(lie.float().sum(1).mean())
    fooled, unseen_fooled = share(judge, lie, wrong), share(unseen, lie, wrong)
    shares = f"{fooled:.1f} % fool its judge, {unseen_fooled:.1f} % the unseen one"
    print(f"paid for wrong decisions, {pixels:.1f} pixels: {shares}")

    first = torch.stack([(y_test == digit).nonzero()[0, 0] for digit in range(10)])
    lines = [Line("all", everything[first], read(unseen, everything)[first])]
    for i in SHOWN:
        kept = honest[i]["its own"]
        pixels, _ = curves["its own"][i]
        lines.append(Line(f"{pixels:.0f} pixels", kept[first], read(unseen, kept)[first]))
    draw(curves, whole, x_test[first], lines, options.picture)
    print(f"The picture is in {options.picture}.")
    if options.steps >= STEPS:
        own, often, random = (points[SHOWN[1]][1] for points in curves.values())
        assert own > often > random, "every image has pixels of its own that are enough"
        assert unseen_fooled < fooled, "a selector and its judge share a part of their code"
        if options.data is None:
            few = max(whole - 5, often + 5, random + 25)
            assert own > few, "a few pixels are enough, if they are the image's own"


if __name__ == "__main__":
    main()
