"""Does a pretrained EfficientNet stay accurate with a quarter of its multiply-adds?

EfficientNet-lite0 learned on ImageNet. It is fine-tuned on handwritten digits, and then loses
channels in two rounds: to 25 % of its multiply-adds, and to 10 % of them. Learned gates, with
expected multiply-adds as their price, are compared with channels by magnitude and at random.
All have the same number of steps, and count after the last one. The whole network gets as many.

    python examples/efficientnet.py --all        all methods by three seeds, and the report
    python examples/efficientnet.py --method learned --seed 0
    python examples/efficientnet.py --report     table and picture of the runs that are there
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from functools import cache
from itertools import product
from pathlib import Path

import command_line as cli
import torch
from efficientnet_methods import METHODS
from efficientnet_network import load, pretrained
from efficientnet_report import measured, report, speeds
from efficientnet_train import Steps, Work, tuned
from torch import nn

RUNS = Path(__file__).parent / "efficientnet_runs"
SHARES, SEEDS = (0.25, 0.1), (0, 1, 2)
FULL = Steps(dense=200, gates=160, tune=240, timed=10)
QUICK = Steps(dense=1, gates=2, tune=1, timed=1)


@cache
def fine_tuned(work: Work) -> nn.Module:
    """The whole network, which all methods start from."""
    return tuned(
        pretrained(work.seed, work.data.side).to(work.device), work, work.steps.dense, "dense"
    )


def run(method: str, work: Work, shares: tuple[float, ...]) -> dict:
    """One method from one seed: the record of the whole network, and of each smaller one."""
    begin, busy = time.perf_counter(), time.process_time()
    dense = fine_tuned(work)
    before, now = measured(dense, work), dense
    record = {"method": method, "seed": work.seed, "steps": work.steps._asdict(), "dense": before}
    record |= {"device": work.device, "threads": torch.get_num_threads(), "rounds": []}
    share = 1.0
    for target in (1.0,) if method == "whole" else shares:
        # A target is a share of the whole network's multiply-adds, also in the second round.
        found = METHODS[method](copy.deepcopy(now), work, target / share)
        now = found.small
        after = measured(now, work) | speeds(dense, now, work.data.x_test, work.steps.timed)
        share, right = after["macs"] / before["macs"], after["accuracy"]
        print(f"{method} {work.seed}: {share:.1%} of multiply-adds, {right:.1f} % accuracy")
        after |= {"target": target, "difference": found.difference}
        after |= {"channels": found.channels, "widths": found.widths}
        record["rounds"].append(after)
    record["seconds"] = time.perf_counter() - begin
    record["cpu_seconds"] = time.process_time() - busy
    return record


def check(record: dict) -> None:
    """Assert the claims about learned gates."""
    before, after = record["dense"], record["rounds"][0]
    assert after["macs"] <= 0.255 * before["macs"], (
        "a quarter of the multiply-adds, and a half point"
    )
    assert after["accuracy"] >= before["accuracy"] - 1, "at most one point of accuracy is lost"
    assert all(found["difference"] < 1e-4 for found in record["rounds"]), "cuts are exact"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=METHODS, default="learned")
    parser.add_argument("--seed", type=cli.whole(0), default=0)
    parser.add_argument("--all", action="store_true", help="runs that have no record yet")
    parser.add_argument("--device", type=cli.device, default="cpu")
    parser.add_argument("--folder", type=cli.folder, default=RUNS, help="for the records")
    parser.add_argument("--picture", type=cli.picture, default="efficientnet_picture.png")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--quick", action="store_true", help="a few steps; claims nothing")
    options = parser.parse_args()
    if options.report:
        return report(options.folder, options.picture)
    todo = [(options.seed, options.method)]
    if options.all:
        todo = list(product(SEEDS, METHODS))
    steps, data = (QUICK, load(32, 32)) if options.quick else (FULL, load())
    # A short run leaves the records of full ones alone.
    short = options.quick and options.folder == RUNS
    folder = Path(tempfile.mkdtemp()) if short else options.folder
    folder.mkdir(parents=True, exist_ok=True)
    for seed, method in todo:
        file = folder / f"{method}-{seed}.json"
        if options.all and file.exists():
            continue
        work = Work(data, options.device, seed, steps)
        record = run(method, work, SHARES[:1] if options.quick else SHARES)
        file.write_text(json.dumps(record, indent=1) + "\n")
        if method == "learned" and not options.quick:
            check(record)
    report(folder, options.picture)


if __name__ == "__main__":
    main()
