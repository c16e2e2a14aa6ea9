"""Words of Python's standard library, as grey images in the faces of matplotlib's DejaVu fonts."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import get_data_path
from ocr_network import HEIGHT
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import l0func as l0

KEPT = 5000
FACES = [
    *("Sans", "Sans-Bold", "Sans-Oblique", "Sans-BoldOblique"),
    *("SansMono", "SansMono-Bold", "SansMono-Oblique", "SansMono-BoldOblique"),
    *("Serif", "Serif-Bold", "Serif-Italic", "Serif-BoldItalic"),
]
# Installed packages, folders that some distributions leave out, and tables of codes.
ABSENT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings"}
WORD = re.compile("(?<![A-Za-z])[A-Z]?[a-z]{3,9}(?![A-Za-z])")
STEP = 32  # pixels from one width to the next


class Images(NamedTuple):
    """Words of one width: bytes of shape ``(words, 64, pixels)``, and what they say."""

    pixels: Tensor
    said: list[str]

    def inputs(self, rows: Tensor | slice, device: str | torch.device) -> Tensor:
        """What the network reads: grey values in [-1, 1], shape ``(rows, 1, 64, pixels)``."""
        return self.pixels[rows].to(device).float().div(127.5).sub(1)[:, None]


Data = dict[str, list[Images]]


def load(file: Path | None, learning: int, kept: int) -> Data:
    """Images to learn from and images that are kept, read from a file if there is one."""
    if file is not None and file.exists():
        arrays = np.load(file)
        data: Data = {"learning": [], "kept": []}
        for name in arrays.files:
            if (part := name.split()[0]) in data:
                said = arrays[f"said {name}"].tolist()
                data[part].append(Images(torch.from_numpy(arrays[name]), said))
        return data
    found = words()
    data = {
        "learning": drawn(found[KEPT:][:learning], 1),
        "kept": drawn(found[:KEPT][:kept], 2),
    }
    if file is not None:
        write(file, data)
    return data


def write(file: Path, data: Data) -> None:
    arrays: dict[str, np.ndarray] = {}
    for part, lists in data.items():
        for images in lists:
            name = f"{part} {images.pixels.shape[-1]}"
            arrays[name], arrays[f"said {name}"] = images.pixels.numpy(), np.array(images.said)
    np.savez_compressed(file, **arrays)


def words() -> list[str]:
    """Words of three to ten letters, as they are first written, in the order of a key."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        if not ABSENT.intersection(path.relative_to(root).parts):
            for word in WORD.findall(path.read_bytes().decode(errors="replace")):
                found.setdefault(word.lower(), word)
    order = l0.random.uniform(l0.random.key(2026), len(found)).argsort().tolist()
    listed = list(found.values())
    return [listed[i] for i in order]


def drawn(chosen: Sequence[str], stream: int) -> list[Images]:
    """Every word once: its face, size, place and greys are drawn. Lists of one width each."""
    draws = l0.random.uniform(l0.random.fold_in(l0.random.key(64), stream), (len(chosen), 6))
    by_width: dict[int, tuple[list[np.ndarray], list[str]]] = {}
    for word, draw in zip(chosen, draws.tolist(), strict=True):
        pixels = image(word, draw)
        arrays, said = by_width.setdefault(pixels.shape[1], ([], []))
        arrays.append(pixels)
        said.append(word)
    lists = [by_width[width] for width in sorted(by_width)]
    return [Images(torch.from_numpy(np.stack(arrays)), said) for arrays, said in lists]


def image(word: str, draw: Sequence[float]) -> np.ndarray:
    """A word, dark on bright, on paper of a multiple of 32 pixels."""
    face, size, left, up, ink, paper = draw
    font = typeface(FACES[int(face * len(FACES))], 20 + int(9 * size))
    x, y = 4 + int(7 * left), 28 + int(9 * up)
    width = -(-(int(font.getlength(word)) + x + 5) // STEP) * STEP
    drawing = Image.new("L", (width, HEIGHT), 255 - int(75 * paper))
    ImageDraw.Draw(drawing).text((x, y), word, fill=int(75 * ink), font=font, anchor="lm")
    return np.array(drawing)


@cache
def typeface(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVu{face}.ttf", size)
