"""Linear layers round the same whether their weights require gradients or not."""

import pytest
import torch
from torch import nn

import vqaudio
from vqaudio.nn.linear import Linear


def test_rounding_does_not_depend_on_gradients_or_strides() -> None:
    layer, x = Linear(5, 6), torch.randn(2, 5, 40).mT[:, 3:5]  # (2, 2, 5), not contiguous
    with torch.no_grad():
        found = [layer.requires_grad_(value)(each) for value in (False, True) for each in (x, x.contiguous())]
    assert all(torch.equal(each, found[0]) for each in found)


@pytest.mark.parametrize("name", ["mini", "units"])
def test_every_linear_layer_of_a_model_is_one_of_these(name) -> None:
    layers = [module for module in vqaudio.load_model(name).modules() if isinstance(module, nn.Linear)]
    assert len(layers) > 20 and {type(layer) for layer in layers} == {Linear}
