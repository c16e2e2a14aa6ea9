"""The writer: a file is replaced whole or not at all, and what stands around it stays."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
import torch
from nets import KINDS, same

import l0func as l0
from l0func.files import writer

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
OWNERS = os.geteuid() == 0


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@every_kind
def test_a_new_file_has_the_mode_of_every_new_file(kind, tmp_path):
    before = os.umask(0o027)
    try:
        kind.save(tmp_path / "net")
    finally:
        os.umask(before)
    assert mode(tmp_path / "net") == 0o640
    assert os.listdir(tmp_path) == ["net"]


@every_kind
@pytest.mark.parametrize("wanted", [0o600, 0o644, 0o664, 0o777, 0o640])
def test_a_replaced_file_keeps_its_mode(kind, wanted, tmp_path):
    path = tmp_path / "net"
    kind.save(path)
    path.chmod(wanted)
    kind.save(path, 1.0)
    assert mode(path) == wanted
    assert os.listdir(tmp_path) == ["net"]


@pytest.mark.skipif(not OWNERS, reason="only root may give a file away")
def test_a_replaced_file_keeps_its_owner(tmp_path):
    path = tmp_path / "net"
    KINDS["network"].save(path)
    os.chown(path, 12345, 23456)
    path.chmod(0o640)
    KINDS["network"].save(path, 1.0)
    found = os.stat(path)
    assert (found.st_uid, found.st_gid, mode(path)) == (12345, 23456, 0o640)


def through_a_link(folder):
    (folder / "elsewhere").mkdir()
    target, link = folder / "elsewhere" / "net", folder / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    return link, target


def through_two_links(folder):
    _, target = through_a_link(folder)
    (folder / "second").symlink_to("link")
    return folder / "second", target


def through_a_dangling_link(folder):
    link, target = through_a_link(folder)
    target.unlink()
    return link, target


def through_a_linked_folder(folder):
    _, target = through_a_link(folder)
    (folder / "folder").symlink_to("elsewhere", target_is_directory=True)
    return folder / "folder" / "net", target


LINKS = [through_a_link, through_two_links, through_a_dangling_link, through_a_linked_folder]


@every_kind
@pytest.mark.parametrize("linked", LINKS, ids=lambda linked: linked.__name__)
def test_a_link_stays_and_its_target_is_replaced(kind, linked, tmp_path):
    path, target = linked(tmp_path)
    links = {p: os.readlink(p) for p in tmp_path.iterdir() if p.is_symlink()}
    kind.save(path)
    assert {p: os.readlink(p) for p in tmp_path.iterdir() if p.is_symlink()} == links
    assert not target.is_symlink()
    assert same(kind.load(target), kind.load(path))
    assert os.listdir(target.parent) == ["net"]


@every_kind
def test_a_loop_of_links_is_an_error_and_stays(kind, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match=r"symbolic links.*'.*a'"):
        kind.save(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def a_fifo(folder):
    os.mkfifo(folder / "it")
    return folder / "it"


def a_folder(folder):
    (folder / "it").mkdir()
    return folder / "it"


def a_socket(folder):
    import socket

    here = os.getcwd()
    # The path of a socket may have 107 characters only.
    os.chdir(folder)
    try:
        socket.socket(socket.AF_UNIX).bind("it")
    finally:
        os.chdir(here)
    return folder / "it"


def a_device(folder):
    return Path("/dev/null")


def a_link_to_a_device(folder):
    (folder / "it").symlink_to("/dev/null")
    return folder / "it"


def a_link_to_a_fifo(folder):
    a_fifo(folder).rename(folder / "fifo")
    (folder / "it").symlink_to("fifo")
    return folder / "it"


@pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning")
@every_kind
@pytest.mark.parametrize(
    ("thing", "word"),
    [
        (a_fifo, "a FIFO"),
        (a_folder, "a folder"),
        (a_socket, "a socket"),
        (a_device, "a device"),
        (a_link_to_a_device, "a device"),
        (a_link_to_a_fifo, "a FIFO"),
    ],
)
def test_only_a_regular_file_is_replaced_or_read(kind, thing, word, tmp_path):
    path = thing(tmp_path)
    before = os.lstat(path)
    things = sorted(os.listdir(tmp_path))
    for use in (kind.save, kind.load):
        with pytest.raises(ValueError, match=rf"{path} is {word}, not a regular file"):
            use(path)
    after = os.lstat(path)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert sorted(os.listdir(tmp_path)) == things


def test_the_null_device_is_still_a_device():
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


class Stop(BaseException):
    """Neither an Exception nor an error of the system, like KeyboardInterrupt."""


def fails_to(name, error):
    """A function that fails in the place of one of the writer's steps."""

    def fail(*args, **kwargs):
        raise error

    return name, fail


