"""The sizes of a speller before and after, and the table and the picture of all runs."""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from speller_network import Speller
from speller_words import Examples

import l0func as l0

STAGES = ("original", "narrow embeddings", "units cut", "distilled")
COLOURS = {"learned": "C0", "magnitude": "C1", "random": "C2"}


def measured(before: Speller, after: Speller, examples: Examples) -> dict[str, list[float]]:
    """Sizes and speed of both networks; the multiply-adds are those of one word."""
    word = tuple(t[:1] for t in examples)
    spellers = (before, after)
    pure = [l0.make_functional(speller) for speller in spellers]
    return {
        "parameters": [sum(p.numel() for p in one.params.values()) for one in pure],
        "macs": [l0.count_macs(*one, *word).total for one in pure],
        "letters": [speller.letters.embedding_dim for speller in spellers],
        "recurrent": [speller.encoder.hidden_size for speller in spellers],
        "phonemes": [speller.phonemes.embedding_dim for speller in spellers],
        "bytes": [bytes_on_disk(speller) for speller in spellers],
        "ms, 1 word": milliseconds(spellers, examples[0][:1]),
        "ms, 256 words": milliseconds(spellers, examples[0][:256]),
    }


def bytes_on_disk(speller: Speller) -> int:
    """Size of a state_dict."""
    file = io.BytesIO()
    torch.save(speller.state_dict(), file)
    return file.tell()


def milliseconds(spellers: Sequence[Speller], letters: torch.Tensor) -> list[float]:
    """Medians of calls that take turns; each spells all words."""
    times: list[list[float]] = [[] for _ in spellers]
    for _ in range(7):
        for own, speller in zip(times, spellers, strict=True):
            start = time.perf_counter()
            speller.spell(letters)
            own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own[2:]) for own in times]


def report(folder: Path, picture: Path) -> None:
    """Print the table of a folder's runs, and draw them."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise SystemExit(f"{folder} has no runs: python examples/speller.py --all")
    print("\n| method, seed | weights | multiply-adds | units | cut | distilled | ms, 256 words |")
    print("|---|---|---|---|---|---|---|")
    for record in records:
        print(line(record))
    figure = Figure(figsize=(13, 4), layout="constrained")
    errors, stages, units = figure.subplots(1, 3)
    draw_errors(records, errors)
    draw_stages(records, stages)
    draw_units(records, units)
    figure.savefig(picture, dpi=80)


def line(record: dict[str, Any]) -> str:
    """A row of the table."""
    weights, macs = share(record, "parameters"), share(record, "macs")
    units = "-".join(str(record[name][1]) for name in ("letters", "recurrent", "phonemes"))
    errors = record["phoneme_error"]
    before, after = record["ms, 256 words"]
    return (
        f"| {record['method']}, {record['seed']} | {weights:.1f} % | {macs:.1f} % | {units} "
        f"| {errors['units cut']:.2f} % | {errors['distilled']:.2f} % "
        f"| {before:.0f} → {after:.0f} |"
    )


def share(record: dict[str, Any], name: str) -> float:
    """The share that stays, in per cent."""
    before, after = record[name]
    return 100 * after / before


def draw_errors(records: Sequence[dict[str, Any]], ax: Axes) -> None:
    for record in records:
        error = record["phoneme_error"]["distilled"]
        ax.plot(share(record, "parameters"), error, "o", color=COLOURS[record["method"]])
    original = records[0]["phoneme_error"]["original"]
    ax.plot(100, original, "k*", markersize=12)
    ax.annotate("original", (100, original), (-6, 8), textcoords="offset points", ha="right")
    ax.axhline(original + 1, color="grey", linestyle=":", label="one point more")
    ax.set(xlabel="weights left, %", ylabel="phoneme error, %", xlim=(0, 105))
    ax.set_ylim(0, 1.1 * ax.get_ylim()[1])
    ax.set_title("Error on 5,000 unseen words")
    ax.legend(frameon=False)


def draw_stages(records: Sequence[dict[str, Any]], ax: Axes) -> None:
    labelled: set[str] = set()
    for record in records:
        errors = [record["phoneme_error"][stage] for stage in STAGES]
        method = record["method"]
        label = None if method in labelled else method
        labelled.add(method)
        ax.plot(range(len(STAGES)), errors, "o-", color=COLOURS[method], label=label, alpha=0.7)
    ax.set_xticks(range(len(STAGES)), [stage.replace(" ", "\n") for stage in STAGES])
    ax.set(ylabel="phoneme error, %", title="From step to step", ylim=(0, None))
    ax.legend(frameon=False)


def draw_units(records: Sequence[dict[str, Any]], ax: Axes) -> None:
    groups = ("letters", "recurrent", "phonemes")
    methods = [m for m in COLOURS if any(record["method"] == m for record in records)]
    for place, name in enumerate(groups):
        ax.barh(place, records[0][name][0], 0.8, color="0.92")
        for number, method in enumerate(methods):
            own = [record[name][1] for record in records if record["method"] == method]
            mean, height = statistics.mean(own), 0.7 / len(methods)
            offset = (number - (len(methods) - 1) / 2) * height
            ax.barh(place + offset, mean, height, color=COLOURS[method])
            ax.text(mean + 3, place + offset, f"{mean:.0f}", va="center", fontsize=8)
    ax.set_yticks(range(len(groups)), ["letter\nembedding", "both\nGRUs", "phoneme\nembedding"])
    ax.invert_yaxis()
    ax.set(xlabel="units left (grey: 256 before)", title="Units that stay")
