"""peft: gates on ranks, so that adapters find their own. pip install transformers peft."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import l0func as l0

torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
config = LlamaConfig(vocab_size=64, num_attention_heads=4, num_key_value_heads=2, **sizes)
targets = {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
lora = LoraConfig(task_type="CAUSAL_LM", r=8, **targets)
model = get_peft_model(LlamaForCausalLM(config), lora).eval()
ids = torch.randint(3, 64, (8, 6))
examples = {"input_ids": ids[:2], "use_cache": False}
found = l0.unit_groups(model, **examples)
ranks = {name: group for name, group in found.items() if "lora" in name}
net = l0.L0Module(model, lam=1e-3, groups=ranks, seed=0)
weights = [p for p in net.weights().values() if p.requires_grad]
gates = {"params": net.gates().values(), "lr": 0.5}
adam = torch.optim.Adam([{"params": weights}, gates], lr=1e-3)
for _ in range(10):
    loss = net(ids, labels=ids).loss + net.regularization()
    adam.zero_grad()
    loss.backward()
    adam.step()
small = net.eval().compacted(example_inputs=examples, empty="constant")
print({name: tuple(p.shape) for name, p in small.named_parameters() if "lora_A" in name})
assert torch.allclose(small(**examples).logits, net(**examples).logits, atol=1e-4)