FAILURES = [
    fails_to("fsync", OSError(5, "Input/output error")),
    fails_to("fsync", KeyboardInterrupt()),
    fails_to("replace", OSError(16, "Device or resource busy")),
    fails_to("replace", KeyboardInterrupt()),
    fails_to("replace", Stop()),
    fails_to("chmod", PermissionError(1, "Operation not permitted")),
]


@every_kind
@pytest.mark.parametrize(("step", "fail"), FAILURES)
def test_a_failure_leaves_the_old_file_and_nothing_else(kind, step, fail, tmp_path, monkeypatch):
    path = tmp_path / "net"
    kind.save(path)
    path.chmod(0o606)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(writer.os, step, fail)
        with pytest.raises((OSError, KeyboardInterrupt, Stop)) as caught:
            kind.save(path, 1.0)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net"]
    if isinstance(caught.value, OSError):
        assert str(path) in str(caught.value)


@every_kind
def test_an_interrupt_between_tensors_leaves_the_old_file(kind, tmp_path, monkeypatch):
    path = tmp_path / "net"
    kind.save(path)
    before = path.read_bytes()
    calls = []

    def written(file, *args):
        calls.append(file)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return "0" * 64

    monkeypatch.setattr("l0func.files.tensor_bytes.write", written)
    with pytest.raises(KeyboardInterrupt):
        kind.save(path, 1.0)
    assert all(file.closed for file in calls)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net"]


@every_kind
def test_what_others_keep_beside_the_file_stays(kind, tmp_path):
    for name in ("net.part", "net.tmp", ".net.swp", "net~"):
        (tmp_path / name).write_text("mine")
    kind.save(tmp_path / "net")
    texts = {p.name: p.read_text() for p in tmp_path.iterdir() if p.name != "net"}
    assert texts == dict.fromkeys(("net.part", "net.tmp", ".net.swp", "net~"), "mine")


@every_kind
def test_the_file_and_its_folder_are_synced_in_this_order(kind, tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def replaced(old, new):
        steps.append("rename")
        replace(old, new)

    monkeypatch.setattr(writer.os, "fsync", synced)
    monkeypatch.setattr(writer.os, "replace", replaced)
    kind.save(tmp_path / "net")
    assert steps == ["file", "rename", "folder"]


@pytest.mark.parametrize("kind", [KINDS["network"]])
def test_four_threads_write_one_file_a_hundred_times_each(kind, tmp_path):
    path = tmp_path / "net"
    errors, wrong = [], []
    good = []
    for value in range(4):
        kind.save(path, float(value))
        good.append(path.read_bytes())

    def write(value):
        try:
            for _ in range(100):
                kind.save(path, float(value))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.read_bytes() not in good:
            wrong.append(path.read_bytes())
    for thread in threads:
        thread.join()
    assert not errors
    assert not wrong
    assert os.listdir(tmp_path) == ["net"]


def test_a_tensor_that_changes_meanwhile_does_not_spoil_the_file(tmp_path):
    params = {"w": torch.zeros(300_000)}
    spec = l0.gate_spec(params, {"w": l0.whole()})
    gates = l0.init_gates(l0.random.key(0), spec)
    done = threading.Event()

    def change():
        while not done.is_set():
            params["w"].add_(1.0)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(5):
            l0.save(tmp_path / "net", params, gates, {}, spec)
            assert (l0.load(tmp_path / "net").params["w"] >= 0).all()
    finally:
        done.set()
        thread.join()
