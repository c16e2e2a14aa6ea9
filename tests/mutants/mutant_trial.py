"""One run of pytest in a forked process, over a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 60
"""Of the CPU, for one run: a busy machine makes no time-out."""

PASSING = 30
"""Seconds of tests, on the library as it is, after which a run has seen enough."""

WAITED = 180
"""Seconds of the clock after which a run that waits is ended."""

# A compilation takes longer than all other tests of a file.
_QUICK = "not slow and not compiles"

COPIED = ("l0func", "tests", "docs", "examples", "pyproject.toml", "README.md", "CONTRIBUTING.md")


class Ending(NamedTuple):
    """How a run ended."""

    code: int
    """pytest's exit code, or minus the signal."""

    late: bool
    seconds: float


def copied_checkout(root: Path, copy: Path) -> Path:
    """A copy of what the tests read, to be mutated; an older copy is replaced."""
    copy.mkdir(exist_ok=True)
    for name in COPIED:
        if (root / name).is_file():
            shutil.copy2(root / name, copy / name)
            continue
        shutil.rmtree(copy / name, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__", "_build", "jupyter_execute", ".*")
        shutil.copytree(root / name, copy / name, ignore=ignored)
    # By content: a mutant may be as long, and written in the same second, as the file was.
    command = ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "l0func"]
    subprocess.run([sys.executable, *command], cwd=copy, check=True)
    return copy


def import_for_all(folder: Path) -> None:
    """Import what every run needs and no mutant changes: a forked process has it at once.

    Args:
        folder: Where numba keeps machine code.
    """
    os.environ["NUMBA_CACHE_DIR"] = str(folder / "numba")
    os.environ["OMP_NUM_THREADS"] = "1"
    import numba
    import numpy
    import optree
    import pytest
    import torch
    import torch._dynamo

    torch.set_num_threads(1)
    del numba, numpy, optree, pytest


def run_tests(
    copy: Path,
    arguments: list[str],
    plugin: Any,
    log: Path,
    kernel: str = "eager",
    slower: int = 1,
) -> Ending:
    """Run pytest in a forked process.

    Args:
        copy: The checkout to run in.
        arguments: The test files, and options.
        plugin: A plugin for pytest.
        log: What the run prints.
        kernel: What draws gates: see ``l0.use_kernel``.
        slower: How many times the limits this run may take.
    """
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        os.environ["L0FUNC_KERNEL"] = kernel
        _in_child(copy, arguments, plugin, log, SECONDS * slower)
    late = False
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - begin > WAITED * slower:
            late = True
            os.killpg(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.02)
    code = os.waitstatus_to_exitcode(ended[1])
    _end_others(child)
    late = late or code == -signal.SIGXCPU
    return Ending(code, late, time.monotonic() - begin)


def _end_others(group: int) -> None:
    """End what a run has left behind in its process group."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _in_child(copy: Path, arguments: list[str], plugin: Any, log: Path, seconds: int) -> None:
    # Only systems that fork have it.
    import resource

    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        os.environ["PYTHONPATH"] = str(copy)
        code = _pytest(arguments, plugin)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _pytest(arguments: list[str], plugin: Any) -> int:
    import pytest

    options = ["-x", "-n", "0", "-q", "--tb=short", "-p", "no:cacheprovider"]
    options += ["--doctest-modules", "-m", _QUICK, "-o", "addopts="]
    return int(pytest.main([*options, *arguments], plugins=[plugin]))


class InOrder:
    """A plugin that runs the tests in an order, and keeps the name of the one that fails.

    Args:
        rank: Where a test comes: whether it comes late, and its seconds on the library as it is.
        killer: The file for the name.
    """

    def __init__(self, rank: Callable[[str], tuple[bool, float]], killer: Path) -> None:
        self.rank = rank
        self.killer = killer

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: self.rank(item.nodeid))
        seconds = accumulate([self.rank(item.nodeid)[1] for item in items])
        # With more, a slow machine would count a survivor as one that ran into the limit.
        del items[sum(second <= PASSING for second in seconds) :]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.killer.write_text(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.killer.write_text(f"import of {report.nodeid}")
