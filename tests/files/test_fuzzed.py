"""Damaged and hostile files by number: each loads right, or is one ValueError that names the file.

Nothing crashes, runs code, allocates more than a few times the file, or takes long.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import time
import tracemalloc
from contextlib import contextmanager

import fuzzed
import nets
import pytest
import torch
from fuzzed import FORMATS, RAN, case, written

from l0func.internal import tree

pytestmark = pytest.mark.on_cpu
# Numbers of Python may take 30 times the bytes of their text.
ROOM_PER_BYTE, ROOM = 40, 2**21
ADDRESSES = 2**28
SECONDS = 5.0


def runs_here(name):
    if name == "shards":
        pytest.importorskip("torch.distributed.tensor.debug", reason="torch has no DTensors")


@contextmanager
def few_addresses():
    """Whatever allocates 256 MB at once fails here, by torch too."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ADDRESSES, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def flat(loaded):
    if hasattr(loaded, "_fields") or isinstance(loaded, dict):
        return tree.leaves(loaded, "loaded")
    return loaded


def fault_of(name, number, folder, good, expected):
    """What is wrong with one case; empty if nothing is."""
    damaged = case(name, number, good)
    written(folder, damaged.files)
    size = sum(map(len, damaged.files.values()))
    message, loaded = None, None
    tracemalloc.reset_peak()
    before, begin = tracemalloc.get_traced_memory()[0], time.thread_time()
    try:
        loaded = FORMATS[name].load(folder)
    except ValueError as error:
        message = str(error)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    spent = time.thread_time() - begin
    peak = tracemalloc.get_traced_memory()[1] - before
    if RAN:
        return "it ran code"
    if peak > ROOM_PER_BYTE * size + ROOM:
        return f"{peak} bytes of Python's for a file of {size}"
    if spent > SECONDS:
        return f"{spent} seconds"
    is_file = name in ("network", "state", "shards")
    if message is not None:
        return "" if str(folder) in message or not is_file else f"without its path: {message}"
    if damaged.must_refuse:
        return "a changed file was loaded"
    if damaged.kind != "reshape" and is_file and not nets.same(flat(loaded), expected):
        return "other numbers were loaded"
    return ""


def faults(name, numbers, folder):
    runs_here(name)
    (folder / "good").mkdir()
    (folder / "it").mkdir()
    good = FORMATS[name].make(folder / "good")
    expected = flat(FORMATS[name].load(written(folder / "it", good)))
    found = []
    tracemalloc.start()
    try:
        with few_addresses():
            for number in numbers:
                fault = fault_of(name, number, folder / "it", good, expected)
                if fault:
                    found.append(f"python tests/files/fuzzed.py {name} {number}: {fault}")
    finally:
        tracemalloc.stop()
    return found


every_format = pytest.mark.parametrize("name", FORMATS)


@every_format
def test_a_damaged_file_is_one_value_error_or_loads_right(name, tmp_path):
    # A folder of parts takes as long as three other files.
    assert not faults(name, range(60 if name == "shards" else 200), tmp_path)


@every_format
@pytest.mark.slow
def test_ten_thousand_damaged_files_are_too(name, tmp_path):
    assert not faults(name, range(200, 10_200), tmp_path)


@every_format
def test_cases_refuse_and_load_and_come_back_by_their_number(name, tmp_path):
    runs_here(name)
    (tmp_path / "good").mkdir()
    good = FORMATS[name].make(tmp_path / "good")
    cases = [case(name, number, good) for number in range(50)]
    assert cases[7].files == case(name, 7, good).files
    assert {of.kind for of in cases} == {"flip", "cut", "splice", "reshape"}
    assert len({str(of.files) for of in cases}) > 40


def test_the_bomb_would_go_off(monkeypatch):

    monkeypatch.setitem(sys.modules, "fuzzed", fuzzed)
    pickle.loads(pickle.dumps(fuzzed.Bomb()))
    assert RAN == ["a pickle"]
    RAN.clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_a_large_tensor_does_not_fit_in_the_limit():
    with few_addresses(), pytest.raises(RuntimeError, match="alloc"):
        torch.empty(2**31, dtype=torch.uint8)


def a_part_elsewhere(found, folder):
    """The part is there, and whole, beside the folder."""
    for place in found.storage_data.values():
        place.relative_path = f"../{place.relative_path}"
    (folder / "__0_0.distcp").rename(folder.parent / "__0_0.distcp")


def a_huge_moment(found, folder):
    name = "moments.params.layer.weight.exp_avg"
    found.state_dict_metadata[name].size = torch.Size([2**20, 2**20])


def a_huge_text(found, folder):
    found.state_dict_metadata["metadata.spec"].size = torch.Size([2**40])


HOSTILE = {
    a_part_elsewhere: "outside of the folder",
    a_huge_moment: r"'moments\.params\.layer\.weight\.exp_avg' has the shape",
    a_huge_text: r"'metadata\.spec' has the shape",
}


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_a_hostile_list_of_parts_is_refused_by_what_is_wrong_in_it(change, tmp_path):
    runs_here("shards")
    folder = tmp_path / "it"
    folder.mkdir()
    good = FORMATS["shards"].make(folder)
    found = pickle.loads(good[".metadata"])
    change(found, folder)
    changed = pickle.dumps(found)
    seal = hashlib.sha256(changed).hexdigest().encode()
    written(folder, {".metadata": changed, ".metadata.sha256": seal})
    with pytest.raises(ValueError, match=rf"it is damaged: .*{HOSTILE[change]}"):
        FORMATS["shards"].load(folder)
