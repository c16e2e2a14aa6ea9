"""Networks that are compacted, saved, and loaded in another process by ``l0.resize_to``.

``python full_sized.py folder`` is that process: it builds each network in its full size, gives it
the saved state, and writes its output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import l0func as l0

TOKENS = (torch.arange(12).reshape(2, 6) * 7) % 50


class Residual(nn.Module):
    """A residual block with BatchNorm, as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(h))
        out += x
        return out.relu()


class Recurrent(nn.Module):
    """A recurrent layer in two directions and two layers, and a head."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cell = kind(5, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


class Tied(nn.Module):
    """An embedding that is its own readout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(50, 8), nn.Linear(8, 12)
        self.back, self.readout = nn.Linear(12, 8), nn.Linear(8, 50, bias=False)
        self.readout.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.back(self.inner(self.embedding(tokens)).relu()))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.GroupNorm(4, 8),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
    )


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)


def transformer(kind: str) -> nn.Module:
    import transformers as hf

    sizes: dict[str, Any] = dict(vocab_size=50, num_hidden_layers=2, hidden_size=32)
    common = dict(num_attention_heads=4, intermediate_size=48, max_position_embeddings=40, **sizes)
    ends = dict(bos_token_id=1, eos_token_id=2)
    if kind == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=2, **common))
    if kind == "bert":
        return hf.BertModel(hf.BertConfig(**common))
    if kind == "phi3":
        config = hf.Phi3Config(num_key_value_heads=2, pad_token_id=0, **ends, **common)
        return hf.Phi3ForCausalLM(config)
    if kind == "gpt2":
        config = hf.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_positions=40, vocab_size=50, **ends
        )
        return hf.GPT2LMHeadModel(config)
    heads = dict(num_layers=2, num_heads=4)
    return hf.T5ForConditionalGeneration(
        hf.T5Config(d_model=32, d_kv=8, d_ff=48, vocab_size=50, **heads)
    )


PLAIN: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3)),
    "cnn": cnn,
    "resnet": lambda: nn.Sequential(nn.Conv2d(3, 6, 1), Residual(), Residual()),
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "encoder": encoder,
    "tied": Tied,
}
TRANSFORMERS = ("llama", "bert", "gpt2", "t5", "phi3")


def built(name: str) -> nn.Module:
    module = PLAIN[name]() if name in PLAIN else transformer(name)
    return module.eval()


def inputs_of(name: str) -> dict[str, Any]:
    torch.manual_seed(3)
    if name == "tied":
        return {"tokens": TOKENS}
    if name in TRANSFORMERS:
        given: dict[str, Any] = {"input_ids": TOKENS, "return_dict": False}
        given |= {"decoder_input_ids": TOKENS} if name == "t5" else {}
        return given | ({} if name == "bert" else {"use_cache": False})
    if name in ("cnn", "resnet"):
        size = 6 if name == "cnn" else 5
        argument = "input"
        return {argument: torch.randn(2, 3, size, size)}
    if name == "encoder":
        return {"src": torch.randn(2, 5, 16)}
    if name == "mlp":
        return {"input": torch.randn(4, 5)}
    return {"x": torch.randn(2, 4, 5)}


def output_of(module: nn.Module, name: str) -> Tensor:
    """The module's first output, without a graph, so that encoders may take their fast road."""
    with torch.no_grad():
        output = module(**inputs_of(name))
    return output if isinstance(output, Tensor) else output[0]


WAYS = ("state dict", "l0.save", "save_pretrained")


def state_in(folder: Path, name: str, way: str) -> dict[str, Tensor]:
    """The state that was saved in one of three ways."""
    from safetensors.torch import load_file

    if way == "state dict":
        return torch.load(folder / f"{name}.pt", weights_only=True)
    if way == "l0.save":
        saved = l0.load(folder / f"{name}.l0")
        return {**saved.params, **saved.buffers}
    return load_file(folder / name / "model.safetensors")


def load_all(folder: Path) -> None:
    """Load every saved network in every way, and write the outputs."""
    outputs: dict[tuple[str, str], Tensor] = {}
    for name, way in json.loads((folder / "saved.json").read_text()):
        torch.manual_seed(17)
        module = l0.resize_to(built(name), state_in(folder, name, way))
        outputs[name, way] = output_of(module, name).clone()
    torch.save(outputs, folder / "outputs.pt")


if __name__ == "__main__":
    load_all(Path(sys.argv[1]))
