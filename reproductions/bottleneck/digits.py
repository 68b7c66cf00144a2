"""The reference network of the method on scikit-learn's digits: its 4 x 100 perceptron, as a torch model."""

import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

TRAINING = 1500


def digits_network(seed: int) -> tuple[nn.Module, Tensor, Tensor, float]:
    """Return the network, all images `(1797, 1, 8, 8)` in [0, 1], labels, and the accuracy on what it was not shown."""
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float64)[:, None] / 16, torch.tensor(data.target)
    fitted = MLPClassifier((100,) * 4, random_state=seed).fit(x[:TRAINING].flatten(1).numpy(), y[:TRAINING].numpy())
    layers: list[nn.Module] = [nn.Flatten()]
    for weight, bias in zip(fitted.coefs_, fitted.intercepts_, strict=True):
        linear = nn.Linear(*weight.shape, dtype=torch.float64)
        linear.weight.data, linear.bias.data = torch.tensor(weight.T), torch.tensor(bias)
        layers += [linear, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        right = model(x[TRAINING:]).argmax(1) == y[TRAINING:]
    return model, x, y, float(right.double().mean())
