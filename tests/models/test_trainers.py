"""L0Module under Hugging Face Trainer and accelerate: columns, checkpoints, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sampled import one_in, sampled
from tiny_models import build, inputs_of, tokens, transformers
from torch import Tensor

import l0func as l0

accelerate: Any = pytest.importorskip("accelerate")
# The libraries talk about themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


def dataset(name: str) -> list[dict[str, Any]]:
    """Rows with a column that no forward takes."""
    rows = torch.cat([tokens(seed=seed) for seed in range(8)])
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        labels = row.clone() if name == "GPT-2" else number % 2
        mask = torch.ones_like(row)
        mask[row.shape[0] - number % 3 :] = 0
        found.append({"input_ids": row, "attention_mask": mask, "labels": labels, "text": "a"})
    return found


class WithPenalty(transformers.Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **k: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **k)
        loss = loss + self.accelerator.unwrap_model(model).regularization()
        return (loss, outputs) if return_outputs else loss


def train(name: str, folder: Path, steps: int, resume: Any = None, **settings: Any) -> Any:
    net = l0.L0Module(build(name, use_cache=False), lam=1e-4, seed=0)
    sizes = {"per_device_train_batch_size": 4, "save_steps": 2, "max_steps": steps}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    own = {"learning_rate": 0.01, "label_names": ["labels"], **sizes, **quiet, **settings}
    args = transformers.TrainingArguments(str(folder), **own)
    trainer = WithPenalty(net, args, train_dataset=dataset(name), eval_dataset=dataset(name)[:4])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bfloat16": {"bf16": True},
    "accumulated": {"gradient_accumulation_steps": 2},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize(
    ("name", "own"),
    sampled(
        [*[pytest.param("BERT", own) for own in SETTINGS], pytest.param("GPT-2", "accumulated")],
        one_in(3),
    ),
)
def test_a_training_resumes_bit_for_bit(name: str, own: str, tmp_path: Path):
    settings = SETTINGS[own]
    whole = train(name, tmp_path / "a", 4, **settings)
    first = tmp_path / "a" / "checkpoint-2"
    resumed = train(name, tmp_path / "b", 4, resume=str(first), **settings)
    assert resumed.model.draws == whole.model.draws > 0
    expected = whole.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert whole.evaluate()["eval_loss"] == resumed.evaluate()["eval_loss"]


def test_gradient_checkpointing_changes_no_bit_of_a_training(tmp_path: Path):
    plain = train("BERT", tmp_path / "a", 2).model.state_dict()
    again = train("BERT", tmp_path / "b", 2, gradient_checkpointing=True).model
    assert again.module.bert.encoder.layer[0].gradient_checkpointing
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, plain[key])


def test_a_trainer_keeps_the_columns_that_the_wrapped_module_takes(tmp_path: Path):
    net = l0.L0Module(build("BERT"), lam=1e-4, seed=0)
    args = transformers.TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    trainer = transformers.Trainer(net, args, train_dataset=dataset("BERT"))
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_accelerate_saves_and_continues_a_module_with_tied_weights(tmp_path: Path):
    accelerator = accelerate.Accelerator(cpu=True)
    net = l0.L0Module(build("GPT-2"), lam=1e-4, seed=0)
    inputs = inputs_of("GPT-2")
    prepared, adam = accelerator.prepare(net, torch.optim.Adam(net.parameters(), lr=0.01))

    def step() -> dict[str, Tensor]:
        loss = prepared(**inputs, labels=inputs["input_ids"]).loss
        accelerator.backward(loss + accelerator.unwrap_model(prepared).regularization())
        adam.step()
        adam.zero_grad()
        return {name: value.clone() for name, value in net.state_dict().items()}

    saved = step()
    accelerator.save_state(str(tmp_path / "state"))
    accelerator.save_model(prepared, str(tmp_path / "model"))
    expected = step()
    accelerator.load_state(str(tmp_path / "state"))
    assert all(torch.equal(net.state_dict()[name], value) for name, value in saved.items())
    again = step()
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    other = l0.L0Module(build("GPT-2"), lam=1e-4, seed=3)
    accelerate.load_checkpoint_in_model(other, str(tmp_path / "model"))
    assert all(torch.equal(other.state_dict()[name], value) for name, value in saved.items())
