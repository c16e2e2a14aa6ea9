"""A writer that is killed, or refused by the system, at any of its steps: nothing is lost."""

from __future__ import annotations

import errno
import gc
import importlib.util
import os
import random
import resource
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from interrupting import at_change, changes, die, forked
from nets import KINDS, SETTINGS, SPEC, START, STATE, Kind, same

import l0func as l0
from l0func.internal import tree

pytestmark = [
    pytest.mark.on_cpu,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a process forks where its system can"),
]


def save_shards(folder: Any, value: float = 0.0) -> None:
    params = {name: t + value for name, t in STATE.params.items()}
    l0.save_shards(step_of(folder, value), STATE._replace(params=params), SPEC, SETTINGS)


def step_of(folder: Any, value: float) -> Path:
    return Path(folder) / f"step_{value:.0f}"


def load_shards(folder: Any) -> Any:
    """The numbers of the last whole checkpoint."""
    for step in sorted(Path(folder).glob("step_*"), reverse=True):
        with suppress(ValueError):
            return tree.leaves(l0.load_shards(step, START, SPEC, SETTINGS))
    raise AssertionError("no checkpoint is left")


ON_SHARDS = "save_shards"
WRITERS = {
    "save": KINDS["network"],
    "save_state": KINDS["state"],
    ON_SHARDS: Kind(save_shards, load_shards),
}


def has_shards() -> bool:
    """Whether this torch has the public tensors that shards need."""
    return importlib.util.find_spec("torch.distributed.tensor.debug") is not None


without_shards = pytest.mark.skipif(not has_shards(), reason="torch has no public DTensors")
MARKS = {ON_SHARDS: without_shards}
every_writer = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, ())) for name in WRITERS]
)


def named(name: str, path: Path) -> str:
    """The name of the second save's place in a message."""
    return str(step_of(path, 1) if name == ON_SHARDS else path)


def both(writer: Kind, folder: Path) -> tuple[Any, Any, int]:
    """The numbers of two saves, and how often the second one changes files."""
    apart = folder / "apart"
    writer.save(apart)
    old = writer.load(apart)
    steps = changes(lambda: writer.save(apart, 1.0))
    return old, writer.load(apart), steps


def chosen(steps: int, number: int) -> list[int]:
    """Steps of a writer: some, drawn with a fixed seed, and the last ones."""
    last = range(max(1, steps - number), steps + 1)
    return sorted({*last, *random.Random(number).sample(range(1, steps + 1), number)})


def check_left_behind(name: str, folder: Path, new: Any) -> None:
    """Beside the file there is only what no reader takes, or what is whole."""
    for path in folder.glob(".l0func-*"):
        try:
            assert same(WRITERS[name].load(path), new)
        except ValueError:
            path.unlink()


def test_every_public_writer_is_interrupted_here():
    assert {name for name in l0.__all__ if name.startswith("save")} == set(WRITERS)


# How many of the steps, for each test: the last ones count most.
FEW = [3, pytest.param(60, marks=pytest.mark.slow)]


@every_writer
@pytest.mark.parametrize("number", FEW)
def test_a_writer_killed_at_any_step_leaves_the_old_numbers_or_the_new(name, number, tmp_path):
    writer = WRITERS[name]
    old, new, steps = both(writer, tmp_path)
    outcomes = []
    for step in chosen(steps, min(number, steps)):
        folder = tmp_path / str(step)
        folder.mkdir()
        path = folder / "net"
        writer.save(path)

        def save(path=path, step=step):
            with at_change(step, die):
                writer.save(path, 1.0)

        assert forked(save) == -signal.SIGKILL
        found = writer.load(path)
        outcomes.append(same(found, new))
        assert outcomes[-1] or same(found, old)
        check_left_behind(name, folder, new)
        if not outcomes[-1]:
            writer.save(path, 1.0)
        assert same(writer.load(path), new)
    # Once they are new they stay so.
    assert outcomes == sorted(outcomes)
    assert not outcomes[0]


def no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


MANY = [12, pytest.param(400, marks=pytest.mark.slow)]
# On Python 3.13 the streams of torch 2.9 complain of their closed files as they are forgotten.
FORGOTTEN_STREAM = "ignore:.*transform_save_stream:pytest.PytestUnraisableExceptionWarning"


@pytest.fixture
def _forgets_here() -> Iterator[None]:
    yield
    gc.collect()


@every_writer
@pytest.mark.parametrize("number", MANY)
@pytest.mark.usefixtures("_forgets_here")
@pytest.mark.filterwarnings(FORGOTTEN_STREAM)
def test_a_full_disk_at_any_step_leaves_the_old_numbers_and_one_error(name, number, tmp_path):
    writer = WRITERS[name]
    old, new, steps = both(writer, tmp_path)
    refused = 0
    for step in chosen(steps, min(number, steps)):
        path = tmp_path / str(step) / "net"
        path.parent.mkdir()
        writer.save(path)
        message = refusal(writer, path, step)
        # After the last step but one the new file has its name, and may not survive a power cut.
        is_there = message is None or "is in its place" in message
        assert message is None or (named(name, path) in message and "No space left" in message)
        assert same(writer.load(path), new if is_there else old)
        assert os.listdir(path.parent) == ["net"]
        if not is_there:
            writer.save(path, 1.0)
        assert same(writer.load(path), new)
        refused += message is not None
    assert refused >= min(number, steps) // 2


def refusal(writer: Kind, path: Path, step: int) -> str | None:
    """What a writer says of a disk that is full at one step; None where a later one succeeds.

    torch flushes a stream as it forgets it, and again when it closes the file.
    """
    try:
        with at_change(step, no_room):
            writer.save(path, 1.0)
    except OSError as error:
        return str(error)
    return None


def largest(path: Path) -> int:
    """The bytes of the largest file."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return max(each.stat().st_size for each in files)


@every_writer
def test_files_that_may_not_grow_are_an_error_with_the_path(name, tmp_path):
    writer = WRITERS[name]
    old, _, _ = both(writer, tmp_path)
    size = largest(tmp_path / "apart")
    for limit in (0, size // 2, size - 1):
        path = tmp_path / str(limit) / "net"
        path.parent.mkdir()
        writer.save(path)

        def save(path=path, limit=limit):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with pytest.raises(OSError, match="File too large") as caught:
                writer.save(path, 1.0)
            assert named(name, path) in str(caught.value)

        assert forked(save) == 0
        assert same(writer.load(path), old)


def as_nobody() -> None:
    """Give up root's rights, which no folder's mode binds."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@every_writer
def test_a_folder_that_may_not_be_written_is_an_error_with_the_path(name):
    writer = WRITERS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net"
        writer.save(path)
        before = writer.load(path)
        closed = [path, path.parent] if path.is_dir() else [path.parent]
        for each in closed:
            each.chmod(0o555)

        def save():
            as_nobody()
            with pytest.raises(OSError, match=r"[Pp]ermission|protected") as caught:
                writer.save(path, 1.0)
            assert named(name, path) in str(caught.value)

        assert forked(save) == 0
        assert same(writer.load(path), before)
        for each in closed:
            each.chmod(0o755)
        assert os.listdir(folder) == ["net"]


@without_shards
def test_a_file_in_the_place_of_a_checkpoints_folder_is_an_error_with_the_path(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=f"{tmp_path}/file/step_0"):
        save_shards(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
