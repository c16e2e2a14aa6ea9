"""Mutation testing: does a test fail where the library is wrong?

    pip install -e ".[dev,mutants]"
    python tests/mutants/run_mutants.py --size 400

Changes one place of a copy of the package, runs the changed file's own tests, and goes on. The
mutants are a sample, stratified by file; a larger size continues a smaller one. What has run is
kept in a folder, and a second call goes on from there. ``--again`` runs the survivors again. Runs
with ``--part 1/2`` and ``--part 2/2`` may go side by side: they share a folder."""

from __future__ import annotations

import argparse
import ast
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from mutant_owners import SOURCES, kernel_for, owners_of
from mutant_population import Mutant, digest_of, in_order, mutants_of, text_of
from mutant_reach import Reach
from mutant_report import diff, equivalents, report
from mutant_trial import Ending, InOrder, copied_checkout, import_for_all, run_tests

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.json")
MOST = 800


def main() -> None:
    options = parsed()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    sample = in_order(population(folder), options.seed)[: options.size]
    records = read_records(folder)
    part, parts = options.part
    waiting = [mutant for mutant in sample if is_waiting(mutant, records, options.again)]
    mine = waiting[part - 1 :: parts]
    if mine:
        import_for_all(folder)
        copy = copied_checkout(ROOT, folder / f"checkout{part}")
        run_all(mine, copy, folder / f"records{part}.jsonl", options.until)
    records = read_records(folder)
    found = [records[mutant.name] for mutant in sample if mutant.name in records]
    ran = [record for record in found if record["outcome"] != "same"]
    print(report(ran, equivalents(EQUIVALENT)))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(tempfile.gettempdir()) / "l0func_mutants"
    parser.add_argument("--size", type=int, default=250, help=f"mutants, at most {MOST}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=default, help="what is kept")
    parser.add_argument("--part", type=part_of, default=(1, 1), help="run a part: 1/2, then 2/2")
    parser.add_argument("--again", action="store_true", help="run the survivors again")
    parser.add_argument("--until", default="", help="start no mutant after this time, as 16:20")
    options = parser.parse_args()
    if not 0 < options.size <= MOST:
        parser.error(f"--size is 1 to {MOST}; got {options.size}")
    return options


def part_of(text: str) -> tuple[int, int]:
    """``2/3``: the second of three parts."""
    part, parts = map(int, text.split("/"))
    if not 0 < part <= parts:
        raise ValueError(text)
    return part, parts


def population(folder: Path) -> list[list[Mutant]]:
    """All mutants of each file; those of unchanged files are read from the folder."""
    kept = folder / "population.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    for source in SOURCES:
        digest = digest_of((ROOT / source).read_text())
        if source not in known or known[source]["digest"] != digest:
            known[source] = {"digest": digest, "mutants": mutants_of(ROOT, source)}
    kept.write_text(json.dumps(known))
    return [[Mutant(*fields) for fields in known[source]["mutants"]] for source in SOURCES]


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The last record of each mutant, by the mutant's name."""
    lines: list[str] = []
    for path in folder.glob("records*.jsonl"):
        lines += path.read_text().splitlines()
    records = sorted(map(json.loads, lines), key=lambda record: record["at"])
    return {record["name"]: record for record in records}


def is_waiting(mutant: Mutant, records: dict[str, dict[str, Any]], again: bool) -> bool:
    """Whether a mutant has to run."""
    record = records.get(mutant.name)
    return record is None or (again and record["outcome"] == "survived")


def run_all(mutants: list[Mutant], copy: Path, kept: Path, until: str) -> None:
    """Run the mutants and write a record of each."""
    reach = Reach(copy, kept.parent)
    for number, mutant in enumerate(mutants):
        if until and time.strftime("%H:%M") >= until:
            return
        record = tried(mutant, copy, reach, kept)
        with kept.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(
            f"{number + 1} of {len(mutants)}: {mutant.source}:{mutant.line} {mutant.operator} "
            f"{record['outcome']} ({record['seconds']} s) {record['killer']}",
            flush=True,
        )


def tried(mutant: Mutant, copy: Path, reach: Reach, kept: Path) -> dict[str, Any]:
    """Run a mutant's tests; the copy is afterwards as it was."""
    before, after = (copy / mutant.source).read_text(), text_of(ROOT, mutant)
    assert digest_of(before) == mutant.digest, "the checkout changed while mutants ran"
    record = {"name": mutant.name, **mutant._asdict(), "diff": diff(before, after)}
    if is_same(before, after):
        return {**record, "outcome": "same", "killer": "", "seconds": 0, "at": time.time()}
    tests = owners_of(mutant.source)
    for test in tests:
        reach.measure(test)
    killer = kept.with_suffix(".killer")
    killer.write_text("")
    plugin = InOrder(lambda test: reach.rank(mutant.source, mutant.line, test), killer)
    (copy / mutant.source).write_text(after)
    try:
        log, kernel = kept.with_suffix(".log"), kernel_for(mutant.source)
        ending = run_tests(copy, tests, plugin, log, kernel)
    finally:
        (copy / mutant.source).write_text(before)
    return {
        **record,
        "outcome": outcome_of(ending),
        "killer": killer.read_text(),
        "seconds": round(ending.seconds, 1),
        "at": time.time(),
    }


def is_same(before: str, after: str) -> bool:
    """Whether the change is one of spelling alone, or no Python."""
    try:
        return ast.dump(ast.parse(before)) == ast.dump(ast.parse(after))
    except SyntaxError:
        return True


def outcome_of(ending: Ending) -> str:
    """What became of the mutant."""
    if ending.late:
        return "timed out"
    return "survived" if ending.code == 0 else "killed"


if __name__ == "__main__":
    main()
