"""The records of minilm.py: sizes and times, the table, the picture, and the claims."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from minilm_encoder import Tensors
from torch import nn

Record = dict[str, Any]
COLOURS = {"gates": "tab:blue", "magnitude": "tab:orange", "random": "0.5"}
AIMS = {0.75: 0.96, 0.5: 0.93}
HEADS = "attention"


def size(module: nn.Module) -> dict[str, int]:
    """Number of parameters, all of them and those behind the embeddings."""
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    layers = [n for name, n in sizes.items() if not name.startswith("embeddings.")]
    return {"parameters": sum(sizes.values()), "without_embeddings": sum(layers)}


def milliseconds(modules: list[nn.Module], tokens: Tensors, rounds: int) -> list[float]:
    """Medians of calls that take turns."""
    times: list[list[float]] = [[] for _ in modules]
    with torch.inference_mode():
        for _ in range(rounds):
            for own, module in zip(times, modules, strict=True):
                start = time.perf_counter()
                float(module(**tokens).last_hidden_state.sum())
                own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own[2:]) for own in times]


def measured(dense: nn.Module, small: nn.Module, tokens: Tensors, rounds: int) -> Record:
    """Parameters, megabytes in float32, and the time of a call, before and after."""
    modules = [dense.eval(), small.eval()]
    times = milliseconds(modules, tokens, rounds)
    before, after = [size(module) | {"ms": ms} for module, ms in zip(modules, times, strict=True)]
    return {"dense": before, "small": after}


def surroundings(options: argparse.Namespace) -> Record:
    """Where a run was."""
    device = options.device
    if device != "cpu":
        device = torch.cuda.get_device_name()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def line(level: Record) -> str:
    """A level of a run in words."""
    before, after = level["dense"], level["small"]
    megabytes = [4e-6 * after[name] for name in ("parameters", "without_embeddings")]
    return (
        f"{level['macs']:.1%} of multiply-adds, rank correlation {level['refit']:.3f} refitted, "
        f"{level['distilled']:.3f} distilled; {megabytes[0]:.1f} MB, {megabytes[1]:.1f} without "
        f"embeddings; {before['ms'] / after['ms']:.2f}× faster"
    )


def read(folder: Path) -> list[Record]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and range."""
    mean = statistics.fmean(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def show(folder: Path, picture: Path) -> None:
    """Print the table, draw the picture, and assert the claims."""
    records = read(folder)
    print(
        "| units by | multiply-adds | refit alone | distilled | parameters | behind embeddings |"
    )
    print("|---|---|---|---|---|---|")
    for method in COLOURS:
        runs = [record for record in records if record["method"] == method]
        for levels in zip(*(one["levels"] for one in runs), strict=True):
            print(row(method, list(levels)))
    draw(records, picture)
    check(records)


def row(method: str, levels: list[Record]) -> str:
    macs = 100 * statistics.fmean(level["macs"] for level in levels)
    cells = [method, f"{macs:.1f} %"]
    cells += [spread([level[name] for level in levels]) for name in ("refit", "distilled")]
    for name in ("parameters", "without_embeddings"):
        count = statistics.fmean(level["small"][name] for level in levels)
        cells.append(f"{count / 1e6:.2f} M, {4e-6 * count:.1f} MB")
    return f"| {' | '.join(cells)} |"


def check(records: list[Record]) -> None:
    """The claims about the learned gates: quality and multiply-adds, in every run."""
    for record in records:
        for level in record["levels"] if record["method"] == "gates" else ():
            target, where = level["target"], f"seed {record['seed']}"
            assert target - 0.01 <= level["macs"] <= target, f"{where}: a point off {target:.0%}"
            assert level["distilled"] >= AIMS[target], f"{where}: {level['distilled']:.3f}"


def draw(records: list[Record], picture: Path) -> None:
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    quality, heads, inner = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    for record in records:
        curve(quality, record)
    quality.set(xlabel="multiply-adds left, %", ylabel="rank correlation with the teacher")
    quality.set_title("filled: distilled; hollow: refit alone")
    names = {record["method"]: COLOURS[record["method"]] for record in records}
    for name, colour in names.items():
        quality.plot([], [], "o", color=colour, label=name)
    quality.legend(frameon=False, loc="lower right")
    gates = [record for record in records if record["method"] == "gates"]
    for axes, of_heads, title in ((heads, True, "attention heads"), (inner, False, "FFN units")):
        widths(axes, gates, of_heads)
        axes.set(title=f"{title} that the gates keep", xlabel="layer")
    figure.savefig(picture, dpi=110)


def curve(axes: Axes, record: Record) -> None:
    """One run: quality with refit alone, dashed, and after distillation."""
    colour = COLOURS[record["method"]]
    shares = [100.0] + [100 * level["macs"] for level in record["levels"]]
    for name, style, fill in (("refit", "--", "none"), ("distilled", "-", colour)):
        values = [1.0] + [level[name] for level in record["levels"]]
        axes.plot(
            shares, values, style, color=colour, marker="o", markerfacecolor=fill, linewidth=1
        )


def widths(axes: Axes, records: list[Record], of_heads: bool) -> None:
    """The mean number of units that each layer keeps, one bar for each target."""
    targets = [level["target"] for level in records[0]["levels"]]
    for place, target in enumerate(targets):
        kept = [record["levels"][place]["kept"] for record in records]
        names = [name for name in kept[0] if (HEADS in name) == of_heads]
        means = [statistics.fmean(one[name] for one in kept) for name in names]
        at = [layer + 1 + 0.38 * (place - 0.5) for layer in range(len(names))]
        axes.bar(at, means, 0.36, color=("tab:blue", "tab:cyan")[place], label=f"{target:.0%}")
    axes.axhline(12 if of_heads else 1536, color="0.7", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="multiply-adds", loc="lower right")
