"""The suite on other versions of torch and Python, in fresh environments, one after the other.

    python tests/versions.py [--only 2.4] [--folder where/there/is/room]

The commit that is checked out runs, without later edits, so that a row of the table is about a
commit. A run adds its rows to docs/versions.json and to the table of docs/systems.md, and an
environment is deleted when its run ends. Each needs up to 8 GB while it is there: pip's builds
of torch for Linux are for CUDA.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
RECORD, PAGE = Path("docs/versions.json"), Path("docs/systems.md")

COMMON = "optree pytest pytest-xdist hypothesis mpmath safetensors matplotlib scikit-learn tqdm"
MODELS = "transformers==5.24.0 accelerate==1.15.0 peft==0.21.2 onnx onnxscript onnxruntime"


@dataclass(frozen=True)
class Pair:
    """A torch and the Python that runs it, with what else pip installs beside COMMON."""

    torch: str
    python: str
    packages: str

    @property
    def requirements(self) -> list[str]:
        return [f"torch=={self.torch}", *self.packages.split(), *COMMON.split()]


# The oldest torch runs without numba, and the next with the oldest numba that the library takes.
PLAN = (
    Pair("2.1.2", "3.10", "numpy==1.26.4"),
    Pair("2.4.1", "3.11", "numpy==1.24.4 numba==0.57.1"),
    Pair("2.6.0", "3.12", "numpy numba"),
    Pair("2.9.1", "3.13", "numpy numba"),
    Pair("2.13.0", "3.11", f"numpy numba {MODELS}"),
    Pair("2.14.1", "3.11", f"numpy numba {MODELS}"),
)


@dataclass(frozen=True)
class Row:
    """What one run of the suite gave. The versions are those that were installed."""

    torch: str
    python: str
    numpy: str
    numba: str
    passed: int
    failed: int
    skipped: int
    commit: str
    date: str


HEADER = (
    f"| {' | '.join(Row.__annotations__).replace('python', 'Python')} |\n"
    f"|{'---|' * len(Row.__annotations__)}\n"
)


class Broken(Exception):
    """A run that gives no row."""


def chosen(only: list[str]) -> list[Pair]:
    """The pairs whose torch is one of ``only``, such as 2.4 or 2.4.1; all of them without it."""
    found = [
        pair
        for pair in PLAN
        if not only or any(f"{pair.torch}.".startswith(f"{name}.") for name in only)
    ]
    if len(found) < len(set(only)):
        raise Broken(f"--only takes one of {', '.join(pair.torch for pair in PLAN)}")
    return found


def interpreter(python: str) -> str:
    """The path of an interpreter of this version."""
    name = f"python{python}"
    path = shutil.which(name)
    # A name on PATH may be a launcher's, with no interpreter behind it.
    if path is None or subprocess.run([path, "-c", ""], check=False).returncode:
        raise Broken(f"{name} is not on PATH. Add its folder, or choose others with --only.")
    return path


def counts(output: str) -> dict[str, int]:
    """Tests passed, failed (errors too) and skipped, from the last line that pytest writes."""
    lines = output.strip().splitlines() or [""]
    line = re.sub(r"\x1b\[\d*m", "", lines[-1]).strip("= ")
    if not re.fullmatch(r"\d+ [a-z]+(, \d+ [a-z]+)* in [\d.]+s( \([\d:]+\))?", line):
        raise Broken(f"pytest did not end with its counts, but with: {line!r}")
    found = {kind: int(number) for number, kind in re.findall(r"(\d+) ([a-z]+)", line)}
    failed = sum(found.get(kind, 0) for kind in ("failed", "error", "errors", "xpassed"))
    return {
        "passed": found.get("passed", 0),
        "failed": failed,
        "skipped": found.get("skipped", 0) + found.get("xfailed", 0),
    }


def _environment() -> dict[str, str]:
    """The shell's variables, without those that would change what a run tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("L0FUNC_", "PYTHON"))}
    return {**kept, "MPLBACKEND": "Agg"}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it prints, which is shown as it comes."""
    lines = []
    with subprocess.Popen(
        list(map(str, command)), cwd=cwd, env=_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    # 1 is pytest's word for tests that failed: they are counted.
    if process.returncode not in (0, 1) or (process.returncode and "pytest" not in command):
        raise Broken(f"{command[0]} ended with {process.returncode}; no row is written")
    return "".join(lines)


def clone(folder: Path) -> str:
    """A clone of the commit that is checked out, and its name."""
    git = ("git", "-C", str(ROOT))
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["git", "clone", "-q", "--no-checkout", ROOT, folder], check=True)
    subprocess.run(["git", "-C", folder, "checkout", "-q", "--detach", commit], check=True)
    return commit[:7]


_INSTALLED = """
import importlib.metadata as m, json, platform
found = {d.metadata["Name"].lower(): d.version.partition("+")[0] for d in m.distributions()}
names = ("torch", "numpy", "numba")
print(json.dumps({n: found.get(n, "none") for n in names} | {"python": platform.python_version()}))
"""


def row_of(pair: Pair, folder: Path) -> Row:
    """Install a pair beside a clone in ``folder``, and run the suite there."""
    python, source = folder / "bin" / "python", folder / "l0func"
    commit = clone(source)
    run(interpreter(pair.python), "-m", "venv", folder, cwd=ROOT)
    run(python, "-m", "pip", "install", "-q", *pair.requirements, cwd=folder)
    # Without its dependencies: no other torch may take the place of this one.
    run(python, "-m", "pip", "install", "-q", "--no-deps", "-e", source, cwd=folder)
    installed = json.loads(run(python, "-c", _INSTALLED, cwd=folder))
    # Modules over a package that is missing, such as numba, have no examples to run.
    suite = ("-m", "pytest", "--doctest-ignore-import-errors")
    found = counts(run(python, *suite, cwd=source))
    today = datetime.now(timezone.utc).date().isoformat()
    return Row(**installed, **found, commit=commit, date=today)


def _order(row: Row) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", row.torch)]


def rows_with(new: Row, old: list[Row]) -> list[Row]:
    """The record with a new row, which takes the place of an older one of its torch."""
    return sorted([*(row for row in old if row.torch != new.torch), new], key=_order)


def table(rows: list[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = [f"| {' | '.join(map(str, asdict(row).values()))} |\n" for row in rows]
    return HEADER + "".join(lines)


def read_rows(root: Path) -> list[Row]:
    """The rows of the record; none before the first run."""
    path = root / RECORD
    return [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []


def write(rows: list[Row], root: Path) -> None:
    """Write the record, and the table at the end of the page."""
    record = [json.dumps(asdict(row)) for row in rows]
    (root / RECORD).write_text("[\n" + ",\n".join(record) + "\n]\n")
    page = root / PAGE
    page.write_text(page.read_text().partition(HEADER)[0] + table(rows))


def main(only: list[str], folder: str | None) -> int:
    """Run the pairs one after the other; 1 if a test failed in one of them."""
    pairs, failed = chosen(only), 0
    for pair in pairs:
        interpreter(pair.python)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    for place, pair in enumerate(pairs, 1):
        start = time.monotonic()
        print(f"[{place}/{len(pairs)}] torch {pair.torch} on Python {pair.python}", flush=True)
        with TemporaryDirectory(prefix=f"torch-{pair.torch}-", dir=folder) as environment:
            row = row_of(pair, Path(environment))
        write(rows_with(row, read_rows(ROOT)), ROOT)
        failed += row.failed
        print(f"{table([row])}after {(time.monotonic() - start) / 60:.0f} minutes", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], help="a torch, such as 2.4")
    parser.add_argument("--folder", help="where the environments are made: a temporary one")
    arguments = parser.parse_args()
    try:
        sys.exit(main(arguments.only, arguments.folder))
    except Broken as error:
        sys.exit(str(error))
