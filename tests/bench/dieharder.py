"""The words of a tree of keys through Brown's dieharder, with a record of its p-values.

    python tests/bench/dieharder.py

Needs the program (on Debian: apt install dieharder). The words go to its standard input, which
cannot be rewound: where a test asks for more words it gets new ones, and the record says how many
it took. Each test has a tree of its own, so that it can be repeated alone. The record is written
after every test, and a run goes on where its record ends; ``--table`` prints it in Markdown.

A test is WEAK at p < 0.005 or p > 0.995, and FAILED at p < 1e-6 or p > 1 - 1e-6. A perfect
generator has one WEAK p-value in a hundred, so the run fails at any FAILED, or at so many WEAK
that a perfect generator would have as many in at most one run of ten thousand.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from words import GENERATORS, Words, check_words

SEED = 2**40
RECORD = Path(__file__).with_name("dieharder.json")
WEAK, FAILED, FALSE_ALARMS = 0.005, 1e-6, 1e-4
COLUMNS = ("test_name", "ntuple", "tsamples", "psamples", "pvalues", "assessment")
"""The columns that dieharder prints, in its order."""


@dataclass(frozen=True)
class Test:
    """One call of dieharder: the number of a test, and its n where it has one."""

    number: int
    n: int | None = None

    @property
    def name(self) -> str:
        """The call, as the record names it."""
        return f"-d {self.number}" if self.n is None else f"-d {self.number} -n {self.n}"

    def command(self) -> list[str]:
        flags = [part for column in COLUMNS for part in ("-D", column)]
        return ["dieharder", "-g", "200", *self.name.split(), *flags, "-c", ","]


LAGGED_SUMS = 203
LAGS = range(9)
"""Lag n takes (n + 1) * 1e8 words: these are the lags, of 0 to 32, for which 1e9 words suffice."""


def battery() -> list[Test]:
    """The tests of ``dieharder -a``, but for long lags and for ``diehard_sums``.

    The author of dieharder says not to use the latter.
    """
    plain = [0, *range(2, 14), 1, 15, 16, 17, 100, 101, 102, 204, 205]
    tests = [Test(number) for number in plain]
    tests += [Test(200, n) for n in range(1, 13)]
    tests += [Test(201, n) for n in range(2, 6)]
    tests += [Test(202, n) for n in range(2, 6)]
    tests += [Test(206, 256), Test(207, 32), Test(208, 0), Test(208, 1), Test(209)]
    return tests + [Test(LAGGED_SUMS, lag) for lag in LAGS]


def fed(test: Test, words: Words, bar: tqdm) -> tuple[list[dict[str, Any]], int]:
    """The lines that a test reports, and the number of words that went into its pipe.

    A pipe holds 16,384 words, so the test may have read that much less.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(test.command(), stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    taken = 0
    try:
        for chunk in words:
            process.stdin.write(chunk.data)
            taken += chunk.size
            bar.update(chunk.size)
    except BrokenPipeError:
        # The test has read what it wanted.
        pass
    lines = process.stdout.read().decode().splitlines()
    if process.wait() != 0:
        raise RuntimeError(f"dieharder ended with {process.returncode}: {lines}")
    return [parsed(line) for line in lines], taken


def parsed(line: str) -> dict[str, Any]:
    """One line of a report: name, n, samples, p-value, assessment."""
    name, n, tsamples, psamples, p, _ = (part.strip() for part in line.split(","))
    value = float(p)
    return {
        "test": name,
        "n": int(n),
        "tsamples": int(tsamples),
        "psamples": int(psamples),
        "p": value,
        "found": assessment(value),
    }


def assessment(p: float) -> str:
    """dieharder's own thresholds, kept here so that the record says what they mean."""
    tail = min(p, 1 - p)
    return "FAILED" if tail < FAILED else "WEAK" if tail < WEAK else "PASSED"


def most_weak(number: int) -> int:
    """The least count of WEAK with a probability of at most 1e-4, for ideal independent tests."""
    chance, below = 2 * WEAK, 0.0
    for count in range(number + 1):
        if 1 - below <= FALSE_ALARMS:
            return count
        below += math.comb(number, count) * chance**count * (1 - chance) ** (number - count)
    return number + 1


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    found = [line["found"] for line in lines]
    calls = {line["call"]: line["words"] for line in lines}
    return {
        "calls": len(calls),
        "words": sum(calls.values()),
        "p_values": len(lines),
        "weak": found.count("WEAK"),
        "failed": found.count("FAILED"),
        "weak_expected": round(2 * WEAK * len(lines), 2),
        "weak_that_fail_the_run": most_weak(len(lines)),
        "chance_of_any_failed": 2 * FAILED * len(lines),
    }


def run(generator: str, seed: int, tests: list[Test], record: Path) -> dict[str, Any]:
    """Feed every test that the record lacks, and write the record after each."""
    start = {"generator": generator, "seed": seed}
    done = json.loads(record.read_text()) if record.exists() else start
    if (done["generator"], done["seed"]) != (generator, seed):
        raise ValueError(f"{record} is that of another generator or seed.")
    lines = done.get("lines", [])
    minutes, began = done.get("minutes", 0.0), time.monotonic()
    result = done
    with tqdm(unit=" words", unit_scale=True, mininterval=5) as bar:
        for place, test in enumerate(tests):
            bar.set_description(f"test {place + 1} of {len(tests)}")
            if any(line["call"] == test.name for line in lines):
                continue
            words = GENERATORS[generator](seed + 100 * test.number + (test.n or 0))
            found, taken = fed(test, words, bar)
            for line in found:
                bar.write("{test:24} {n:4} {p:.6f} {found}".format(**line))
                lines.append({"call": test.name, **line, "words": taken})
            result = {
                **start,
                "torch": torch.__version__,
                "minutes": round(minutes + (time.monotonic() - began) / 60, 1),
                **summary(lines),
                "lines": lines,
            }
            record.write_text(json.dumps(result, indent=1) + "\n")
    return result


def table(record: dict[str, Any]) -> str:
    """The record in Markdown: a row for each test, its p-values in the order of n."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in record["lines"]:
        rows.setdefault(line["test"], []).append(line)
    text = ["| test | n | words, millions | p-values |", "|---|---|---|---|"]
    for name, lines in rows.items():
        numbers = sorted({line["n"] for line in lines})
        words = sum({line["call"]: line["words"] for line in lines}.values())
        span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        ordered = sorted(lines, key=lambda line: line["n"])
        values = " ".join(_marked(line) for line in ordered)
        text.append(f"| {name} | {span} | {words / 1e6:,.0f} | {values} |")
    return "\n".join(text)


def _marked(line: dict[str, Any]) -> str:
    value = f"{line['p']:.3f}"
    return value if line["found"] == "PASSED" else f"**{value}**"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--generator", choices=[*GENERATORS], default="tree")
    parser.add_argument("--tests", type=int, nargs="*", help="numbers of dieharder -l; all")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--table", action="store_true", help="print the record, run nothing")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if options.table:
        print(table(json.loads(options.record.read_text())))
        return 0
    torch.set_num_threads(1)
    check_words()
    tests = [test for test in battery() if not options.tests or test.number in options.tests]
    result = run(options.generator, options.seed, tests, options.record)
    print({key: value for key, value in result.items() if key != "lines"})
    too_many = result["weak"] >= result["weak_that_fail_the_run"]
    return int(result["failed"] > 0 or too_many)


if __name__ == "__main__":
    sys.exit(main())
