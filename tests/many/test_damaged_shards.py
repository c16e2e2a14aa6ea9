"""Checkpoints with lost or changed files are refused by name, in every process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out, meshes
from processes import processes
from torch import distributed
from torch.distributed.tensor import Shard

FN, PARAMS, BUFFERS = l0.make_functional(nn.Sequential(nn.Linear(5, 7)))
SPEC = l0.gate_spec(PARAMS, {"*weight": l0.element(), "*": None})


def _state(params: Any = PARAMS) -> l0.TrainState:
    sgd = l0.optimizer(torch.optim.SGD, lr=0.1)
    gates = l0.init_gates(l0.random.key(0), SPEC)
    placed = l0.place_gates(SPEC, params, gates)
    return l0.training(lambda *_: None, sgd, sgd).init(l0.random.key(1), params, placed, {})


def _sharded_state() -> l0.TrainState:
    (mesh,) = meshes(2)[:1]
    return _state({path: laid_out(p, mesh, [Shard(0)]) for path, p in PARAMS.items()})


def _part(folder: Path) -> Path:
    return sorted(folder.glob("*.distcp"))[-1]


def _change_a_weight(folder: Path) -> None:
    """One bit of one number."""
    part = _part(folder)
    contents = bytearray(part.read_bytes())
    # The last rows, which the last process wrote.
    place = contents.find(PARAMS["0.weight"].detach()[-1].numpy().tobytes())
    assert place > 0
    contents[place + 2] ^= 1
    part.write_bytes(contents)


def _cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a lost part": lambda folder: _part(folder).unlink(),
    "a part cut short": lambda folder: _cut(_part(folder), -3000),
    "an empty part": lambda folder: _cut(_part(folder), 0),
    "one bit of a weight": _change_a_weight,
    "an empty list": lambda folder: _cut(folder / ".metadata", 0),
    "a list cut short": lambda folder: _cut(folder / ".metadata", 500),
    "another list": lambda folder: (folder / ".metadata").write_bytes(b"junk"),
}


def _load(folder: str) -> str:
    try:
        l0.load_shards(folder, _sharded_state(), SPEC)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def _save(folder: str) -> None:
    l0.save_shards(folder, _sharded_state(), SPEC)


def _loads(folder: str) -> dict[str, str]:
    return {name: _load(f"{folder}/{name}") for name in ["whole", *DAMAGES]}


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """The message for each damage, from every process."""
    folder = tmp_path_factory.mktemp("damages")
    processes(2).run(_save, str(folder / "whole"))
    for name, damage in DAMAGES.items():
        shutil.copytree(folder / "whole", folder / name)
        damage(folder / name)
    return folder, processes(2).run(_loads, str(folder))


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_process_refuses_a_damaged_checkpoint_by_its_name(damage, messages):
    folder, found = messages
    for of_rank in found:
        assert f"The checkpoint in {folder / damage} is damaged" in of_rank[damage]
        assert of_rank["whole"] == "nothing was refused"


@pytest.mark.parametrize("lost", [".metadata", ".metadata.sha256"])
def test_a_checkpoint_without_its_last_files_is_none_and_is_written_again(lost, tmp_path):
    l0.save_shards(tmp_path, _state(), SPEC)
    (tmp_path / lost).unlink()
    with pytest.raises(ValueError, match="has no whole checkpoint"):
        l0.load_shards(tmp_path, _state(), SPEC)
    l0.save_shards(tmp_path, _state(), SPEC)
    loaded = l0.load_shards(tmp_path, _state(), SPEC)
    assert torch.equal(loaded.params["0.weight"], PARAMS["0.weight"])


def test_checksums_are_written_also_where_they_are_turned_off(tmp_path):
    options: Any = torch.serialization
    before = options.get_crc32_options()
    options.set_crc32_options(False)
    try:
        l0.save_shards(tmp_path, _state(), SPEC)
        assert not options.get_crc32_options()
    finally:
        options.set_crc32_options(before)
    loaded = l0.load_shards(tmp_path, _state(), SPEC)
    assert torch.equal(loaded.params["0.weight"], PARAMS["0.weight"])


def _save_where_one_cannot(folder: str) -> str:
    rank = distributed.get_rank()
    if rank == 1:
        # A folder stands where its part would be.
        (Path(folder) / f"__{rank}_0.distcp").mkdir(parents=True)
    try:
        _save(folder)
    except OSError as error:
        return str(error)
    return "nothing was refused"


def test_a_part_that_cannot_be_written_is_an_error_in_every_process(tmp_path):
    for message in processes(2).run(_save_where_one_cannot, str(tmp_path / "step_3")):
        assert "could not be written, and does not count: process 1 says IsADirector" in message
    assert "has no whole checkpoint" in processes(2).run(_load, str(tmp_path / "step_3"))[0]
