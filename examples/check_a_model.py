"""Hold a model against requirements: which are met, by which number, and how sure is that?

    python examples/check_a_model.py

The same rules work on the command line:

    pellucid check fashion-standard fashion-mnist --requirements examples/pellucid.toml
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import pellucid
from pellucid.reports import junit, markdown


def subject() -> pellucid.Subject:
    """A small network, trained for a second to tell bright columns apart."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 4
    images = 0.4 * torch.rand(200, 1, 12, 12)
    for image, label in zip(images, labels, strict=True):
        image[0, :, 3 * int(label) : 3 * int(label) + 3] += 0.5
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return pellucid.Subject(model, images, labels, name="columns", data_name="bright columns")


def main() -> None:
    """Check three requirements and write what a build server reads."""
    rules = ["accuracy >= 95%", "robust_accuracy[linf,8/255] >= 0.8", "robust_accuracy[linf,0.5] >= 0.8"]
    check = pellucid.check(subject(), rules, budget=60_000, quick=True)
    print(check)
    folder = Path(tempfile.mkdtemp())
    (folder / "check.xml").write_text(junit(check), encoding="utf-8")
    (folder / "check.md").write_text(markdown(check), encoding="utf-8")
    print(f"\nfor a build server: {folder / 'check.xml'}, for a pull request: {folder / 'check.md'}")
    print("gate:", "open" if check.passed else "closed")


if __name__ == "__main__":
    main()
