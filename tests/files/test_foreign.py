"""Files that this library did not write, or that someone edited: one ValueError with the path."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from mutations import mutated
from nets import KINDS

import l0func as l0

DATA = Path(__file__).parent / "data"
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


class Marker:
    """A pickled object with an effect: reading it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def a_pickle(folder):
    return pickle.dumps(Marker(str(folder / "was unpickled")))


def a_saved_pickle(folder):
    torch.save({"w": torch.ones(3)}, folder / "zip")
    return (folder / "zip").read_bytes()


def with_header(text, data=b""):
    raw = text if isinstance(text, bytes) else text.encode()
    return len(raw).to_bytes(8, "little") + raw + data


def tensor(shape, offsets, dtype="F32"):
    record = {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}
    return with_header(json.dumps(record), bytes(8))


WHOLE = "is not a whole safetensors file"
FOREIGN = {
    "empty": (b"", f"{WHOLE}: it ends too early"),
    "seven_bytes": (b"\0" * 7, f"{WHOLE}: it ends too early"),
    "text": (b"lr: 0.1\nlayers: 3\n" * 9, f"{WHOLE}: .* promises a header of"),
    "json": (b'{"params": {}}', f"{WHOLE}: .* promises a header of"),
    "pickle": (a_pickle, f"{WHOLE}: .* pickles are never read here"),
    "torch_save": (a_saved_pickle, f"{WHOLE}: .* zip archive, such as torch.save writes"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), f"{WHOLE}: .* looks like an HDF5 file"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(99), f"{WHOLE}: .* promises a header of"),
    "zeros": (bytes(4096), f"{WHOLE}: the text is not JSON"),
    "huge_header": ((2**40).to_bytes(8, "little") + b"{}", "promises a header of 1099511627776"),
    "negative_header": (b"\xff" * 64, "promises a header of 18446744073709551615"),
    "header_of_100_MB": ((10**8).to_bytes(8, "little") + b"{}", "promises a header of 100000000"),
    "header_no_json": (with_header("no json"), "the text is not JSON"),
    "header_no_text": (with_header(b"\xff\xfe{}"), "the text is not"),
    "header_a_list": (with_header("[]"), "the header is a record; this is list of 0"),
    "header_deep": (with_header("[" * 10**5), "nests too deeply"),
    "header_twice": (with_header('{"a": 1, "a": 1}'), "the name 'a' is there twice"),
    "no_metadata": (with_header("{}"), "its metadata says 'nothing'"),
    "metadata_a_list": (with_header('{"__metadata__": []}'), "__metadata__ is a record"),
    "metadata_a_number": (with_header('{"__metadata__": {"a": 1}}'), "metadata are texts"),
    "entry_a_text": (with_header('{"w": "x"}'), "the tensor 'w' is a record; this is 'x'"),
    "entry_lacks": (with_header('{"w": {"dtype": "F32"}}'), "has a dtype, a shape and data_offs"),
    "dtype_unknown": (tensor([2], [0, 8], "F33"), "unknown dtype 'F33'; the closest is 'F32'"),
    "dtype_a_list": (tensor([2], [0, 8], ["F32"]), "unknown dtype list of 1"),
    "shape_beyond_the_file": (tensor([10**12], [0, 4 * 10**12]), "bytes, and 8 bytes are there"),
    "shape_huge": (tensor([2**62, 4], [0, 8]), "is larger than any tensor"),
    "shape_huge_beside_0": (tensor([0, 2**40, 2**40], [0, 0]), "is larger than any tensor"),
    "shape_negative": (tensor([-2], [0, 8]), "has integers from 0 on"),
    "shape_a_float": (tensor([2.0], [0, 8]), "has integers from 0 on"),
    "shape_a_bool": (tensor([True, 2], [0, 8]), "has integers from 0 on"),
    "shape_a_number": (tensor(2, [0, 8]), "has integers from 0 on; it is 2"),
    "offsets_turned": (tensor([2], [8, 0]), "8 bytes by its shape and 0 - 8"),
    "offsets_one": (tensor([2], [8]), "has 1 data_offsets, not 2"),
    "offsets_negative": (tensor([2], [-8, 0]), "has integers from 0 on"),
    "offsets_beyond": (tensor([2], [8, 16]), "begins at byte 8; the one before ends at 0"),
    "bytes_left": (tensor([1], [0, 4]), "its tensors have 4 bytes, and 8 bytes are there"),
}


