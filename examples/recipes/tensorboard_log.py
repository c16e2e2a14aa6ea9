"""TensorBoard: the loss, the expected size, every gate. pip install tensorboard."""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

import l0func as l0

torch.manual_seed(0)
x = torch.randn(256, 16)
y = x[:, :4].argmax(1)
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
net = l0.L0Module(model, lam=1e-3, groups=l0.unit_groups(model, x[:2]), seed=0)
adam = torch.optim.Adam(net.parameters(), lr=0.05)
folder = tempfile.mkdtemp()
with SummaryWriter(folder) as writer:
    for step in range(20):
        loss = F.cross_entropy(net(x), y) + net.regularization()
        adam.zero_grad()
        loss.backward()
        adam.step()
        writer.add_scalar("loss", loss, step)
        writer.add_scalar("expected parameters", net.count_l0(), step)
        for name, log_alpha in net.gates().items():
            writer.add_histogram(f"log_alpha/{name}", log_alpha, step)
assert next(Path(folder).iterdir()).stat().st_size > 0
