"""The teacher of conversions: mean spectra by hand, what is learned from it, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, save_model
from vqaudio.checkpoint import ModelError
from vqaudio.data.packed import PackedSpeech
from vqaudio.nn.log_mel import STD_DB
from vqaudio.speech import conversion_teacher
from vqaudio.speech.acoustic import other_speakers, quantized_vectors
from vqaudio.speech.conversion_teacher import (
    LOUD_DB,
    MAX_SPEAKERS,
    ConversionTeacher,
    initialise_conversion_teacher,
    mean_spectrum,
)
from vqaudio.speech.init_from import init_from
from vqaudio.speech.losses import conversion_loss

SAMPLES = 3200
WEIGHT = 3.0


@pytest.fixture(scope="module")
def model(spectrum_config: SpeechVQVAEConfig, initialised: Callable[..., SpeechVQVAE], randomise) -> SpeechVQVAE:
    """Of stage: context, with a loss of conversions."""
    cfg = replace(spectrum_config, stage="context", vocoder="griffin-lim", conversion_loss_weight=WEIGHT)
    made = SpeechVQVAE(cfg)
    made.load_state_dict(initialised(spectrum_config, samples=SAMPLES).state_dict())
    for seed, part in enumerate((made.context, made.spectrum, made.decoder.speaker)):
        randomise(part, seed=seed)
    return made


def noise(seed: int, samples: int = SAMPLES) -> Tensor:
    wav = torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1
    return torch.cat([wav[:1], wav[1:] - 0.3 * (seed % 3) * wav[:-1]])  # the three speakers differ in their spectra


@pytest.fixture(scope="module")
def speech(model: SpeechVQVAE) -> PackedSpeech:
    """Four utterances of each speaker, as far apart as they can be."""
    wavs, ids = [noise(seed, SAMPLES + 80 * seed) for seed in range(12)], np.arange(12) % 3
    pcm, lengths = torch.cat(wavs).mul(32767).short().numpy(), np.array([len(wav) for wav in wavs])
    names = tuple(map(str, range(12)))
    return PackedSpeech(16000, model.speakers, names, np.append(0, lengths.cumsum()[:-1]), lengths, ids, pcm, "")


@pytest.fixture
def learner(model: SpeechVQVAE, speech: PackedSpeech) -> SpeechVQVAE:
    made = SpeechVQVAE(model.cfg)
    made.load_state_dict(model.state_dict())
    initialise_conversion_teacher(made, speech)
    return made.train()


def teacher_of(learner: SpeechVQVAE) -> ConversionTeacher:
    (teacher,) = learner.conversion_teacher
    assert isinstance(teacher, ConversionTeacher)
    return teacher


def batch_of(rows: int = 3) -> dict[str, Tensor]:
    wav = torch.stack([noise(20 + i) for i in range(rows)])
    target = torch.zeros(wav.shape, dtype=torch.long)
    lengths = torch.full((rows,), SAMPLES)
    return {"wav": wav[:, None], "target": target, "audio": wav, "speaker": torch.arange(rows) % 3, "lengths": lengths}


def test_mean_spectrum_is_that_of_loud_frames() -> None:
    spectrum = torch.tensor(
        [[0.0, 1.0], [2.0, 5.0], [5.0 - LOUD_DB / STD_DB + 0.01, 0.0], [-9.0, 4.9 - LOUD_DB / STD_DB]]
    )
    loud = (spectrum[1] + spectrum[2]) / 2 if float(spectrum[0].max()) < 5 - LOUD_DB / STD_DB else None
    assert loud is not None
    torch.testing.assert_close(mean_spectrum(spectrum), loud - loud.mean())
    torch.testing.assert_close(mean_spectrum(spectrum + 3), mean_spectrum(spectrum))  # a level is no timbre


def test_conversions_of_the_measured_speech_have_the_mean_spectra_of_their_targets(
    learner: SpeechVQVAE, speech: PackedSpeech
) -> None:
    teacher = teacher_of(learner)
    wavs = [torch.from_numpy(speech.audio(i).astype(np.float32) / 32768) for i in range(12)]
    assert learner.spectrum is not None
    count = learner.hop // learner.cfg.spectrum.hop_length  # spectra per code
    true = [learner.spectrum.log_mel.centred(wav[None], -(-len(wav) // learner.hop) * count)[0] for wav in wavs]
    for source in range(3):
        for target in range(3):
            means = []
            for wav in wavs[source::3]:
                codes = quantized_vectors(learner, wav[None, None])
                said = teacher(codes, torch.tensor([source]), torch.tensor([target]))[0]
                plain = learner.predict_spectrum(learner.eval().tokenize(wav), learner.speakers[target])
                torch.testing.assert_close(said, plain + teacher.offsets[source, target], rtol=1e-4, atol=1e-5)
                means.append(mean_spectrum(plain) + teacher.offsets[source, target])
            expected = torch.stack([mean_spectrum(spectrum) for spectrum in true[target::3]]).mean(0)
            torch.testing.assert_close(torch.stack(means).mean(0), expected, rtol=1e-4, atol=1e-5)
    assert float(teacher.offsets.abs().max()) > 0.1
    torch.testing.assert_close(teacher.offsets.mean(2), torch.zeros(3, 3), rtol=0, atol=1e-6)  # levels stay


def test_the_loss_is_the_error_of_the_spectra_of_other_speakers(learner: SpeechVQVAE) -> None:
    """At the start of training the model is its teacher, but for the offsets."""
    batch = batch_of()
    batch["lengths"] = torch.tensor([SAMPLES, SAMPLES // 2, SAMPLES // 2])  # a batch counts by its valid frames
    torch.manual_seed(5)
    with_loss, logs = learner(**batch)
    teacher = teacher_of(learner)
    torch.manual_seed(5)
    target = other_speakers(learner, batch["speaker"])
    assert not (target == batch["speaker"]).any()
    offsets = teacher.offsets[batch["speaker"], target].square().mean(1)
    expected = (offsets * torch.tensor([2.0, 1.0, 1.0])).sum() / 4
    torch.testing.assert_close(logs["conversion_error"], expected, rtol=1e-3, atol=1e-6)
    plain = SpeechVQVAE(replace(learner.cfg, conversion_loss_weight=0.0))
    plain.load_state_dict(learner.state_dict())
    torch.testing.assert_close(with_loss - plain.train()(**batch)[0], WEIGHT * expected * 4 / 6, rtol=1e-3, atol=1e-5)
    assert "conversion_error" not in learner.eval()(**batch)[1]  # a loss of training alone


def test_padding_does_not_count(learner: SpeechVQVAE, randomise) -> None:
    randomise(learner.spectrum, seed=9)  # no longer its teacher, so that the error depends on the codes
    batch = batch_of()
    batch["lengths"] = torch.tensor([SAMPLES, 1600, 800])
    others = dict(batch, wav=batch["wav"].clone())
    others["wav"][2, :, 2400:] += 0.3  # beyond what the codes of its valid samples depend on
    found = []
    for each in (batch, others):
        torch.manual_seed(5)
        found.append(learner(**each)[1]["conversion_error"])
    torch.testing.assert_close(found[0], found[1])


def test_training_moves_conversions_to_the_teacher_and_the_teacher_nowhere(learner: SpeechVQVAE) -> None:
    teacher = teacher_of(learner)
    assert not any("teacher" in name for name in learner.state_dict()) and not teacher.spectrum.training
    before = copy.deepcopy(teacher.state_dict())
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    errors, batch = [], batch_of()
    z_q = quantized_vectors(learner, batch["wav"])
    mask = learner.valid_frames(batch["lengths"], z_q.shape[2])
    for _ in range(40):
        loss, logs = conversion_loss(learner, z_q, batch["speaker"], mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(logs["conversion_error"]))
    assert sum(errors[-5:]) < 0.5 * sum(errors[:5])
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert learner.context is not None and learner.context.voice is not None
    assert learner.context.voice.weight.grad is not None


def test_utterances_are_spread_over_those_of_a_speaker(model: SpeechVQVAE, speech: PackedSpeech, monkeypatch) -> None:
    monkeypatch.setattr(conversion_teacher, "UTTERANCES", 2)
    monkeypatch.setattr(conversion_teacher, "MAX_SECONDS", 0.1)
    found = list(conversion_teacher._utterances(model, speech))
    assert [speaker for speaker, _, _ in found] == [0, 0, 1, 1, 2, 2] and {len(wav) for _, wav, _ in found} == {1600}
    expected = torch.from_numpy(speech.audio(6)[:1600].astype(np.float32) / 32768)  # the third of the first speaker
    assert torch.equal(found[1][1], expected)


# --- what is refused ---


def test_without_a_teacher_nothing_is_trained(model: SpeechVQVAE, speech: PackedSpeech) -> None:
    made = SpeechVQVAE(model.cfg).train()
    with pytest.raises(RuntimeError, match="call initialise_conversion_teacher before training"):
        made(**batch_of())
    plain = SpeechVQVAE(replace(model.cfg, conversion_loss_weight=0.0))
    assert initialise_conversion_teacher(plain, speech) == {} and plain.conversion_teacher == ()


def test_every_speaker_needs_speech(model: SpeechVQVAE, speech: PackedSpeech) -> None:
    own = replace(speech, speaker_ids=np.where(speech.speaker_ids == 1, 0, speech.speaker_ids))
    with pytest.raises(
        ValueError, match=f"measures the mean spectrum of every speaker; there is no speech of {model.speakers[1]}$"
    ):
        initialise_conversion_teacher(SpeechVQVAE(model.cfg), own)


def test_the_first_process_measures_for_all(model: SpeechVQVAE, speech: PackedSpeech, monkeypatch) -> None:
    of_first = torch.full((3, 3, model.cfg.spectrum.n_mels), 7.0)
    monkeypatch.setattr(conversion_teacher, "broadcast_object_list", lambda _: [of_first])
    made = SpeechVQVAE(model.cfg)
    initialise_conversion_teacher(made, speech)
    assert torch.equal(teacher_of(made).offsets, of_first)


@pytest.mark.parametrize("count", [1, MAX_SPEAKERS + 1])
def test_numbers_of_speakers_whose_pairs_cannot_be_measured(model: SpeechVQVAE, speech: PackedSpeech, count) -> None:
    names = tuple(f"s{i}" for i in range(count))
    with pytest.raises(ValueError, match=f"is for 2 to {MAX_SPEAKERS} speakers, whose pairs .* got {count}; give the"):
        initialise_conversion_teacher(SpeechVQVAE(replace(model.cfg, speakers=names)), speech)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conversion_loss_weight": -1.0}, "must be a finite number, 0 or more, got -1.0"),
        ({"conversion_loss_weight": float("nan")}, "must be a finite number, 0 or more, got nan"),
        ({"stage": "codes"}, r"is for stage: context with conversions: 0, got stage: codes, conversions: 0\.0"),
    ],
)
def test_options_that_do_not_fit_are_refused(model: SpeechVQVAE, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(model.cfg, **changes)


def test_a_checkpoint_must_bring_what_is_taught(model: SpeechVQVAE, tmp_path) -> None:
    save_model(model, tmp_path / "context")
    init_from(SpeechVQVAE(model.cfg), [tmp_path / "context"])  # the vocoder istft is not needed
    others = SpeechVQVAE(replace(model.cfg, speakers=(*model.speakers, "emil")))
    with pytest.raises(ModelError, match=r"init_from must bring codes, context network, all speakers .* some speakers"):
        init_from(others, [tmp_path / "context"])
