"""Mutation testing: does a test fail where the library is wrong?

    pip install -e ".[dev,mutants]"
    python tests/mutants/run_mutants.py --size 400

Changes one place of a copy of the package, runs the changed file's own tests, and goes on. The
mutants are a sample, stratified by file; a larger size continues a smaller one. What has run is
kept in a folder, and a second call goes on from there. ``--again`` runs the survivors again."""

from __future__ import annotations

import argparse
import ast
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from mutant_owners import SOURCES, owners_of
from mutant_population import Mutant, digest_of, in_order, mutants_of, text_of
from mutant_reach import Reach, reach_of
from mutant_report import diff, equivalents, report
from mutant_trial import InOrder, copied_checkout, import_for_all, run_tests

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.json")
MOST = 800


def main() -> None:
    options = parsed()
    folder = options.folder
    (folder / "checkout").mkdir(parents=True, exist_ok=True)
    sample = sample_of(options.size, options.seed)
    records = read_records(folder / "records.jsonl")
    waiting = [mutant for mutant in sample if is_waiting(mutant, records, options.again)]
    if waiting:
        import_for_all(folder)
        copy = copied_checkout(ROOT, folder)
        files = sorted({file for mutant in waiting for file in owners_of(mutant.source)})
        run_all(waiting, copy, reach_of(copy, files, folder), folder, options.until)
    records = read_records(folder / "records.jsonl")
    ran = [records[mutant.name] for mutant in sample if mutant.name in records]
    print(report(ran, equivalents(EQUIVALENT)))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(tempfile.gettempdir()) / "l0func_mutants"
    parser.add_argument("--size", type=int, default=250, help=f"mutants, at most {MOST}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=default, help="what is kept")
    parser.add_argument("--again", action="store_true", help="run the survivors again")
    parser.add_argument("--until", default="", help="start no mutant after this time, as 16:20")
    options = parser.parse_args()
    if not 0 < options.size <= MOST:
        parser.error(f"--size is 1 to {MOST}; got {options.size}")
    return options


def sample_of(size: int, seed: int) -> list[Mutant]:
    """A sample of all mutants, without those that change nothing."""
    found: list[Mutant] = []
    for mutant in in_order([mutants_of(ROOT, source) for source in SOURCES], seed):
        if len(found) == size:
            break
        if not is_same(mutant):
            found.append(mutant)
    return found


def is_same(mutant: Mutant) -> bool:
    """Whether the change is one of spelling alone."""
    before, after = (ROOT / mutant.source).read_text(), text_of(ROOT, mutant)
    try:
        return ast.dump(ast.parse(before)) == ast.dump(ast.parse(after))
    except SyntaxError:
        return True


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """The last record of each mutant, by the mutant's name."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def is_waiting(mutant: Mutant, records: dict[str, dict[str, Any]], again: bool) -> bool:
    """Whether a mutant has to run."""
    record = records.get(mutant.name)
    return record is None or (again and record["outcome"] == "survived")


def run_all(
    mutants: list[Mutant], copy: Path, reach: Reach, folder: Path, until: str
) -> None:
    """Run the mutants and write a record of each."""
    for number, mutant in enumerate(mutants):
        if until and time.strftime("%H:%M") >= until:
            return
        record = tried(mutant, copy, reach, folder)
        with (folder / "records.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(
            f"{number + 1} of {len(mutants)}: {mutant.source}:{mutant.line} {mutant.operator} "
            f"{record['outcome']} ({record['seconds']} s) {record['killer']}",
            flush=True,
        )


def tried(mutant: Mutant, copy: Path, reach: Reach, folder: Path) -> dict[str, Any]:
    """Run a mutant's tests; the copy is afterwards as it was."""
    path, killer = copy / mutant.source, folder / "killer.txt"
    before, after = path.read_text(), text_of(ROOT, mutant)
    assert digest_of(before) == mutant.digest, "the checkout changed while mutants ran"
    killer.write_text("")
    plugin = InOrder(lambda test: reach.rank(mutant.source, mutant.line, test), killer)
    path.write_text(after)
    try:
        log = folder / "mutant.log"
        ending = run_tests(copy, owners_of(mutant.source), plugin, log)
    finally:
        path.write_text(before)
    if ending.late:
        outcome = "timed out"
    else:
        outcome = "survived" if ending.code == 0 else "killed"
    return {
        "name": mutant.name,
        **mutant._asdict(),
        "diff": diff(before, after),
        "outcome": outcome,
        "code": ending.code,
        "killer": killer.read_text(),
        "seconds": round(ending.seconds, 1),
    }


if __name__ == "__main__":
    main()
