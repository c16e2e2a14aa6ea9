"""The two networks of complexity.py, and the data sets of each.

A data set is a function from a key to examples and labels.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0

IMAGES, STRINGS, LETTERS = 300, 1024, 10
# Controls: the same data under other names.
SAME = {
    "ten, renamed": "ten digits",
    "ten, pixels permuted": "ten digits",
    "contains bbb": "contains aaa",
}
Data = tuple[Tensor, Tensor]
Tasks = dict[str, Callable[[Tensor], Data]]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.LSTMCell(2, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for letter in x.unbind(1):
            state = self.cell(letter, state)
        return self.out(state[0])


def shuffled(key: Tensor, rows: Tensor) -> Tensor:
    return rows[l0.random.uniform(key, len(rows)).argsort()]


def drawn(key: Tensor, n: int, rows: Tensor) -> Tensor:
    return rows[(l0.random.uniform(key, n) * len(rows)).long()]


def images(path: Path | None) -> Data:
    """Images of 8×8 and their labels.

    They are scikit-learn's digits, or MNIST without its border of two pixels, averaged over 3×3.
    """
    if path is None:
        x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
        return x.float(), y
    sys.path.append(str(Path(__file__).parent / "reproduce"))
    from mnist import mnist

    x, y, *_ = mnist(path)
    return F.avg_pool2d(x.view(-1, 28, 28)[:, 2:26, 2:26], 3).flatten(1), y


def image_tasks(pixels: Tensor, labels: Tensor) -> Tasks:
    """Tasks on some of the images, with several labellings and changes; mean square is 1."""

    def few(rows: Tensor, change: Callable[..., Data], key: Tensor) -> Data:
        chosen, own = l0.random.split(key)
        rows = shuffled(chosen, rows)[:IMAGES]
        x, y = change(own, pixels[rows], labels[rows])
        return x / x.square().mean().sqrt(), y

    def blurred(x: Tensor) -> Tensor:
        return F.avg_pool2d(x.view(-1, 1, 8, 8), 3, stride=1, padding=1).flatten(1)

    pairs = {}
    for a, b in ((0, 1), (3, 8), (4, 9)):
        pairs[f"{a} or {b}"] = ((labels == a) | (labels == b)).nonzero().flatten()
    changes = {
        "even or odd": lambda key, x, y: (x, y % 2),
        "ten digits": lambda key, x, y: (x, y),
        "ten, renamed": lambda key, x, y: (x, shuffled(key, torch.arange(10))[y]),
        "ten, pixels permuted": lambda key, x, y: (shuffled(key, x.T).T, y),
        "ten, blurred": lambda key, x, y: (blurred(x), y),
        "ten, labels shuffled": lambda key, x, y: (x, shuffled(key, y)),
    }
    everything = torch.arange(len(labels))
    tasks = {name: partial(few, rows, changes["ten digits"]) for name, rows in pairs.items()}
    return tasks | {name: partial(few, everything, change) for name, change in changes.items()}


def balanced(string: str) -> bool:
    depths = list(itertools.accumulate({"a": 1, "b": -1}[letter] for letter in string))
    return min(depths) == depths[-1] == 0


def string_tasks() -> Tasks:
    """Strings of a language, and as many others.

    Half of the others, where there are enough, are one or two letters away from the language.
    """
    strings = ["".join(letters) for letters in itertools.product("ab", repeat=LETTERS)]
    code = {"a": (1.0, 0.0), "b": (0.0, 1.0)}
    codes = torch.tensor([list(map(code.get, string)) for string in strings])
    number = torch.arange(len(strings))
    # A string's number has a bit for every letter; these are the numbers with one or two of them
    # replaced.
    replaced = [number ^ (1 << i | 1 << j) for i in range(LETTERS) for j in range(LETTERS)]

    def half(rule: Callable[[str], bool] | None, key: Tensor) -> Data:
        own, *keys = l0.random.split(key, 4)
        random = torch.isin(number, shuffled(own, number)[:32])
        inside = random if rule is None else torch.tensor([rule(string) for string in strings])
        near = ~inside & torch.stack([inside[other] for other in replaced]).any(0)
        far = ~inside & ~near
        quarter = STRINGS // 4
        kinds = [(2 * quarter, inside), (quarter, near), (quarter, far if far.any() else near)]
        rows = []
        for own, (count, kind) in zip(keys, kinds, strict=True):
            rows.append(drawn(own, count, kind.nonzero().flatten()))
        chosen = torch.cat(rows)
        return codes[chosen], inside[chosen].long()

    rules = {
        "ends with a": lambda s: s.endswith("a"),
        "starts with a": lambda s: s.startswith("a"),
        "contains aaa": lambda s: "aaa" in s,
        "contains bbb": lambda s: "bbb" in s,
        "even number of a": lambda s: s.count("a") % 2 == 0,
        "as many a as b": lambda s: s.count("a") == s.count("b"),
        "balanced brackets": balanced,
        "palindromes": lambda s: s == s[::-1],
        "32 random strings": None,
    }
    return {name: partial(half, rule) for name, rule in rules.items()}
