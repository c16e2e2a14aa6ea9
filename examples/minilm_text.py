"""Sentences that ship with Python: docstrings, comments and the pages of its help."""

from __future__ import annotations

import ast
import re
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

import l0func as l0

Sentences = dict[str, list[str]]
PARTS = ("train", "validation", "test")
# Installed packages, and folders that some distributions of Python leave out.
ABSENT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip"}
TEST = 600
LENGTHS = range(40, 221)  # characters
CODE = re.compile(r"^\s*>>>|::$|^\s*[-+|=*]{3}", re.MULTILINE)
COMMENTS = re.compile(r"(?:^[ \t]*#[^\n]*\n)+", re.MULTILINE)


def sentences(file: Path | None, every: int = 1) -> Sentences:
    """Sentences for training, validation and test, read from a text file if there is one."""
    if file is not None and file.exists():
        return read(file)
    found = shuffled(library(every))
    if file is not None:
        write(file, found)
    return found


def library(every: int) -> Sentences:
    """Sentences from some files of the standard library; each file belongs to one part."""
    root = Path(sysconfig.get_path("stdlib"))
    found: Sentences = {part: [] for part in PARTS}
    known: set[str] = set()
    for path in sorted(root.rglob("*.py"))[::every]:
        name = path.relative_to(root)
        if ABSENT.intersection(name.parts):
            continue
        new = [text for text in of_file(path) if text not in known]
        known.update(new)
        found[part_of(name.as_posix())] += dict.fromkeys(new)
    return found


def part_of(name: str) -> str:
    """The part of a file, from a checksum of its name: 16 of 20 files are for training."""
    number = zlib.crc32(name.encode()) % 20
    return "train" if number < 16 else "validation" if number < 17 else "test"


def of_file(path: Path) -> Iterator[str]:
    source = path.read_bytes().decode(errors="replace")
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from of_text(node.value)
    for block in COMMENTS.findall(source):
        yield from of_text(re.sub(r"(?m)^[ \t]*#+ ?", "", block))


def of_text(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        if CODE.search(paragraph):
            continue
        words = " ".join(paragraph.split())
        yield from filter(is_prose, re.split(r"(?<=[.!?])\s+(?=[A-Z])", words))


def is_prose(text: str) -> bool:
    if len(text) not in LENGTHS or not text.isascii():
        return False
    letters = sum(character.isalpha() or character == " " for character in text)
    return text[0].isupper() and text[-1] in ".!?" and letters > 0.85 * len(text)


def shuffled(found: Sentences) -> Sentences:
    """The sentences of each part in an order that does not follow the files."""
    result: Sentences = {}
    for stream, part in enumerate(PARTS):
        key = l0.random.fold_in(l0.random.key(17), stream)
        order = l0.random.uniform(key, len(found[part])).argsort().tolist()
        result[part] = [found[part][i] for i in order]
    return result | {part: result[part][:TEST] for part in PARTS[1:]}


def write(file: Path, found: Sentences) -> None:
    lines = [f"{part}\t{text}\n" for part in PARTS for text in found[part]]
    file.write_text("".join(lines))


def read(file: Path) -> Sentences:
    found: Sentences = {part: [] for part in PARTS}
    for line in file.read_text().splitlines():
        part, text = line.split("\t", 1)
        found[part].append(text)
    return found
