"""A plain loop: gates on hidden units, then a smaller module. pip install scikit-learn."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import l0func as l0

torch.manual_seed(0)
X, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
X = X.float() / 16
model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
net = l0.L0Module(model, lam=1e-4, groups=l0.unit_groups(model, X[:2]), seed=0)
weights, gates = net.weights().values(), net.gates().values()
adam = torch.optim.Adam([{"params": weights, "lr": 5e-3}, {"params": gates, "lr": 0.1}])
for _ in range(300):
    rows = torch.randint(1400, (64,))
    loss = F.cross_entropy(net(X[rows]), y[rows]) + net.regularization()
    adam.zero_grad()
    loss.backward()
    adam.step()
small = net.eval().compacted(example_inputs=X[:2])
right = small(X[1400:]).argmax(1) == y[1400:]
print(f"{small[0].out_features} of 100 hidden units, {right.float().mean():.1%} of unseen digits")
assert small[0].out_features < 100
assert right.float().mean() > 0.85