@every_kind
@pytest.mark.parametrize(("data", "words"), FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_with_its_path(kind, data, words, tmp_path):
    path = tmp_path / "it"
    path.write_bytes(data if isinstance(data, bytes) else data(tmp_path))
    with pytest.raises(ValueError, match=words) as caught:
        kind.load(path)
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith(str(path))
    assert not (tmp_path / "was unpickled").exists()


@every_kind
def test_a_missing_file_is_a_file_not_found_error(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        kind.load(tmp_path / "none")


def test_each_kind_of_file_names_the_function_for_the_other(tmp_path):
    for kind in KINDS:
        KINDS[kind].save(tmp_path / kind)
    with pytest.raises(ValueError, match=r"network is no training state.*read by l0func\.load\."):
        KINDS["state"].load(tmp_path / "network")
    with pytest.raises(ValueError, match=r"state was not written by l0func\.save: .*load_state\."):
        KINDS["network"].load(tmp_path / "state")


@every_kind
def test_a_fifo_is_refused_at_once_though_nobody_writes(kind, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    found = []

    def load():
        try:
            kind.load(tmp_path / "fifo")
        except ValueError as error:
            found.append(str(error))

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert found
    assert "fifo is a FIFO" in found[0]


@pytest.mark.slow
def test_a_small_file_makes_no_large_allocation(tmp_path):
    code = (
        "import resource, sys, l0func as l0\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    try: l0.load(path)\n"
        "    except ValueError: pass\n"
        "print((peak() - before) // 1024)\n"
    )
    names = ("huge_header", "header_of_100_MB", "shape_beyond_the_file", "shape_huge_beside_0")
    for name in names:
        (tmp_path / name).write_bytes(FOREIGN[name][0])
    command = [sys.executable, "-c", code, *(str(tmp_path / name) for name in names)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 20


def parts_of(path):
    """A file's header as JSON, with the spec as JSON in it, and the bytes behind it."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    for name in ("spec", "settings"):
        if name in header["__metadata__"]:
            header["__metadata__"][name] = json.loads(header["__metadata__"][name])
    return header, data[end:]


def joined(header, data):
    header = json.loads(json.dumps(header))
    metadata = header.get("__metadata__")
    for name in ("spec", "settings"):
        if isinstance(metadata, dict) and not isinstance(metadata.get(name, ""), str):
            metadata[name] = json.dumps(metadata[name])
    return with_header(json.dumps(header), data)


def old_state():
    """The state of the old file, as ``load_state`` wants one."""
    params, gates = {"w": torch.ones(3)}, {"w": torch.ones(3)}
    spec = l0.gate_spec(params)
    adam = l0.optimizer(torch.optim.Adam, lr=0.5)
    sgd = l0.optimizer(torch.optim.SGD, lr=0.25, momentum=0.5)
    control = l0.lagrangian(spec, 0.5, lr=0.5)
    training = l0.training(lambda *a: None, adam, sgd, control=control, average=0.5)
    return training.init(l0.random.key(3), params, gates, {"seen": torch.tensor(0)}), spec


OLD_STATE, OLD_SPEC = old_state()


def load_old_state(path):
    l0.load_state(path, OLD_STATE, OLD_SPEC, {"lr": 0.5})


OLD = {"network": (l0.load, "network.safetensors"), "state": (load_old_state, "state.safetensors")}


@pytest.mark.parametrize(("load", "name"), OLD.values(), ids=OLD)
@pytest.mark.parametrize(
    "count", [150, pytest.param(5000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_an_edited_file_without_digests_loads_or_is_one_value_error(load, name, count, tmp_path):
    header, data = parts_of(DATA / name)
    rng = random.Random(count)
    slowest, refused = 0.0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(DATA / name)
        for _ in range(count):
            path = tmp_path / "it"
            path.write_bytes(joined(mutated(header, rng), data))
            begin = time.perf_counter()
            try:
                load(path)
            except ValueError as error:
                refused += str(path) in str(error)
            else:
                refused += 1
            slowest = max(slowest, time.perf_counter() - begin)
    assert refused == count
    assert slowest < 5.0


def test_a_spec_in_a_file_that_does_not_fit_is_refused_with_path_and_rule(tmp_path):
    header, data = parts_of(DATA / "network.safetensors")
    header["__metadata__"]["spec"]["parameters"][0]["bindings"] = []
    (tmp_path / "it").write_bytes(joined(header, data))
    words = r"it has no valid gate spec: The gates 'layer\.weight' are on no parameter"
    # The warning about digests is for files that load.
    with pytest.raises(ValueError, match=rf"^{tmp_path}/{words}"):
        l0.load(tmp_path / "it")
