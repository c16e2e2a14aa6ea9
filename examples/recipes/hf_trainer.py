"""Trainer: gates on heads, with checkpoints. pip install transformers accelerate."""

import tempfile
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import l0func as l0


class L0Trainer(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **k: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **k)
        loss = loss + self.accelerator.unwrap_model(model).regularization()
        return (loss, outputs) if return_outputs else loss


ids = torch.randint(3, 64, (64, 8), generator=torch.Generator().manual_seed(0))
data = [{"input_ids": row, "labels": int(row[0]) % 2} for row in ids]
config = BertConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
config.num_attention_heads, examples = 4, {"input_ids": ids[:2]}
bert = BertForSequenceClassification(config)
net = l0.L0Module(bert, lam=1e-3, groups=l0.unit_groups(bert.eval(), examples), seed=0)
net.accepts_loss_kwargs = False  # The loss is a mean: Trainer divides it when it accumulates.
settings = {"label_names": ["labels"], "use_cpu": True, "report_to": "none", "save_steps": 5}
args = TrainingArguments(tempfile.mkdtemp(), max_steps=10, learning_rate=0.03, **settings)
L0Trainer(net, args, train_dataset=data, eval_dataset=data).train()
small = net.eval().compacted(example_inputs=examples)  # A BertForSequenceClassification.
assert torch.allclose(small(**examples).logits, net(**examples).logits, atol=1e-4)
