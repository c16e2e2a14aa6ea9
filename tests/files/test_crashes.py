"""Kills, full disks and other writers: the file is the old one or the new one, never neither."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from nets import KINDS, same

every_kind = pytest.mark.parametrize("kind", KINDS)
TESTS = str(Path(__file__).parent)

# It saves the values 1, 2, ... and says so before and after the first.
LOOP = """
import sys
sys.path.insert(0, sys.argv[1])
from nets import KINDS
save = KINDS[sys.argv[2]].save
start, path = float(sys.argv[3]), sys.argv[4]
save(path, start)
print("saved", flush=True)
while True:
    for step in range(100):
        save(path, start + step)
"""


@contextmanager
def writers(kind, starts, path):
    """Processes that save in a loop, each from its own value on; they are killed at the end."""
    with ExitStack() as stack:
        processes = []
        for start in starts:
            command = [sys.executable, "-c", LOOP, TESTS, kind, str(start), str(path)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in processes:
            assert process.stdout.readline() == "saved\n"
        yield


def value_in(kind, path):
    """The value that the file was saved with; it loads in full."""
    found = KINDS[kind].load(path)
    name = next(name for name in found if name.endswith("params.layer.bias"))
    return float(found[name][-1])


@pytest.mark.parametrize("kind", [pytest.param("state", marks=pytest.mark.slow), "network"])
@pytest.mark.parametrize(
    "kills", [1, pytest.param(20, marks=pytest.mark.slow)], ids=["once", "often"]
)
def test_killed_writers_leave_the_whole_file_of_one_of_them(kind, kills, tmp_path):
    path = tmp_path / "net"
    KINDS[kind].save(path)
    base = value_in(kind, path)
    rng = random.Random(kills)
    for _ in range(kills):
        found = []
        with writers(kind, (1000, 3000), path):
            end = time.monotonic() + rng.uniform(0.1, 0.4)
            while time.monotonic() < end:
                found.append(value_in(kind, path) - base)
        found.append(value_in(kind, path) - base)
        assert found == pytest.approx([round(value) for value in found], abs=1e-3)
        assert all(round(value) in (*range(1000, 1100), *range(3000, 3100)) for value in found)
    left = [name for name in os.listdir(tmp_path) if name != "net"]
    assert all(name.startswith(".l0func-") and name.endswith(".part") for name in left)
    KINDS[kind].save(path)
    assert value_in(kind, path) == base


FULL = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
import l0func as l0
import nets
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
kind, path, limit = sys.argv[2], sys.argv[3], int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    nets.KINDS[kind].save(path, 1.0)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", [pytest.param("state", marks=pytest.mark.slow), "network"])
def test_a_file_that_cannot_grow_leaves_the_old_one(kind, tmp_path):
    path = tmp_path / "net"
    KINDS[kind].save(path)
    before = path.read_bytes()
    command = [sys.executable, "-c", FULL, TESTS, kind, str(path), str(len(before) // 2)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"nothing was written, and an earlier file is as it was: '{path}'" in run.stdout
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net"]


@contextmanager
def small_disk(folder):
    """A file system of 64 kB, where the platform lets the tests make one."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("only root may mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@every_kind
def test_a_full_disk_leaves_the_old_file(kind, tmp_path):
    with small_disk(tmp_path):
        path = tmp_path / "net"
        KINDS[kind].save(path)
        expected = KINDS[kind].load(path)
        filler = tmp_path / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(2**16))
        with pytest.raises(OSError, match=rf"No space left on device; nothing was .*'{path}'"):
            KINDS[kind].save(path, 1.0)
        assert same(KINDS[kind].load(path), expected)
        assert sorted(os.listdir(tmp_path)) == ["filler", "net"]
        filler.unlink()
        KINDS[kind].save(path, 1.0)
        assert not same(KINDS[kind].load(path), expected)


@pytest.mark.slow
def test_saving_needs_no_second_copy_of_the_tensors(tmp_path):
    code = (
        "import resource, sys, torch, l0func as l0\n"
        "params = {f'w{i}': torch.ones(2_500_000) for i in range(20)}\n"
        "spec = l0.gate_spec(params, {'*': l0.whole()})\n"
        "gates = l0.init_gates(l0.random.key(0), spec)\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "l0.save(sys.argv[1], params, gates, {}, spec)\n"
        "print((peak() - before) // 1024)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    # The tensors have 200 MB.
    assert int(run.stdout) < 40
