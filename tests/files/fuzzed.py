"""Formats that the library reads, and damage to each by the number of a case.

``python tests/files/fuzzed.py FORMAT NUMBER`` repeats a case and shows the error.
"""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import nets
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutations import mutated

import l0func as l0
from l0func.costs.latency_text import LayerTime, WidthAxis
from l0func.costs.machine import Machine
from l0func.files import digests, header

RAN: list[str] = []
"""What a pickle has run; it stays empty."""


class Bomb:
    """A pickled object with an effect."""

    def __reduce__(self) -> Any:
        return exec, ("import sys; sys.modules['fuzzed'].RAN.append('a pickle')",)


class Fuzzed(NamedTuple):
    """A format.

    Attributes:
        make: Writes a good example into a folder, and returns its files; the first is the main.
        load: Reads the folder.
        reshape: The main file's bytes after a change of what they mean, with valid digests.
        sealed: Whether any changed bit must be refused.
    """

    make: Callable[[Path], dict[str, bytes]]
    load: Callable[[Path], Any]
    reshape: Callable[[bytes, random.Random], bytes]
    sealed: bool


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        bit = rng.randrange(8 * len(data))
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def splice(data: bytes, rng: random.Random) -> bytes:
    start, size = rng.randrange(len(data)), rng.choice([1, 8, 64])
    other = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size, data[:size]])
    return data[:start] + other + data[start + rng.choice([0, size]) :]


# Texts.

DEEP = ["[" * 10**5, '{"a":' * 10**5, "[" * 900 + "]" * 900, '"' + "x" * 10**6, "9" * 10**6]


def reshaped_text(data: bytes, rng: random.Random) -> bytes:
    """Another JSON document, or a text that is hard to parse."""
    if rng.random() < 0.05:
        return rng.choice(DEEP).encode()
    return json.dumps(mutated(json.loads(data), rng)).encode()


def text_format(text: str, load: Callable[[str], Any]) -> Fuzzed:
    def make(folder: Path) -> dict[str, bytes]:
        return {"it": text.encode()}

    def read(folder: Path) -> Any:
        return load((folder / "it").read_bytes().decode(errors="replace"))

    return Fuzzed(make, read, reshaped_text, sealed=False)


def latency_text() -> str:
    ms = ((1.0, 2.0), (3.0, 4.0))
    machine = Machine.here(torch.device("cpu"), "torch.float32", "(2, 4)")
    axes = (WidthAxis("a.weight", 0, (1.0, 5.0)), WidthAxis("b.weight", 0, (2.0, 3.0)))
    layers = (LayerTime("a", (0, 1), ms), LayerTime("b", (1,), ((0.5,), (1.5,))))
    shapes = {"a.weight": (5, 4), "b.weight": (3, 5)}
    table = l0.LatencyTable(axes, layers, 0.25, {"a": 5, "b": 3}, shapes, machine, 0.05)
    return table.to_json()


def module_state() -> tuple[l0.L0Module, str]:
    """A wrapped module, and the text in its checkpoint's extra state."""
    with torch.random.fork_rng():
        net = l0.L0Module(nn.Linear(3, 2), lam=0.1, seed=0)
    return net, bytes(net.state_dict()["_extra_state"].tolist()).decode()


MODULE, MODULE_TEXT = module_state()


