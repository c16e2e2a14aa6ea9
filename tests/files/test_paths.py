"""Paths: every name of a file works, and a place that cannot be written is named."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from nets import KINDS, same

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_kind
def test_a_missing_folder_is_named(kind, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=rf"no folder {tmp_path}/none .*'{tmp_path}/none/net'"
    ):
        kind.save(tmp_path / "none" / "net")
    (tmp_path / "dangling").symlink_to(tmp_path / "none" / "net")
    with pytest.raises(FileNotFoundError, match="no folder"):
        kind.save(tmp_path / "dangling")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file/net"):
        kind.save(tmp_path / "file" / "net")


WRITES = """
import os, sys
sys.path.insert(0, sys.argv[1])
from nets import KINDS
os.setgid(65534), os.setuid(65534)
for path in sys.argv[2:]:
    try:
        KINDS["network"].save(path, 1.0)
        print("saved")
    except OSError as error:
        print(type(error).__name__, error)
"""


def as_nobody(*paths):
    """What a user without rights sees when it saves there."""
    command = [sys.executable, "-c", WRITES, str(Path(__file__).parent), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture
def entered_by_all():
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="root makes the files of another user")
def test_protected_files_and_folders_are_not_written(entered_by_all):
    closed, opened = entered_by_all / "closed", entered_by_all / "opened"
    closed.mkdir(mode=0o755)
    opened.mkdir()
    opened.chmod(0o777)
    for name in ("protected", "free"):
        KINDS["network"].save(opened / name)
    before = (opened / "free").read_bytes()
    (opened / "protected").chmod(0o444)
    (opened / "free").chmod(0o666)
    in_closed, protected, free = as_nobody(closed / "net", opened / "protected", opened / "free")
    assert in_closed.startswith("PermissionError")
    assert in_closed.endswith(f"made or replaced in {closed}: '{closed}/net'")
    assert protected.startswith("PermissionError")
    assert "protected against writing" in protected
    assert free == "saved"
    assert (opened / "protected").read_bytes() == before != (opened / "free").read_bytes()
    assert sorted(os.listdir(opened)) == ["free", "protected"]


LONG = "n" * 255


@every_kind
@pytest.mark.parametrize(
    "name",
    ["net", b"net", LONG, "ä ☃\n", b"\xff\xfe net", "-", "*?", ".hidden", "net.part"],
    ids=repr,
)
def test_every_name_of_a_file_works(kind, name, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
    kind.save(path)
    expected = kind.load(path)
    kind.save(os.fsdecode(path))
    assert same(kind.load(Path(os.fsdecode(path))), expected)
    assert os.listdir(os.fsencode(tmp_path)) == [os.fsencode(name)]


@every_kind
def test_a_name_that_is_too_long_is_an_error_with_the_name(kind, tmp_path):
    with pytest.raises(OSError, match=rf"too long.*{LONG}n"):
        kind.save(tmp_path / f"{LONG}n")
    assert os.listdir(tmp_path) == []


@every_kind
@pytest.mark.parametrize("path", ["", "a\0b", "folder/"], ids=repr)
def test_a_text_that_names_no_file_is_refused(kind, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (kind.save, kind.load):
        with pytest.raises(ValueError, match=r"names (no file|a folder)"):
            use(path)
    assert os.listdir(tmp_path) == []


@every_kind
@pytest.mark.parametrize("path", [None, 3, 1.5, {"w": torch.ones(1)}, ["net"], torch.ones(1)])
def test_a_path_of_a_wrong_type_is_named(kind, path):
    for use in (kind.save, kind.load):
        with pytest.raises(TypeError, match=rf"first argument; got {type(path).__name__}"):
            use(path)


@every_kind
def test_a_relative_path_is_in_the_current_folder(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind.save("net")
    assert os.listdir(tmp_path) == ["net"]
