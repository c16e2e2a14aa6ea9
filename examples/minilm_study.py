"""The study behind minilm.py: the encoder, its teacher's lessons, and one training."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import minilm_encoder as encoder
import torch
from minilm_encoder import Lesson, Network, Tensors
from minilm_settings import Settings
from minilm_text import sentences
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0

QUICK_SENTENCES = 64


class Study:
    """The encoder with its sentences; the teacher has seen all of them."""

    def __init__(self, options: argparse.Namespace, settings: Settings, seed: int) -> None:
        self.settings, self.key = settings, l0.random.key(seed)
        self.dense, self.tokens = encoder.load(
            encoder.weights_folder(options.weights), options.device
        )
        text = sentences(options.text, every=8 if options.quick else 1)
        train = text["train"][: QUICK_SENTENCES if options.quick else None]
        order_key, fit_key = l0.random.split(l0.random.fold_in(self.key, 0), 2)
        batches = encoder.batched(train, settings.batch, self.tokens, order_key)
        order = l0.random.uniform(fit_key, len(batches)).argsort().tolist()
        self.lessons = encoder.lessons(self.dense, [batches[i] for i in order])
        self.bank = torch.cat([lesson.embedding for lesson in self.lessons])[::8]
        offset = seed * settings.fitted % max(1, len(train) - settings.fitted)
        self.examples = self.tokens(train[offset : offset + settings.fitted])
        self.held_out: dict[str, tuple[list[Tensors], Tensor]] = {}
        for part in ("validation", "test"):
            rows = text[part]
            own = [self.tokens(rows[at : at + 100]) for at in range(0, len(rows), 100)]
            self.held_out[part] = own, encoder.embeddings(self.dense, own)
        self.timed = self.tokens(text["test"][:32])
        self.two = self.tokens(text["test"][:2])
        self.macs = self.counts(self.dense).total
        self.seen = 0

    def counts(self, network: Network) -> l0.MacCounts:
        return l0.count_macs(*network, **self.timed)

    def quality(self, network: Network, part: str = "test") -> float:
        """The rank correlation with the teacher on sentences that were not trained on."""
        batches, wanted = self.held_out[part]
        return encoder.spearman(encoder.embeddings(network, batches), wanted)

    def imitation(self, result: Any, lesson: Lesson) -> Tensor:
        """How far hidden states, embeddings and similarities are from the teacher's."""
        mask = lesson.tokens["attention_mask"]
        hidden = torch.stack([result.hidden_states[i] for i in encoder.LAYERS]).float()
        wanted, weight = lesson.hidden.float(), mask[..., None].float()
        error = ((hidden - wanted).square() * weight).sum((1, 2, 3))
        states = (error / (wanted.square() * weight).sum((1, 2, 3))).mean()
        mine, its = encoder.pooled(hidden[-1], mask), lesson.embedding
        cosine = 1 - (mine * its).sum(1).mean()
        pairs = F.mse_loss(mine @ mine.T, its @ its.T)
        others = F.mse_loss(mine @ self.bank.T, its @ self.bank.T)
        return states + cosine + 10 * (pairs + others)

    def train(
        self, apply: Callable, start: Any, rates: tuple[float, int], title: str, control: Any
    ) -> l0.TrainState:
        """The state after the last step; batches go on where the last training stopped."""

        def loss(
            params: Tensors, gates: Tensors, buffers: Tensors, key: Tensor, lesson: Lesson
        ) -> Tensor:
            with encoder.half(lesson.embedding.device):
                result = apply(params, gates, buffers, key, lesson.tokens)
            return self.imitation(result, lesson)

        rate, steps = rates
        weights = l0.optimizer(
            torch.optim.Adam, lr=partial(risen, rate, steps, self.settings.warmup), fused=True
        )
        locations = l0.optimizer(torch.optim.Adam, lr=self.settings.gates_lr, betas=(0.5, 0.95))
        init, step = l0.training(
            loss, weights, locations, control=control, trainable=["encoder.*"], donate=True
        )
        key = l0.random.fold_in(self.key, 1 + self.seen)
        state = init(key.to(self.bank.device), *start)
        for _ in tqdm(range(steps), desc=title, unit="step"):
            state, _ = step(state, self.lessons[self.seen % len(self.lessons)])
            self.seen += 1
        return state

    def distilled(self, net: Network, steps: int) -> Network:
        """The network after steps without gates."""

        def apply(
            params: Tensors, gates: Tensors, buffers: Tensors, key: Tensor, x: Tensors
        ) -> Any:
            return net.fn(params, buffers, **x, output_hidden_states=True)

        rates, start = (self.settings.lr, steps), (net.params, {}, net.buffers)
        return net._replace(params=self.train(apply, start, rates, "weights", None).params)


def risen(rate: float, steps: int, warmup: int, step: Tensor | int) -> float:
    """A learning rate that rises linearly, then falls to nothing along a cosine."""
    fall = l0.schedules.cosine(rate, rate / 50, steps)
    return min(1.0, (int(step) + 1) / warmup) * float(fall(step))