def load_module(text: str) -> Any:
    net = copy.deepcopy(MODULE)
    state = net.state_dict()
    state["_extra_state"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    net.load_state_dict(state)
    return net.draws


# Safetensors files.


def sealed_again(record: Any, data: bytes) -> bytes:
    """A file with a given header and digests that are right, if the header is one."""
    try:
        plan = header.decoded(json.dumps(record).encode(), len(data))
        found = {}
        for name, entry in plan.entries.items():
            found[name] = hashlib.sha256(data[entry.begin : entry.end]).hexdigest()
        metadata = dict(plan.metadata)
        for name in ("digest", "digests"):
            metadata.pop(name, None)
        plan = plan._replace(metadata=metadata)
        return header.encoded(digests.sealed(plan, found)) + data
    except ValueError:
        text = json.dumps(record).encode()
        return len(text).to_bytes(8, "little") + text + data


def reshaped_file(data: bytes, rng: random.Random) -> bytes:
    """A file with another header; texts in its metadata are changed as documents too."""
    end = 8 + int.from_bytes(data[:8], "little")
    record = json.loads(data[8:end])
    metadata = record["__metadata__"]
    metadata.pop("digests"), metadata.pop("digest")
    for name in ("spec", "settings"):
        if name in metadata and rng.random() < 0.7:
            metadata[name] = reshaped_text(metadata[name].encode(), rng).decode()
            return sealed_again(record, data[end:])
    if rng.random() < 0.1:
        return pickle.dumps(Bomb())
    if rng.random() < 0.1:
        text = rng.choice(DEEP).encode()
        return rng.choice([len(text), 2**40, 10**8]).to_bytes(8, "little") + text
    return sealed_again(mutated(record, rng), data[end:])


def load_network(path: Path) -> Any:
    return l0.load(path)._replace(spec=None)


def file_format(kind: nets.Kind) -> Fuzzed:
    def make(folder: Path) -> dict[str, bytes]:
        kind.save(folder / "it")
        return {"it": (folder / "it").read_bytes()}

    def read(folder: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind.load(folder / "it")

    return Fuzzed(make, read, reshaped_file, sealed=True)


# Folders of parts. Every tensor is a part, so the network has one layer: 10,000 folders of a
# larger one take half an hour.

ONE = {"layer.weight": nets.PARAMS["layer.weight"]}
SPEC_OF_ONE = l0.gate_spec(ONE)


def loss(params: Any, gates: Any, buffers: Any, key: Any, x: Any) -> Any:
    masks = l0.sample_masks(key, gates, SPEC_OF_ONE)
    return l0.apply_masks(params, masks)["layer.weight"].sum() * x


TRAINING = l0.training(loss, nets.ADAM, l0.optimizer(torch.optim.SGD, lr=0.1))
GATES = l0.init_gates(l0.random.key(0), SPEC_OF_ONE)
START = TRAINING.init(l0.random.key(1), ONE, GATES, {})
STATE = TRAINING.step(START, torch.tensor(1.0))[0]


def make_shards(folder: Path) -> dict[str, bytes]:
    l0.save_shards(folder, STATE, SPEC_OF_ONE, nets.SETTINGS)
    names = (".metadata", ".metadata.sha256", "__0_0.distcp")
    return {name: (folder / name).read_bytes() for name in names}


def load_shards(folder: Path) -> Any:
    return l0.load_shards(folder, START, SPEC_OF_ONE, nets.SETTINGS)


NUMBERS = (-1, 0, 1, 3, 7, 2**20, 2**40, 2**62, 2.5, float("nan"), None, "x")
PLACES = ("../it", "/etc/passwd", "/dev/zero", ".", "", "a/b", "__0_0.distcp", 5, None, "x" * 300)


def change_place(found: Any, rng: random.Random) -> None:
    place = rng.choice(list(found.storage_data.values()))
    field = rng.choice(["relative_path", "offset", "length"])
    setattr(place, field, rng.choice(PLACES if field == "relative_path" else NUMBERS))


def change_shape(found: Any, rng: random.Random) -> None:
    record = rng.choice(list(found.state_dict_metadata.values()))
    size = [rng.choice([-1, 0, 1, 2, 6, 2**20, 2**40]) for _ in range(rng.randrange(4))]
    record.size = rng.choice([torch.Size(size), torch.Size(size), size, None, 7])
    if rng.random() < 0.5:
        chunk = rng.choice(record.chunks)
        chunk.sizes = record.size


def change_dtype(found: Any, rng: random.Random) -> None:
    record = rng.choice(list(found.state_dict_metadata.values()))
    dtypes = [torch.complex64, torch.int8, torch.float64, None, "float32", torch.qint8]
    record.properties.dtype = rng.choice(dtypes)


def change_names(found: Any, rng: random.Random) -> None:
    table = rng.choice([found.storage_data, found.state_dict_metadata])
    name, other = rng.sample(list(table), 2)
    if rng.random() < 0.5:
        table[other] = table[name]
    else:
        table[rng.choice(["x", 5, None, ("a",)])] = table.pop(name)


def change_whole(found: Any, rng: random.Random) -> None:
    field = rng.choice(["storage_data", "state_dict_metadata", "planner_data", "storage_meta"])
    setattr(found, field, rng.choice([None, {}, [], 5, {"a": 1}, Bomb(), SimpleNamespace(a=1)]))


CHANGES = (change_place, change_shape, change_dtype, change_names, change_whole)


def reshaped_list(data: bytes, rng: random.Random) -> bytes:
    """Another list of parts: other places, shapes and names, or no list at all."""
    if rng.random() < 0.2:
        bombs = [Bomb(), [Bomb()], {"a": Bomb()}, {}, 5, None]
        return pickle.dumps(rng.choice(bombs), protocol=rng.choice([0, 2, 4]))
    if rng.random() < 0.05:
        # An index into the unpickler's memory: a number of gigabytes.
        return b"\x80\x04]r" + (2**28).to_bytes(4, "little") + b"."
    found = pickle.loads(data)
    rng.choice(CHANGES)(copy.copy(found), rng)
    return pickle.dumps(found)


SPEC_TEXT = nets.SPEC.to_json()
FORMATS = {
    "network": file_format(nets.Kind(nets.save_network, load_network)),
    "state": file_format(nets.KINDS["state"]),
    "shards": Fuzzed(make_shards, load_shards, reshaped_list, sealed=True),
    "spec": text_format(SPEC_TEXT, l0.GateSpec.from_json),
    "table": text_format(latency_text(), l0.LatencyTable.from_json),
    "module": text_format(MODULE_TEXT, load_module),
}


class Case(NamedTuple):
    """A damaged folder: what was done, and whether any reader must refuse it."""

    kind: str
    files: dict[str, bytes]
    must_refuse: bool


def case(name: str, number: int, good: dict[str, bytes]) -> Case:
    """The damage with a number, to the files of a good folder."""
    rng = random.Random(f"{name} {number}")
    of = FORMATS[name]
    hurts: dict[str, Callable[..., bytes]] = {"flip": flip, "cut": cut, "splice": splice}
    kind = rng.choice([*hurts, "reshape", "reshape", "reshape"])
    files = dict(good)
    if kind == "reshape":
        main = next(iter(good))
        files[main] = of.reshape(good[main], rng)
        if ".metadata.sha256" in good:
            files[".metadata.sha256"] = hashlib.sha256(files[main]).hexdigest().encode()
        return Case(kind, files, must_refuse=False)
    which = rng.choice(list(good))
    files[which] = hurts[kind](good[which], rng)
    # torch.save pads its archives, and nobody reads the pads.
    is_padded = which.endswith("distcp")
    return Case(kind, files, of.sealed and not is_padded and files[which] != good[which])


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


if __name__ == "__main__":
    sys.modules["fuzzed"] = sys.modules["__main__"]
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as place:
        damaged = case(sys.argv[1], int(sys.argv[2]), FORMATS[sys.argv[1]].make(Path(made)))
        print(damaged.kind, "must be refused:", damaged.must_refuse)
        print(FORMATS[sys.argv[1]].load(written(Path(place), damaged.files)))
