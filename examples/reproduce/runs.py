"""The command of both reproductions: rows trained, recorded as JSON, and checked."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import command_line as cli
import torch
from mnist import mnist
from records import interval, line, mean_of, show
from rows import Layer, Network, Row
from run import Run

import l0func as l0

__all__ = ["Layer", "Network", "Row", "Run", "interval", "line", "main", "result", "show"]

ESTIMATORS = ("louizos", "median", "count")
RUNS = Path(__file__).parent / "runs"


def result(run: Run, states: l0.TrainState, seconds: float) -> dict[str, Any]:
    """The record of a finished run, as JSON values."""
    members = l0.unstack(states)
    seeds = {name: [run.measured(member, name) for member in members] for name in ESTIMATORS}
    return {
        "row": asdict(run.row),
        "network": run.network.name,
        "dense_macs": run.counts.total,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seeds": seeds,
    }


def main(network: Network, rows: Sequence[Row], claims: dict[str, tuple[float, float]]) -> None:
    """Train the rows that were asked for, write their JSON, and assert the claims about them."""
    parser = argparse.ArgumentParser(description=f"{network.name} on MNIST, behind gates")
    parser.add_argument("--data", help="mnist.npz, or a folder with the idx files")
    names = [row.name for row in rows]
    parser.add_argument("--row", action="append", choices=names, help="all without it")
    parser.add_argument("--epochs", type=cli.whole(1), help="fewer or more than the row says")
    parser.add_argument("--seeds", type=cli.whole(1))
    parser.add_argument("--folder", type=cli.folder, default=RUNS, help="for states and logs")
    options = parser.parse_args()
    if (options.epochs or options.seeds) and options.folder == RUNS:
        parser.error("argument --epochs or --seeds: a changed row needs a --folder of its own")
    try:
        x, y, x_test, y_test = mnist(options.data)
    except (FileNotFoundError, ValueError) as error:
        parser.error(f"argument --data: {error}")
    data = (x.reshape(-1, *network.shape), y, x_test.reshape(-1, *network.shape), y_test)
    for row in rows:
        if options.row and row.name not in options.row:
            continue
        changed = {"epochs": options.epochs or row.epochs, "seeds": options.seeds or row.seeds}
        run = Run(network, Row(**(asdict(row) | changed)), data)
        folder = options.folder / network.name / row.name
        record = result(run, *run.trained(folder))
        (folder / "result.json").write_text(json.dumps(record, indent=1) + "\n")
        print(show(record))
        if row.name in claims and run.row == row:
            check(record["seeds"]["louizos"], row.name, *claims[row.name])


def check(seeds: list[dict[str, Any]], name: str, density: float, error: float) -> None:
    """Assert the claims about a row."""
    kept = mean_of([seed["realised"] for seed in seeds])
    assert kept <= density, f"{name}: at most {density:.2%} of the weights"
    wrong = mean_of([seed["error"] for seed in seeds])
    assert wrong <= error, f"{name}: an error of at most {error:.2%}"
