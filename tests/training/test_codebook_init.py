"""First values are for codebooks that have none."""

import copy

import torch

from vqaudio import SpeechVQVAE
from vqaudio.training.codebook_init import initialise_codebooks


def test_a_trained_codebook_keeps_its_values(tiny_model: SpeechVQVAE) -> None:
    model = copy.deepcopy(tiny_model).train()
    before = {name: value.clone() for name, value in model.get_submodule("quantizer").state_dict().items()}

    class NoBatches:
        seconds_per_step = 0.0

        def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, torch.Tensor]:
            raise AssertionError("no batch is needed")

    initialise_codebooks(model, NoBatches(), None, 4)  # pyright: ignore[reportArgumentType]
    after = model.get_submodule("quantizer").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
