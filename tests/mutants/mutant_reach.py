"""Which test runs which line, and how long it takes: one passing run of each test file."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path

from mutant_population import digest_of
from mutant_trial import run_tests


class Reach:
    """For each test its seconds, and for each line of the package its tests.

    Args:
        copy: The checkout to run in.
        folder: Where what was measured is kept.
    """

    def __init__(self, copy: Path, folder: Path) -> None:
        self.copy = copy
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.tests: dict[str, set[str]] = defaultdict(set)
        self.known: set[str] = set()

    def measure(self, file: str) -> None:
        """Run a test file, unless it has run as it is; it must pass.

        Raises:
            RuntimeError: A test fails on the library as it is.
        """
        # Examples in a source file take no time, and the whole file's go with every mutant.
        if file in self.known or file.startswith("l0func"):
            return
        kept = self.folder / f"reach_{file.replace('/', '_')}.json"
        digest = digest_of((self.copy / file).read_text())
        if not kept.exists() or json.loads(kept.read_text())["digest"] != digest:
            self._run(file, kept, digest)
        found = json.loads(kept.read_text())
        self.known.add(file)
        self.seconds |= found["seconds"]
        for test, lines in found["lines"].items():
            for line in lines:
                self.tests[line].add(test)

    def rank(self, source: str, line: int, test: str) -> tuple[bool, float]:
        """Where a test comes for a mutant: those first that run its line, and quick ones."""
        return test not in self.tests[f"{source}:{line}"], self.seconds.get(test, 0.0)

    def _run(self, file: str, kept: Path, digest: str) -> None:
        log = kept.with_suffix(".log")
        ending = run_tests(self.copy, [file], Recorder(self.copy, kept, digest), log, slower=10)
        if ending.code != 0:
            kept.unlink(missing_ok=True)
            raise RuntimeError(f"{file} fails on the library as it is: see {log}")
        total = sum(json.loads(kept.read_text())["seconds"].values())
        print(f"{file} passes in {total:.1f} s of the CPU", flush=True)


class Recorder:
    """A plugin that writes which lines of the package each test runs."""

    def __init__(self, copy: Path, kept: Path, digest: str) -> None:
        self.copy = copy
        self.kept = kept
        self.digest = digest
        self.seconds: dict[str, float] = {}
        self.begun = 0.0

    def pytest_configure(self) -> None:
        from coverage import Coverage

        folder = str(self.copy / "l0func")
        self.coverage = Coverage(data_file=None, source=[folder], config_file=False)
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)
        self.begun = time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] = time.process_time() - self.begun

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        lines: dict[str, list[str]] = defaultdict(list)
        data = self.coverage.get_data()
        for file in data.measured_files():
            source = str(Path(file).relative_to(self.copy))
            for line, tests in data.contexts_by_lineno(file).items():
                for test in tests:
                    lines[test].append(f"{source}:{line}")
        # What the import of the package runs is no test's.
        lines.pop("", None)
        found = {"digest": self.digest, "seconds": self.seconds, "lines": lines}
        self.kept.write_text(json.dumps(found))
