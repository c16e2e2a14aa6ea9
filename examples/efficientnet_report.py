"""What the networks of efficientnet.py cost, and the table and the picture of all runs."""

from __future__ import annotations

import copy
import json
import time
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from compact_cnn_report import bytes_on_disk, macs, size
from efficientnet_methods import METHODS
from efficientnet_network import score
from efficientnet_train import Work
from matplotlib.figure import Figure
from torch import Tensor, nn

import l0func as l0

Record = dict[str, Any]
HEADER = "| method | runs | multiply-adds | parameters | bytes | accuracy | batch of 1 | of 128 |"


def measured(module: nn.Module, work: Work) -> Record:
    """The costs of a network, and its accuracy on the test set."""
    right = score(module, work.data, work.device)
    return {
        "accuracy": right,
        "macs": macs(module.eval(), work.images()[:1]),
        "parameters": size(module),
        "bytes": bytes_on_disk(module),
    }


def speeds(dense: nn.Module, small: nn.Module, x: Tensor, rounds: int) -> Record:
    """Milliseconds of both networks on the CPU, in turns."""
    modules = [copy.deepcopy(module).cpu().eval() for module in (dense, small)]
    found: Record = {}
    for batch, calls in ((1, 4 * rounds), (128, rounds)):
        before, after = milliseconds(modules, x[:batch].cpu(), calls)
        found[f"ms_{batch}"] = {"dense": before, "small": after, "ratio": before / after}
    return found


def milliseconds(modules: list[nn.Module], x: Tensor, calls: int) -> list[float]:
    """Medians of calls that take turns, after one of each that does not count."""
    times: list[list[float]] = [[] for _ in modules]
    with torch.inference_mode():
        for _ in range(calls + 1):
            for own, module in zip(times, modules, strict=True):
                start = time.perf_counter()
                module(x)
                own.append(1000 * (time.perf_counter() - start))
    return [median(own[1:]) for own in times]


def records(folder: Path) -> list[Record]:
    """The runs that are there."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def row(name: str, runs: list[Record], found: list[Record]) -> str:
    """A line of the table: means over runs, and the range of accuracies."""
    shares = [own["macs"] / run["dense"]["macs"] for run, own in zip(runs, found, strict=True)]
    right = [own["accuracy"] for own in found]
    cells = [name, str(len(runs)), f"{100 * mean(shares):.1f} %"]
    cells += [f"{mean([own[key] for own in found]):,.0f}" for key in ("parameters", "bytes")]
    cells.append(f"{mean(right):.1f} % ({min(right):.1f} to {max(right):.1f})")
    for batch in ("ms_1", "ms_128"):
        ratios = [own[batch]["ratio"] for own in found if batch in own]
        cells.append(f"{mean(ratios):.2f} × faster" if ratios else "")
    return f"| {' | '.join(cells)} |"


def report(folder: Path, picture: Path) -> None:
    """Print the table, and draw accuracies and the channels that learned gates keep."""
    runs = records(folder)
    if not runs:
        raise SystemExit(f"{folder} has no runs: python examples/efficientnet.py --all")
    print(HEADER, "|---" * 8 + "|", sep="\n")
    print(row("whole, before", runs, [run["dense"] for run in runs]))
    lines: dict[str, list[tuple[float, float]]] = {}
    for method, number in product(METHODS, range(2)):
        own = [run for run in runs if run["method"] == method and len(run["rounds"]) > number]
        if own:
            found = [run["rounds"][number] for run in own]
            print(row(f"{method}, {found[0]['target']:.0%}", own, found))
            fair = [run for run in own if run["seed"] in shared_seeds(runs)]
            if fair:
                found = [run["rounds"][number] for run in fair]
                lines.setdefault(method, []).append(point(fair, found))
    draw(picture, runs, lines)
    print(f"The picture is in {picture}.")


def shared_seeds(runs: list[Record]) -> set[int]:
    """The seeds that all methods have, so that lines compare means over the same ones."""
    by_method: dict[str, set[int]] = {}
    for run in runs:
        by_method.setdefault(run["method"], set()).add(run["seed"])
    return set.intersection(*by_method.values())


def point(runs: list[Record], found: list[Record]) -> tuple[float, float]:
    """Mean share of multiply-adds, and mean accuracy."""
    shares = [own["macs"] / run["dense"]["macs"] for run, own in zip(runs, found, strict=True)]
    return mean(shares), mean([own["accuracy"] for own in found])


def draw(picture: Path, runs: list[Record], lines: dict[str, list[tuple[float, float]]]) -> None:
    """Accuracy against multiply-adds; for the first round of one run, the channels by layer."""
    figure = Figure(figsize=(14, 7), layout="constrained")
    left, right = figure.subplots(1, 2)
    l0.plot.tradeoff(lines, left)
    left.set(xlabel="multiply-adds, % of the whole network", title="")
    left.set_title("Accuracy on 500 unseen digits; lines over seeds of all methods", loc="left")
    for run in runs:
        for own in run["rounds"]:
            share = 100 * own["macs"] / run["dense"]["macs"]
            left.plot(share, own["accuracy"], ".", color="gray", markersize=4, zorder=0)
    shown = [run for run in runs if run["method"] == "learned"] or runs
    own = shown[0]["rounds"][0]
    before, after = own["channels"], own["widths"]
    widths = [{short(name): n for name, n in table.items()} for table in (before, after)]
    if before:
        l0.plot.widths(*widths, right)
    title = f"Channels left: {shown[0]['method']}, {own['target']:.0%}"
    right.set_title(title, loc="left")
    right.set(xlabel="channels")
    figure.savefig(picture, dpi=80)


def short(name: str) -> str:
    """A group's name; a residual stream's channels have the name of their first block."""
    words = {"_blocks.": "block ", "._expand_conv": ", inside", "._project_conv": ", stream"}
    for old, new in {**words, "_conv_": ""}.items():
        name = name.replace(old, new)
    return name
