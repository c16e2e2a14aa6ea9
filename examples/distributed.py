"""Does a network train on several processes as on one, and what does each of them hold and send?

An MLP with a gate on every weight learns to read digits under DistributedDataParallel, under
FSDP2 and under tensor parallelism, each beside the same training on one process. The state is
saved every few steps. If a process dies, the others stop with an error; the same command goes on
from the last checkpoint, bit for bit.

    torchrun --nproc-per-node 2 examples/distributed.py [--steps 40] [--folder distributed_run]
    torchrun --nproc-per-node 2 examples/distributed.py --kill TP 25   # its last process dies
    torchrun --nproc-per-node 2 examples/distributed.py --device cuda  # NCCL, a GPU for each
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import command_line as cli
import torch
from distributed_report import Result, result, table
from distributed_sent import Sent
from distributed_ways import WAYS, masks_are_equal, network
from resnet import digits
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from tqdm import tqdm

import l0func as l0

BATCH, STEPS = 100, 40


def batches(start: int, steps: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The number and the batch of each step, whatever step a run goes on from."""
    x, y, _, _ = digits()
    for step in range(start, steps):
        order = l0.random.uniform(l0.random.fold_in(l0.random.key(7), step), len(x)).argsort()
        yield step, x[order[:BATCH]].flatten(1), y[order[:BATCH]]


def go_on(run: Any, folder: Path, steps: int, rank: int) -> int:
    """Load the last whole checkpoint, if there is one; return its number of steps."""
    found = {int(path.name.removeprefix("step_")): path for path in folder.glob("step_*")}
    for step in sorted(found, reverse=True):
        if step < steps:
            try:
                run.state = l0.load_shards(found[step], run.state, run.spec)
            except ValueError as error:
                # A process died while it was written. All ranks find the same.
                tell(rank, f"Passed over: {error}")
            else:
                tell(rank, f"The run goes on from {found[step]}.")
                return step
    return 0


def train(way: str, mesh: Any, options: argparse.Namespace) -> Result:
    """One way of training, and beside it one process."""
    rank, folder = mesh.get_rank(), options.folder / way
    own, alone = (WAYS[way](network(), way, where) for where in (mesh, None))
    start = go_on(own, folder, options.steps, rank)
    for _, x, y in batches(0, start):
        alone.step(x, y)
    losses, sent = [], Sent()
    bar = tqdm(total=options.steps, initial=start, desc=f"{way:6}", disable=rank > 0)
    for step, x, y in batches(start, options.steps):
        with Sent() as counted:
            part = own.step(x, y)
        sent = counted
        loss, expected = mean(part), float(alone.step(x, y))
        losses.append(abs(loss - expected) / expected)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        bar.update()
        if options.kill == [way, str(step + 1)] and rank == mesh.size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if (step + 1) % options.every == 0 and step + 1 < options.steps:
            l0.save_shards(folder / f"step_{step + 1}", own.state, own.spec)
    bar.close()
    share = mean(torch.tensor(float(masks_are_equal(way, mesh))))
    return result(own, alone, sent, losses, share == 1)


def join(device: str) -> Any:
    """Join the other processes; from here on tensors are made on the device."""
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.set_default_device(device)
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo", timeout=timedelta(minutes=1)
    )
    return init_device_mesh(device, (distributed.get_world_size(),))


def mean(value: Tensor) -> float:
    """The mean of a number over ranks."""
    return float(l0.all_reduce_mean({"": value}, 1)[""])


def tell(rank: int, text: str) -> None:
    if rank == 0:
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=cli.whole(1), default=STEPS)
    parser.add_argument("--every", type=cli.whole(1), default=10, help="steps between checkpoints")
    parser.add_argument("--folder", type=cli.folder, default="distributed_run")
    parser.add_argument("--kill", nargs=2, metavar=("WAY", "STEP"), help="kill the last process")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    steps = map(str, range(1, options.steps + 1))
    if options.kill and (options.kill[0] not in WAYS or options.kill[1] not in steps):
        parser.error(
            f"argument --kill: one of {', '.join(WAYS)}, and a step from 1 to {options.steps}"
        )
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch has no GPU here")
    if not distributed.is_torchelastic_launched():
        sys.exit(f"Start it with: torchrun --nproc-per-node 2 {sys.argv[0]}")
    mesh = join(options.device)
    results: dict[str, Result] = {}
    for way in WAYS:
        results[way] = train(way, mesh, options)
        gc.collect()  # a DistributedDataParallel that outlives its group can hang
    tell(mesh.get_rank(), f"\n{mesh.size()} processes, a step\n{table(results)}")
    for way, found in results.items():
        tell(mesh.get_rank(), f"SHA-256 of the last state, {way}: {found.digest}")
        assert found.masks, f"{way} draws other masks than one process"
        assert found.losses < 1e-6, f"{way} has other losses than one process"
        assert found.states < 1e-6, f"{way} has other weights than one process"
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
