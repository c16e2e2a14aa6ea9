"""Networks of transformers in tiny sizes, with fixed weights and a tokenizer's inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from device import seeded_generator
from torch import Tensor, nn

transformers: Any = pytest.importorskip("transformers")

VOCABULARY = 64
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4}
COMMON = {"vocab_size": VOCABULARY, **LAYERS}
BOTH = {**COMMON, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 64}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {**BOTH, **ENDS, "num_key_value_heads": 2}
HEADS = {"head_dim": 8, "query_pre_attn_scalar": 8}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2}
FFN = {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
SIDES = {"encoder_layers": 2, "decoder_layers": 2, **FFN}
PAIR = {**SIDES, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 32}
STARTS = {**ENDS, "decoder_start_token_id": 2}
MELS = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32}

# For each network its class, its config's class and the config's settings.
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", "LlamaConfig", DECODER),
    "Mistral": ("MistralForCausalLM", "MistralConfig", DECODER),
    "Qwen2": ("Qwen2ForCausalLM", "Qwen2Config", DECODER),
    "Qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, "head_dim": 8}),
    "Gemma 2": ("Gemma2ForCausalLM", "Gemma2Config", DECODER | HEADS),
    "Gemma 3": ("Gemma3ForCausalLM", "Gemma3TextConfig", DECODER | HEADS),
    "Phi-3": ("Phi3ForCausalLM", "Phi3Config", DECODER),
    "GPT-2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, **ENDS},
    ),
    "OPT": (
        "OPTForCausalLM",
        "OPTConfig",
        {**COMMON, **ENDS, "hidden_size": 32, "ffn_dim": 48, "word_embed_proj_dim": 32},
    ),
    "GPT-NeoX": ("GPTNeoXForCausalLM", "GPTNeoXConfig", BOTH | ENDS),
    "Falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {**BOTH, **ENDS, "multi_query": False, "alibi": False},
    ),
    "grouped Falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {**BOTH, **ENDS, "new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    ),
    "BERT": ("BertForSequenceClassification", "BertConfig", BOTH),
    "MiniLM": ("BertModel", "BertConfig", BOTH),
    "DistilBERT": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    ),
    "DeBERTa": ("DebertaForSequenceClassification", "DebertaConfig", BOTH | DEBERTA),
    "DeBERTa v2": ("DebertaV2ForSequenceClassification", "DebertaV2Config", BOTH | DEBERTA),
    "T5's encoder": ("T5EncoderModel", "T5Config", {**T5, "num_heads": 4}),
    "T5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, "num_heads": 4, "decoder_start_token_id": 0},
    ),
    "BART": (
        "BartForConditionalGeneration",
        "BartConfig",
        {"vocab_size": VOCABULARY, "max_position_embeddings": 64, **PAIR, **STARTS},
    ),
    "Whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {"vocab_size": VOCABULARY, **MELS, **PAIR, **STARTS},
    ),
    "ViT": (
        "ViTForImageClassification",
        "ViTConfig",
        {**LAYERS, "hidden_size": 32, "intermediate_size": 48, "image_size": 16, "patch_size": 8},
    ),
}
LANGUAGE = [name for name, (kind, _, _) in NETWORKS.items() if "LM" in kind]
PAIRS = ["T5", "BART", "Whisper"]


def build(name: str, **settings: Any) -> Any:
    """A network in eval mode; its weights are the same in every call."""
    kind, config, own = NETWORKS[name]
    torch.manual_seed(0)
    made = getattr(transformers, config)(**own, **settings)
    if name == "Whisper":
        made.suppress_tokens = made.begin_suppress_tokens = None
    net: nn.Module = getattr(transformers, kind)(made)
    return net.eval()


def tokens(length: int = 6, seed: int = 0) -> Tensor:
    """Three sequences of token numbers."""
    generator = seeded_generator(seed)
    return torch.randint(3, VOCABULARY, (3, length), generator=generator)


def padding(name: str) -> Tensor:
    """A mask for three sequences: the first is whole, and a language model pads on the left."""
    mask = torch.ones(3, 6, dtype=torch.long)
    if name in LANGUAGE:
        mask[1, :2] = mask[2, :1] = 0
    else:
        mask[1, -2:] = mask[2, -1:] = 0
    return mask


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded_generator(1))


def inputs_of(name: str) -> dict[str, Tensor]:
    """The inputs as a tokenizer gives them, with padding."""
    if name == "ViT":
        return {"pixel_values": noise(3, 3, 16, 16)}
    if name == "Whisper":
        return {"input_features": noise(3, 8, 32), "decoder_input_ids": tokens(5)}
    own = {"input_ids": tokens(), "attention_mask": padding(name)}
    return own | {"decoder_input_ids": tokens(5, seed=3)} if name in PAIRS else own


def row_of(inputs: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """One row of all inputs, as a batch of one."""
    return {name: x[number : number + 1] for name, x in inputs.items()}


def tensors_in(output: Any, place: str = "") -> dict[str, Tensor]:
    """The tensors of an output by their places; it knows the outputs of transformers alone."""
    if isinstance(output, Tensor):
        return {place: output}
    found: dict[str, Tensor] = {}
    for name, child in children_of(output):
        found |= tensors_in(child, f"{place}.{name}")
    return found


def children_of(output: Any) -> Any:
    if isinstance(output, dict):
        return output.items()
    if isinstance(output, list | tuple):
        return enumerate(output)
    if isinstance(output, transformers.EncoderDecoderCache):
        return [("own", output.self_attention_cache), ("cross", output.cross_attention_cache)]
    if isinstance(output, transformers.Cache):
        return [(str(i), (layer.keys, layer.values)) for i, layer in enumerate(output.layers)]
    return []


def assert_same(ours: Any, other: Any, cut: Callable[[Tensor], Tensor] = lambda x: x) -> None:
    """Compare all tensors in two outputs, at least one."""
    named, expected = tensors_in(ours), tensors_in(other)
    assert named.keys() == expected.keys()
    assert named
    for place, tensor in expected.items():
        torch.testing.assert_close(cut(named[place]), tensor, atol=1e-4, rtol=1e-3, msg=place)
