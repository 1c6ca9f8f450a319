"""Codebook initialisation is for codebooks that are not initialised."""

import copy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.nn.fsq import FSQConfig
from vqaudio.training.codebook_init import initialise_codebooks, initialised_from_data


@pytest.mark.parametrize("kind", ["trained", "fsq"])
def test_what_is_initialised_keeps_its_values_and_needs_no_batch(tiny_model: SpeechVQVAE, kind: str) -> None:
    trained, fsq = copy.deepcopy(tiny_model), replace(tiny_model.cfg, quantizer=FSQConfig(levels=(3, 3), dim=4))
    model = (trained if kind == "trained" else SpeechVQVAE(fsq)).train()
    assert [module is model.quantizer for module in initialised_from_data(model)] == [True]
    before = {name: value.clone() for name, value in model.get_submodule("quantizer").state_dict().items()}

    class NoBatches:
        seconds_per_step = 0.0

        def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, torch.Tensor]:
            raise AssertionError("no batch is needed")

    initialise_codebooks(model, NoBatches(), None, 4)  # pyright: ignore[reportArgumentType]
    after = model.get_submodule("quantizer").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_quantizer_that_the_model_does_not_call_is_named(tiny_config: SpeechVQVAEConfig) -> None:
    class Silent(SpeechVQVAE):
        def forward(self, **batch: torch.Tensor) -> None: ...

    class OneBatch:
        seconds_per_step = 0.0

        def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, torch.Tensor]:
            return {"wav": torch.zeros(1)}

    with pytest.raises(RuntimeError, match="VectorQuantizer was not called in the first batches"):
        initialise_codebooks(Silent(tiny_config), OneBatch(), Accelerator(cpu=True), 1)
