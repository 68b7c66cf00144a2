"""Audit a network of your own on arrays of your own, and keep the report.

Run it: python examples/audit_your_own_model.py [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import pellucid
from pellucid.core import Stream
from pellucid.data import synthetic_images

# Your images, as floats in [0, 1] of shape (N, C, H, W), and labels 0 ... K-1.
train = synthetic_images(600, rng=Stream(0).child("train"))
test = synthetic_images(80, rng=Stream(0).child("test"))

# Your network: any nn.Module that maps images to logits (N, K).
with Stream(0).child("weights").forked():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(len(train.class_names)))
    model(train.inputs[:1])
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(60):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(train.inputs), train.labels).backward()
    optimizer.step()

subject = pellucid.Subject(
    model, test.inputs, test.labels, class_names=test.class_names, name="my network", data_name="my images"
)
report = pellucid.audit(subject, budget=60_000, seed=0, quick=True)
for finding in report.findings:
    print(f"{finding.level:6}  {finding.answer}")
for skipped in report.skipped:
    print(f"skipped {skipped.probe}: {skipped.reason}")

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own-model")
report.save(out)
print(f"report: {out / 'index.html'}")
