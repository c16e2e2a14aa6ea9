"""The sizes of a reader before and after, and the table and the picture of all runs."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from compact_cnn_report import bytes_on_disk, macs, size
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ocr_network import Reader
from torch import Tensor

Record = dict[str, Any]
LOST = 0.5  # points of character error
STAGES = ("original", "units cut", "refit", "distilled")
COLOURS = {"learned": "C0", "magnitude": "C1", "random": "C2"}
HEADER = "| method, seed | multiply-adds | parameters | MB | cut | refit | distilled | speed |"


def measured(before: Reader, after: Reader, images: Tensor) -> dict[str, list[float]]:
    """Sizes, and speed on a CPU, of both readers; the multiply-adds are those of one image."""
    readers = [before, after]
    record: dict[str, list[float]] = {
        "macs": [macs(reader, images[:1].to(reader.out.weight.device)) for reader in readers],
        "parameters": [size(reader) for reader in readers],
        "bytes": [bytes_on_disk(reader) for reader in readers],
    }
    devices = [reader.out.weight.device for reader in readers]
    readers = [reader.cpu() for reader in readers]
    for rows in (1, 32):
        record[f"ms, {rows}"] = milliseconds(readers, images[:rows])
    for reader, device in zip(readers, devices, strict=True):
        reader.to(device)
    return record


@torch.inference_mode()
def milliseconds(readers: Sequence[Reader], images: Tensor) -> list[float]:
    """Medians of calls that take turns."""
    times: list[list[float]] = [[] for _ in readers]
    for _ in range(9):
        for own, reader in zip(times, readers, strict=True):
            start = time.perf_counter()
            reader(images)
            own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own[2:]) for own in times]


def check(record: Record, share: float) -> None:
    """Assert the claims about learned gates."""
    before, after = record["macs"]
    assert after <= share * before, "at most a quarter of the multiply-adds is left"
    errors = record["character_error"]
    assert errors["distilled"] <= errors["original"] + LOST, f"at most {LOST} points more error"
    whole, left = record["units"]
    recurrent = [name for name in whole if "rnn" in name]
    assert len(recurrent) == 4
    assert all(left[name] < whole[name] for name in recurrent), "recurrent units go"


def report(folder: Path, picture: Path) -> None:
    """Print the table of a folder's runs, and draw them."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise SystemExit(f"{folder} has no runs: python examples/ocr.py --all")
    first = records[0]
    error = first["character_error"]["original"]
    print(f"\noriginal: {first['macs'][0]:,} multiply-adds for a word, {error:.2f} % error")
    print(HEADER, "|---" * 8 + "|", sep="\n")
    for record in records:
        print(line(record))
    figure = Figure(figsize=(14, 5), layout="constrained")
    stages, units = figure.subplots(1, 2, width_ratios=(2, 3))
    draw_stages(records, stages)
    draw_units(records, units)
    figure.savefig(picture, dpi=80)
    print(f"The picture is in {picture}.")


def line(record: Record) -> str:
    """A row of the table."""
    errors = [f"{record['character_error'][stage]:.2f} %" for stage in STAGES[1:]]
    before, after = record["ms, 32"]
    cells = [
        f"{record['method']}, {record['seed']}",
        f"{100 * record['macs'][1] / record['macs'][0]:.1f} %",
        f"{record['parameters'][1]:,}",
        f"{record['bytes'][1] / 1e6:.1f}",
        *errors,
        f"{before / after:.1f} × faster",
    ]
    return f"| {' | '.join(cells)} |"


def draw_stages(records: Sequence[Record], ax: Axes) -> None:
    labelled: set[str] = set()
    for record in records:
        method = record["method"]
        errors = [record["character_error"][stage] for stage in STAGES]
        label = None if method in labelled else method
        labelled.add(method)
        ax.plot(range(len(STAGES)), errors, "o-", color=COLOURS[method], label=label, alpha=0.7)
    aim = records[0]["character_error"]["original"] + LOST
    ax.axhline(aim, color="grey", linestyle=":", label="half a point more than the original")
    ax.set_xticks(range(len(STAGES)), STAGES)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_ylabel("character error, %")
    ax.set_title("A quarter of the multiply-adds: 5,000 unseen words", loc="left")
    ax.legend(frameon=False)


def draw_units(records: Sequence[Record], ax: Axes) -> None:
    """The mean number of units by method, before the number of the original."""
    whole = records[0]["units"][0]
    methods = [m for m in COLOURS if any(record["method"] == m for record in records)]
    for place, name in enumerate(whole):
        ax.bar(place, whole[name], 0.85, color="0.92")
        for number, method in enumerate(methods):
            own = [record["units"][1][name] for record in records if record["method"] == method]
            width = 0.8 / len(methods)
            offset = (number - (len(methods) - 1) / 2) * width
            ax.bar(place + offset, statistics.mean(own), width, color=COLOURS[method])
    ax.set_xticks(range(len(whole)), [short(name) for name in whole])
    ax.set_title("Units that stay (grey: the original's)", loc="left")


def short(name: str) -> str:
    """A layer's name in lines."""
    name = name.replace("look.", "conv\n").replace("read.0", "first").replace("read.1", "second")
    name = name.replace(".rnn.weight_ih_l0_reverse", "\nLSTM\nback")
    return name.replace(".rnn.weight_ih_l0", "\nLSTM").replace(".linear", "\nlinear")
