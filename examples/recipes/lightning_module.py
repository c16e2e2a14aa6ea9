"""Lightning: an L0Module in a LightningModule, no more. pip install lightning."""

import lightning
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import l0func as l0


class Classifier(lightning.LightningModule):
    def __init__(self, module: nn.Module, groups: l0.UnitGroups) -> None:
        super().__init__()
        self.net = l0.L0Module(module, lam=1e-4, groups=groups, seed=0)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1]) + self.net.regularization()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.net.parameters(), lr=0.03)


x = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
mlp = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
model, data = Classifier(mlp, l0.unit_groups(mlp, x[:2])), TensorDataset(x, x[:, :4].argmax(1))
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
lightning.Trainer(max_epochs=2, accelerator="cpu", **quiet).fit(model, DataLoader(data, 32))
assert model.net.draws == 16
