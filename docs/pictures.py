"""Draws the pictures of this folder: ``python docs/pictures.py`` writes them beside this file."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
INK, VALUE, FUNCTION, NOTE = "#33415c", "#eef1f6", "#33415c", "#6b7690"
FONT = 'font-family="DejaVu Sans, Verdana, sans-serif"'


class Box(NamedTuple):
    """A value or a function, with its centre, its size and its lines of text."""

    x: float
    y: float
    width: float
    lines: tuple[str, ...]
    function: bool = False

    @property
    def height(self) -> float:
        return 16 + 17 * len(self.lines)

    def edge(self, other: Box) -> tuple[float, float]:
        """The point of this box's border towards another box."""
        dx, dy = other.x - self.x, other.y - self.y
        if abs(dx) * self.height >= abs(dy) * self.width:
            return self.x + (self.width / 2 if dx > 0 else -self.width / 2), self.y
        return self.x, self.y + (self.height / 2 if dy > 0 else -self.height / 2)

    def drawn(self) -> str:
        fill, text = (FUNCTION, "white") if self.function else (VALUE, INK)
        radius = 4 if self.function else 14
        left, top = self.x - self.width / 2, self.y - self.height / 2
        shape = (
            f'<rect x="{left:g}" y="{top:g}" width="{self.width:g}" height="{self.height:g}" '
            f'rx="{radius}" fill="{fill}" stroke="{INK}"/>'
        )
        first = self.y - 17 * (len(self.lines) - 1) / 2 + 5
        texts = [
            label(self.x, first + 17 * i, line, text, 13 if i == 0 else 11)
            for i, line in enumerate(self.lines)
        ]
        return "\n".join([shape, *texts])


def label(
    x: float, y: float, text: str, colour: str = NOTE, size: int = 11, anchor: str = "middle"
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{colour}" '
        f"{FONT}>{escape(text)}</text>"
    )


def arrow(start: Box, end: Box) -> str:
    (x1, y1), (x2, y2) = start.edge(end), end.edge(start)
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{INK}" '
        'stroke-width="1.4" marker-end="url(#tip)"/>'
    )


def picture(width: int, height: int, parts: list[str]) -> str:
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" '
        f'markerHeight="8" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">'
    )
    paper = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([head, tip, paper, *parts, "</svg>\n"])


def connected(boxes: dict[str, Box], arrows: str) -> list[str]:
    """The boxes and the arrows between them, given as lines of ``from > to > to``."""
    drawn: list[str] = []
    for line in arrows.strip().splitlines():
        names = [name.strip() for name in line.split(">")]
        drawn += [arrow(boxes[one], boxes[other]) for one, other in pairwise(names)]
    return drawn + [box.drawn() for box in boxes.values()]


def value(x: float, y: float, *lines: str, width: float = 120) -> Box:
    return Box(x, y, width, lines)


def function(x: float, y: float, *lines: str, width: float = 150) -> Box:
    return Box(x, y, width, lines, function=True)


def dataflow() -> str:
    """From a module to a smaller module: values are light, functions are dark."""
    boxes = {
        "module": value(80, 40, "module"),
        "make_functional": function(260, 40, "make_functional"),
        "pure": value(480, 40, "fn, params, buffers", "no weights inside fn", width=180),
        "rules": value(80, 140, "rules, groups"),
        "gate_spec": function(260, 140, "gate_spec"),
        "spec": value(450, 140, "spec", "the static plan"),
        "init_gates": function(640, 140, "init_gates"),
        "gates": value(830, 140, "gates", "{name: log_alpha}"),
        "gated": function(450, 250, "gated(fn, spec)", "one mask for the batch", width=190),
        "per_example": function(450, 330, "per_example", "one mask for every row", width=190),
        "key": value(160, 250, "key", width=100),
        "keys": value(160, 330, "a key for every row", width=150),
        "output": value(640, 290, "output"),
        "penalty": function(830, 250, "penalty", "λ for every open entry", width=170),
        "loss": value(830, 330, "loss"),
        "training": function(830, 420, "training", "a step of weights and gates", width=190),
        "state": value(640, 420, "state", "trained"),
        "compact": function(450, 420, "compact"),
        "small": value(260, 420, "smaller fn,", "params, buffers"),
        "to_module": function(80, 420, "to_module", width=120),
    }
    arrows = """
        module > make_functional > pure > gate_spec
        rules > gate_spec > spec > init_gates > gates
        spec > gated
        gates > penalty > loss
        key > gated > output > loss > training > state > compact > small > to_module
        keys > per_example > output
        gated > per_example
    """
    return picture(930, 470, connected(boxes, arrows))


def one_call() -> str:
    """One call of per_example, from the user's line down to a kernel."""
    boxes = {
        "call": value(130, 40, "rows(params, gates,", "buffers, keys, x)", width=180),
        "vmap": function(400, 40, "torch.vmap over rows", "engine/per_example", width=200),
        "gated": function(670, 40, "stand-ins for params", "engine/stand_ins", width=200),
        "module": function(670, 140, "module.forward, one row", "pure/functional", width=200),
        "linear": value(400, 140, "F.linear(x, weight)", "weight is a stand-in", width=180),
        "keyed": function(130, 140, "Keyed", "dropout from the row's key", width=200),
        "by_row": function(130, 240, "ByRow", "norms and fused layers", width=200),
        "stand_in": function(400, 240, "__torch_function__", "engine/parameter", width=200),
        "handler": function(670, 240, "handler", "engine/ops/linear", width=200),
        "sweep": function(
            670, 340, "sweep, an autograd.Function", "its vmap rule merges rows", width=220
        ),
        "kernel": function(
            400, 340, "kernel, all rows at once", "draws masks and forgets", width=200
        ),
        "output": value(130, 340, "outputs"),
    }
    arrows = """
        call > vmap > gated > module > linear > keyed > by_row > stand_in > handler > sweep
        sweep > kernel > output
    """
    return picture(800, 390, connected(boxes, arrows))


def backends() -> str:
    """From a draw, a gate or a product to the backend that computes it."""
    boxes = {
        "random": function(130, 40, "uniform, normal, split", "random", width=190),
        "gate": function(400, 40, "sample, mean_and_variance", "distributions", width=210),
        "product": function(
            680, 40, "product with a masked weight", "engine/contraction", width=230
        ),
        "formula": value(130, 140, "Formula", "draw and tails over numbers", width=200),
        "kernels_for": function(400, 140, "kernels_for(tensors)", "kernels/backends", width=190),
        "vocabulary": value(130, 240, "vocabulary", "exp, log, where, ndtri, …", width=190),
        "torch": function(400, 240, "by_torch", "every device and transform", width=190),
        "numba": function(690, 240, "by_numba", "plain tensors, CPU", width=150),
        "triton": function(690, 140, "by_triton", "plain tensors, CUDA", width=150),
    }
    arrows = """
        random > kernels_for > torch
        gate > kernels_for > numba
        product > kernels_for > triton
        formula > vocabulary > torch
        formula > kernels_for
    """
    return picture(820, 290, connected(boxes, arrows))


PICTURES = {"dataflow.svg": dataflow, "per_example.svg": one_call, "kernels.svg": backends}


def main() -> None:
    for name, drawn in PICTURES.items():
        (HERE / name).write_text(drawn())


if __name__ == "__main__":
    main()
