"""accelerate: bfloat16, accumulated gradients, a saved state. pip install accelerate."""

import tempfile

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import l0func as l0

torch.manual_seed(0)
x = torch.randn(256, 16)
data = DataLoader(TensorDataset(x, x[:, :4].argmax(1)), batch_size=16)
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
net = l0.L0Module(model, lam=1e-4, groups=l0.unit_groups(model, x[:2]), seed=0)
accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
net, adam, data = accelerator.prepare(net, torch.optim.Adam(net.parameters(), lr=0.01), data)
for inputs, labels in data:
    with accelerator.accumulate(net):
        loss = F.cross_entropy(net(inputs), labels)
        accelerator.backward(loss + accelerator.unwrap_model(net).regularization())
        adam.step()
        adam.zero_grad()
folder = tempfile.mkdtemp()
accelerator.save_state(folder)
accelerator.load_state(folder)
assert accelerator.unwrap_model(net).draws == len(data)
