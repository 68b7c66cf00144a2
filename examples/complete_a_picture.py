"""Complete a real picture of which half of the pixels are known, by restarted accelerated descent."""

# needs: skimage
import torch
from skimage.data import camera
from skimage.transform import resize

from pellucid.core import Stream
from pellucid.optim import Completion, RestartedAGD, minimize

picture = torch.as_tensor(resize(camera(), (96, 96), anti_aliasing=True))
rows, columns = (Stream(0).uniform((96, 96)) < 0.5).nonzero().T
known = Completion(rows, columns, picture[rows, columns], (96, 96), rank=5)

# The front door: picks the step, counts gradients, and says which method serves better.
found = minimize(known, known.start(), tol=1e-4, max_gradients=600)
u, v = found.x
print(found.message)
print(f"root mean square error over all pixels: {float((u @ v.T - picture).square().mean().sqrt()):.3f}")

# The optimizer itself, in a loop of one's own.
factors = [torch.nn.Parameter(factor) for factor in known.start()]
optimizer = RestartedAGD(factors, lr=12.0)


def closure() -> torch.Tensor:
    """Take loss and gradient over all known pixels."""
    optimizer.zero_grad()
    loss = known((factors[0], factors[1]))
    loss.backward()
    return loss


for _ in range(300):
    optimizer.step(closure)
optimizer.finish()
status = optimizer.status
print(
    f"after {status.evaluations} gradients: loss {status.loss:.6f}, gradient norm {status.grad_norm:.2e}, "
    f"{status.restarts} restarts, {status.rejections} epochs undone, step {status.lr:g}"
)
