"""Compiling: once on a machine, beside threads and forks, and with files that can't be kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sampled import among, sampled

from l0func.kernels import loading

pytestmark = pytest.mark.skipif(
    loading.load_kernels("numba").kernels is None, reason="this platform has no numba"
)

DRAW = """
import torch, l0func as l0
from l0func.kernels import by_torch
from l0func.kernels.by_numba import building
hits, misses = [], []
def counted(make, args, built=building.built):
    kernel = built(make, args)
    hits.extend(kernel.stats.cache_hits.values())
    misses.extend(kernel.stats.cache_misses.values())
    return kernel
import l0func.kernels.by_numba.compiled as compiled
compiled.built = counted
l0.use_kernel("compiled")
key = l0.random.key(3)
expected = by_torch.uniforms(key[None], [5000])
def check():
    assert torch.equal(l0.random.uniform(key, 5000), expected)
"""


def run(code: str, folder: Path, *more: str, **variables: str) -> str:
    """What a process prints that keeps its machine code in a folder; it must not warn."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", DRAW + code, *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder), **variables},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


COUNTED = "check(); l0.random.split(key); print(sum(hits), sum(misses))"


def test_a_second_process_compiles_nothing(tmp_path):
    assert run(COUNTED, tmp_path) == "0 2\n"
    assert run(COUNTED, tmp_path) == "2 0\n"


@pytest.mark.slow
def test_a_spawned_process_and_a_damaged_file_change_no_draw(tmp_path):
    assert run("check(); print(1)", tmp_path) == "1\n"
    for path in tmp_path.rglob("*.nb?"):
        path.write_bytes(path.read_bytes()[:100])
    assert run("check(); print(sum(hits), sum(misses))", tmp_path) == "0 1\n"
    # The damaged files gave way to whole ones.
    assert run("check(); print(sum(hits), sum(misses))", tmp_path) == "1 0\n"


@pytest.mark.slow
def test_without_a_folder_that_can_be_written_kernels_compile_in_memory(tmp_path):
    code = (
        "import numba.core.caching as caching\n"
        "def refused(*_):\n    raise RuntimeError('cannot cache function: no locator available')\n"
        "caching.FunctionCache.__init__ = refused\ncheck(); print('drawn')"
    )
    assert run(code, tmp_path) == "drawn\n"


def test_on_a_full_disk_kernels_compile_in_memory(tmp_path):
    code = (
        "import errno, numba.core.caching as caching\n"
        "def full(*_):\n    raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "caching.IndexDataCacheFile.save = full\ncheck(); print('drawn')"
    )
    assert run(code, tmp_path) == "drawn\n"


@pytest.mark.slow
def test_an_interrupted_compilation_can_be_made_again(tmp_path):
    code = (
        "import os, signal, threading, time\n"
        "import numba.core.compiler as inner\nbefore = inner.compile_extra\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def interrupt():\n    time.sleep(0.3); os.kill(os.getpid(), signal.SIGINT)\n"
        "def slow(*args, **kwargs):\n"
        "    inner.compile_extra = before\n"
        # In a callback of LLVM the interrupt would be printed and lost.
        "    result = before(*args, **kwargs)\n"
        "    threading.Thread(target=interrupt).start()\n    time.sleep(5)\n    return result\n"
        "inner.compile_extra = slow\n"
        "try:\n    check()\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
        "check(); print('drawn')"
    )
    assert run(code, tmp_path) == "interrupted\ndrawn\n"


@pytest.mark.slow
def test_eight_threads_share_one_compilation(tmp_path):
    code = (
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "with Pool(8) as pool:\n    list(pool.map(lambda _: check(), range(24)))\n"
        "print(sum(hits), sum(misses))"
    )
    assert run(code, tmp_path) == "0 1\n"


@pytest.mark.slow
def test_processes_that_compile_at_once_all_draw_the_same(tmp_path):
    command = [sys.executable, "-c", DRAW + "check()"]
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    processes = [subprocess.Popen(command, env=env) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    assert run(COUNTED, tmp_path) in ("1 1\n", "2 0\n")


@pytest.mark.slow
def test_a_long_compilation_says_so_on_a_terminal_and_nowhere_else(tmp_path):
    code = (
        "import sys\nfrom l0func.kernels.by_numba import progress\n"
        "progress.PATIENCE = 0.05\n"
        "class Terminal:\n"
        "    lines = []\n"
        "    def write(self, text): self.lines.append(text)\n"
        "    def flush(self): pass\n"
        "    def isatty(self): return True\n"
    )
    silent = "check()\nl0.random.split(key)\nprint('drawn')"
    assert run(code + silent, tmp_path / "a") == "drawn\n"
    told = "sys.stderr = Terminal()\n" + silent + "\nprint(''.join(Terminal.lines))"
    out = run(code + told, tmp_path / "b")
    assert out.count("l0func: numba compiles its kernels for this machine (once;") == 1


FORKS = {
    "after kernels ran": "check()",
    "before any kernel": "",
    "while another thread compiles": (
        "import threading, time\n"
        "other = threading.Thread(target=lambda: l0.random.normal(key, 5)); other.start()\n"
        "time.sleep(0.2)"
    ),
    "while other threads draw": (
        "import threading\ncheck(); on = True\ntorch.set_num_threads(3)\n"
        "def draw():\n    while on: l0.random.uniform(key, 4_000_000)\n"
        "others = [threading.Thread(target=draw, daemon=True) for _ in range(2)]\n"
        "[t.start() for t in others]"
    ),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process forks where its system can")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("when", sampled(FORKS, among("while another thread compiles")))
def test_a_forked_process_draws_and_compiles(when, tmp_path):
    code = (
        "import os, sys, warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n"
        f"{FORKS[when]}\n"
        "for _ in range(3):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        check(); l0.random.split(key); l0.random.uniform(key, 3_000_000)\n"
        "        os._exit(0)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "on = False; print('all drawn'); sys.stdout.flush(); os._exit(0)"
    )
    assert run(code, tmp_path) == "all drawn\n"


WORKERS = """
import sys, torch, l0func as l0
from torch.utils.data import DataLoader, Dataset

class Noise(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return l0.random.normal(l0.random.fold_in(l0.random.key(3), i), 6)

if __name__ == "__main__":
    l0.use_kernel("compiled")
    data = Noise()
    expected = torch.stack([data[i] for i in range(4)])
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=sys.argv[1])
    assert torch.equal(torch.cat(list(loader)), expected)
    print("equal")
"""


@pytest.mark.parametrize("start", sampled(["spawn", "fork"], among("fork")))
def test_workers_of_a_data_loader_draw_what_their_parent_draws(start, tmp_path):
    if start == "fork" and not hasattr(os, "fork"):
        pytest.skip("a process forks where its system can")
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), start],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "equal\n", done.stderr
