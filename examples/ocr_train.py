"""Readers learn from the original: its characters in every column are the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from ocr_network import CHARACTERS, Reader, distance, texts
from ocr_words import Images
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

import l0func as l0

Tensors = dict[str, Tensor]
GATES_LR, WARMUP = 0.1, 20
CLASS = {character: number for number, character in enumerate(CHARACTERS, 1)}


class Lesson(NamedTuple):
    """Images of one width, the original's logits, and the words in classes, padded with 0."""

    images: Tensor
    logits: Tensor
    words: Tensor
    lengths: Tensor


class Lessons:
    """Batches of images. The same images stay together; every epoch has an order of its own."""

    def __init__(
        self, original: Reader, lists: Sequence[Images], seed: int, size: int, device: str
    ) -> None:
        self.original, self.device, self.key = original, device, l0.random.key(seed)
        self.batches: list[tuple[Images, Tensor]] = []
        for number, images in enumerate(lists):
            key = l0.random.fold_in(self.key, number)
            order = l0.random.uniform(key, len(images.said)).argsort()
            self.batches += [(images, rows) for rows in order.split(size) if len(rows) == size]
        self.known: dict[int, Lesson] = {}

    def lesson(self, step: int) -> Lesson:
        epoch, place = divmod(step, len(self.batches))
        key = l0.random.fold_in(self.key, 1000 + epoch)
        number = int(l0.random.uniform(key, len(self.batches)).argsort()[place])
        if number not in self.known:
            self.known[number] = self._answered(*self.batches[number])
        return self.known[number]

    @torch.no_grad()
    def _answered(self, images: Images, rows: Tensor) -> Lesson:
        inputs = images.inputs(rows, self.device)
        said = [images.said[row] for row in rows.tolist()]
        words = [torch.tensor([CLASS[letter] for letter in word]) for word in said]
        lengths = torch.tensor([len(word) for word in said])
        padded = pad_sequence(words, batch_first=True).to(self.device)
        return Lesson(inputs, self.original(inputs), padded, lengths.to(self.device))

    def examples(self, count: int) -> Tensor:
        """Images of the commonest width, for a fit."""
        most = max(self.batches, key=lambda batch: len(batch[0].said))[0]
        return most.inputs(slice(count), self.device)


def loss_of(logits: Tensor, lesson: Lesson) -> Tensor:
    """The error of the logits as a share of their variance, and CTC's loss for a column."""
    error = (logits - lesson.logits).square().mean() / lesson.logits.var()
    words, columns, _ = logits.shape
    length = torch.full_like(lesson.lengths, columns)
    log_p = logits.log_softmax(-1).transpose(0, 1)
    labels = F.ctc_loss(log_p, lesson.words, length, lesson.lengths, reduction="sum")
    return error + labels / (words * columns)


def trained(
    apply: Callable[..., Tensor],
    start: tuple[Tensors, Tensors, Tensors],
    lessons: Lessons,
    numbers: range,
    title: str,
    rate: float,
    control: l0.Lagrangian | None = None,
) -> l0.TrainState:
    """The state after some lessons."""

    def loss(params: Any, gates: Any, buffers: Any, key: Tensor, lesson: Lesson) -> Tensor:
        return loss_of(apply(params, gates, buffers, key, lesson.images), lesson)

    adams = [
        l0.optimizer(torch.optim.Adam, lr=partial(risen, rate, len(numbers)), fused=True),
        l0.optimizer(torch.optim.Adam, lr=GATES_LR, betas=(0.5, 0.95)),
    ]
    init, step = l0.training(loss, *adams, control=control, clip=l0.clip_norm(1.0), donate=True)
    key = l0.random.fold_in(lessons.key, 1 + numbers.start)
    state = init(key.to(lessons.device), *start)
    bar = tqdm(numbers, desc=title, unit="step", mininterval=1)
    for number in bar:
        state, value = step(state, lessons.lesson(number))
        if number % 20 == 0:
            bar.set_postfix(loss=f"{float(value):.3f}")
    return state


def risen(rate: float, steps: int, step: Tensor | int) -> float:
    """A learning rate that rises linearly, then falls to nothing along a cosine."""
    fall = l0.schedules.cosine(rate, rate / 50, steps)
    return min(1.0, (int(step) + 1) / WARMUP) * float(fall(step))


def tuned(reader: Reader, lessons: Lessons, numbers: range) -> Reader:
    """The reader after lessons without gates."""
    fn, params, buffers = l0.make_functional(reader)

    def apply(params: Any, gates: Any, buffers: Any, key: Tensor, images: Tensor) -> Tensor:
        return fn(params, buffers, images)

    state = trained(apply, (params, {}, buffers), lessons, numbers, "weights", 4e-4)
    return l0.to_module(fn, state.params, buffers)


@torch.inference_mode()
def character_error(reader: Reader, lists: Sequence[Images], device: str) -> float:
    """Edits per character, in per cent."""
    edits = length = 0
    for images in lists:
        for at in range(0, len(images.said), 64):
            rows = slice(at, at + 64)
            read = texts(reader(images.inputs(rows, device)))
            for found, said in zip(read, images.said[rows], strict=True):
                edits += distance(found, said)
                length += len(said)
    return 100 * edits / length
