"""How much of a sentence encoder can go before its similarities change?

all-MiniLM-L6-v2 gets a gate for every attention head and every feed-forward unit. A target in
multiply-adds closes gates; the rest is fitted again, and imitates the whole encoder on sentences
from Python's own documentation. Magnitude pruning and random units get the same steps.

    python examples/minilm.py [--method gates] [--seed 0] [--quick]
    python examples/minilm.py --all      # three methods, three seeds, then table and picture
    python examples/minilm.py --report   # table and picture from the recorded runs
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import command_line as cli
import minilm_report as report
import minilm_units as units
import torch
from minilm_encoder import Network, Tensors, model_folder
from minilm_settings import Settings, chosen
from minilm_study import Study
from torch import Tensor

import l0func as l0

RUNS = Path(__file__).parent / "minilm_runs"
SEEDS = range(3)
PRICE = {"lr": 1.0, "damping": 3.0}  # quick: the controller holds the share from below


def learned(
    study: Study, net: Network, spec: l0.GateSpec, share: float, steps: int
) -> tuple[Tensors, Network]:
    """Fixed gates, trained towards a share of the multiply-adds; and the weights beside them."""
    settings = study.settings
    counts = study.counts(net)
    places = units.surgeon_places(net, spec, study.examples)
    gates = units.start(places, settings.centre, settings.spread)
    control = l0.lagrangian(
        spec, share, measure="macs", counts=counts, warmup=steps // 2, floor=2, **PRICE
    )
    gated = l0.gated(net.fn, spec)

    def apply(params: Tensors, gates: Tensors, buffers: Tensors, key: Tensor, x: Tensors) -> Any:
        return gated(params, gates, buffers, key, **x, output_hidden_states=True)

    rates = settings.gated_lr, steps
    state = study.train(apply, (net.params, gates, net.buffers), rates, "gates", control)
    reached = l0.realised_macs(state.gates, spec, counts) / study.macs
    print(f"the controller reached {reached:.1%} of the multiply-adds")
    fixed = units.settled(state.gates, spec, counts, share)
    return fixed, net._replace(params=state.params)


def cut(
    study: Study, method: str, level: int, net: Network, spec: l0.GateSpec
) -> tuple[Tensors, Network]:
    """The fixed gates of a method for one target, and the network that they leave."""
    settings = study.settings
    share = settings.targets[level] / (settings.targets[level - 1] if level else 1.0)
    if method == "gates":
        exact = settings.targets[level] * study.macs / study.counts(net).total
        gates, trained = learned(study, net, spec, exact, settings.gates_steps[level])
        if settings.keep:
            return gates, Network(*l0.compact(*trained[:2], gates, net.buffers, spec))
    elif method == "surgeon":
        gates = units.best(units.surgeon_places(net, spec, study.examples), share)
    elif method == "magnitude":
        gates = units.best(units.magnitudes(net, spec), share)
    else:
        gates = units.best(units.chance(spec, study.key.to(study.bank.device)), share)
    return gates, units.cut(net, spec, gates, study.examples)


def run(options: argparse.Namespace, method: str, seed: int, settings: Settings) -> Iterator[Any]:
    """The record of a run, after each target: the networks that are left."""
    began = time.perf_counter()
    study = Study(options, settings, seed)
    net, whole = study.dense, units.plan(study.dense, study.two)
    device = study.bank.device
    alive = {gate.name: torch.arange(gate.size, device=device) for gate in whole.gates}
    levels: list[dict[str, Any]] = []
    rounds = 3 if options.quick else 14
    for level, target in enumerate(settings.targets):
        spec = units.plan(net, study.two) if level else whole
        gates, fitted = cut(study, method, level, net, spec)
        alive = {name: ids[gates[name] > 0] for name, ids in alive.items()}
        left = units.only(alive, whole)
        alone = units.cut(study.dense, whole, left, study.examples)
        steps = settings.steps[level]
        if method != "gates":
            steps += settings.gates_steps[level]
        net = study.distilled(fitted, steps)
        quality = {"refit": study.quality(alone), "distilled": study.quality(net)}
        quality["validation"] = study.quality(net, "validation")
        record = {"target": target} | quality
        record["kept"] = {name: len(ids) for name, ids in alive.items()}
        modules = [one.on_cpu().module() for one in (study.dense, net)]
        record |= report.measured(*modules, {n: t.cpu() for n, t in study.timed.items()}, rounds)
        record["macs"] = study.counts(net).total / study.macs
        levels.append(record)
        print(f"{method}, seed {seed}: {report.line(record)}", flush=True)
        yield {
            "method": method,
            "seed": seed,
            "settings": asdict(settings),
            "seconds": time.perf_counter() - began,
            "levels": levels,
        } | report.surroundings(options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=units.METHODS, default="gates")
    parser.add_argument("--seed", type=cli.whole(0), default=0)
    parser.add_argument("--all", action="store_true", help="all methods, three seeds")
    parser.add_argument("--report", action="store_true", help="only read the recorded runs")
    parser.add_argument("--quick", action="store_true", help="few steps, and no claim")
    parser.add_argument("--settings", default="{}", help="others, as JSON")
    parser.add_argument("--device", type=cli.device, default="cpu")
    parser.add_argument("--weights", type=model_folder, help="a folder; else the package")
    parser.add_argument("--text", type=cli.file, help="sentences: read if there, else written")
    parser.add_argument("--folder", type=cli.folder, default=RUNS, help="for records")
    parser.add_argument("--picture", type=cli.picture, default="minilm_picture.png")
    options = parser.parse_args()
    settings = chosen(options, parser)
    if options.report:
        return report.show(options.folder, options.picture)
    every = [(method, seed) for method in units.METHODS for seed in SEEDS]
    for method, seed in every if options.all else [(options.method, options.seed)]:
        for record in run(options, method, seed, settings):
            if not options.quick:
                options.folder.mkdir(exist_ok=True, parents=True)
                file = options.folder / f"{method}-{seed}.json"
                file.write_text(json.dumps(record, indent=1) + "\n")
    if options.all:
        report.show(options.folder, options.picture)


if __name__ == "__main__":
    main()
