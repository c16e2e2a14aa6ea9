"""The speller of g2p-en as a module: letters in, logits of phonemes out.

The class is written here, and the weights are read from the installed package by their path:
importing g2p_en would download data of nltk.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
OTHERS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH UW".split()
STRESSED = [vowel + stress for vowel in VOWELS for stress in "012"]
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *sorted(STRESSED + OTHERS)]
START, END = PHONEMES.index("<s>"), PHONEMES.index("</s>")
LONGEST = 20
"""The number of phonemes after which g2p-en stops."""


class Speller(nn.Module):
    """A GRU that reads letters; its last state starts a GRU that writes phonemes."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS), width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.phonemes = nn.Embedding(len(PHONEMES), width)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, len(PHONEMES))

    def forward(self, letters: Tensor, phonemes: Tensor) -> Tensor:
        """Logits of every next phoneme, given the phonemes before it.

        Args:
            letters: Words of one length, with their end, shape ``(words, letters)``.
            phonemes: The start and the phonemes, shape ``(words, phonemes)``.
        """
        _, state = self.encoder(self.letters(letters))
        states, _ = self.decoder(self.phonemes(phonemes), state)
        return self.out(states)

    @torch.inference_mode()
    def spell(self, letters: Tensor) -> list[list[int]]:
        """The likeliest phoneme step by step, for words of one length."""
        _, state = self.encoder(self.letters(letters))
        last = letters.new_full((len(letters), 1), START)
        steps = []
        for _ in range(LONGEST):
            states, state = self.decoder(self.phonemes(last), state)
            last = self.out(states).argmax(-1)
            steps.append(last)
        written = torch.cat(steps, 1).tolist()
        return [row[: row.index(END)] if END in row else row for row in written]


def checkpoint() -> Path:
    """The file of weights in the installed package.

    Raises:
        ModuleNotFoundError: g2p-en is not installed.
    """
    package = importlib.util.find_spec("g2p_en")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("g2p-en is not installed", name="g2p_en")
    return Path(package.origin).parent / "checkpoint20.npz"


def original() -> Speller:
    """The speller with its weights."""
    arrays = np.load(checkpoint())
    names = {"out.weight": "fc_w", "out.bias": "fc_b"}
    for ours, theirs, embedding in (
        ("encoder", "enc", "letters"),
        ("decoder", "dec", "phonemes"),
    ):
        names[f"{embedding}.weight"] = f"{theirs}_emb"
        for kind in ("weight", "bias"):
            for side in ("ih", "hh"):
                names[f"{ours}.{kind}_{side}_l0"] = f"{theirs}_{kind[0]}_{side}"
    speller = Speller()
    state = {ours: torch.from_numpy(arrays[theirs]) for ours, theirs in names.items()}
    speller.load_state_dict(state)
    return speller.eval()
