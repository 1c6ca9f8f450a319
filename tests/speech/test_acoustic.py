"""Models with acoustic frames between codes and vocoders: stages, pitch, and equal samples by any way of decoding."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, Tokens, load_model, save_model
from vqaudio.checkpoint import ModelError
from vqaudio.cli.main import main
from vqaudio.data.audio import to_int16
from vqaudio.data.packed import PackedSpeech
from vqaudio.metrics.conditioning_gap import conditioning_metrics
from vqaudio.nn.acoustic import AcousticConfig, AcousticFrames, upsampled
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.pitch import Pitch, PitchConfig
from vqaudio.nn.source_filter import IstftConfig
from vqaudio.speech import pitch_init
from vqaudio.speech.acoustic import (
    encoded_frames,
    quantized_vectors,
    true_conditioning,
    true_frames,
    with_conversions,
)
from vqaudio.speech.describe import model_facts
from vqaudio.speech.enroll import EnrollmentObjective
from vqaudio.speech.init_from import by_part, init_from
from vqaudio.speech.pitch_init import initialise_harmonics, initialise_pitch
from vqaudio.speech.speakers import with_speakers
from vqaudio.speech.synthesis import FramePiece, encode_frames
from vqaudio.speech.vocoding import decode_request, frames, transformed_pitch, wavenet_pieces

SAMPLES = 3200  # of a crop: long enough for the STFT loss at a hop of 40 samples


@pytest.fixture(scope="module")
def config(spectrum_config: SpeechVQVAEConfig) -> SpeechVQVAEConfig:
    return replace(
        spectrum_config,
        context=replace(spectrum_config.context, lookahead=2),
        pitch=PitchConfig(win_length=640),
        acoustic=AcousticConfig(dilations=(1,), channels=5, lookahead=1, upsampling=4, harmonics=True),
        istft=IstftConfig(dilations=(1,), channels=6, lookahead=2, points=9),
        vocoder="istft",
    )


@pytest.fixture(scope="module")
def model(config: SpeechVQVAEConfig, initialised: Callable[..., SpeechVQVAE], randomise) -> SpeechVQVAE:
    """Ready to use, with the pitch of two of its three speakers, and harmonics."""
    made = initialised(config, samples=SAMPLES)
    for seed, part in enumerate((made.context, made.spectrum, made.pitch, made.acoustic, made.istft)):
        randomise(part, seed=seed)
    assert made.pitch is not None
    made.pitch.centre.copy_(torch.tensor([6.9, 7.6, 7.3]))
    made.pitch.spread.copy_(torch.tensor([0.2, 0.3, 0.0]))
    assert made.harmonics is not None
    made.harmonics.depth.copy_(torch.linspace(0.5, 1.5, len(made.harmonics.depth)))
    made.harmonics.correlation.copy_(torch.linspace(1.0, 0.1, len(made.harmonics.correlation)))
    return made.requires_grad_(False)


def hum(hertz: float, samples: int = SAMPLES) -> Tensor:
    t = torch.arange(samples) / 16000
    return torch.stack([0.1 * torch.sin(2 * torch.pi * hertz * k * t) / k for k in range(1, 6)]).sum(0)


def batch_of(rows: int = 3) -> dict[str, Tensor]:
    wav = torch.stack([hum(100 + 40 * i) for i in range(rows)])
    return {
        "wav": wav[:, None],
        "target": torch.randint(16, wav.shape, generator=torch.Generator().manual_seed(0)),
        "audio": wav,
        "speaker": torch.arange(rows) % 3,
        "lengths": torch.full((rows,), SAMPLES),
    }


def stage_of(model: SpeechVQVAE, **changes) -> SpeechVQVAE:
    made = SpeechVQVAE(replace(model.cfg, **changes))
    made.load_state_dict({key: value for key, value in model.state_dict().items() if key in made.state_dict()})
    return made


# --- decoding ---


@pytest.mark.parametrize("vocoder", ["wavenet", "istft"])
@pytest.mark.parametrize("given", [False, True])
def test_streamed_equals_whole_equals_batch(model: SpeechVQVAE, vocoder, given) -> None:
    tokens = model.tokenize(hum(120, 2990))
    pitch = model.pitch_of(hum(120, 2990)) if given else None
    whole = model.decode(tokens, "anna", vocoder=vocoder, pitch=pitch)
    assert whole.shape == (2990,) and whole.any()
    assert torch.equal(torch.cat(list(model.decode_stream(tokens, "anna", vocoder=vocoder, pitch=pitch))), whole)
    if not given:
        one_by_one = torch.cat(list(model.decode_stream(iter(tokens.codes.tolist()), "anna", vocoder=vocoder)))
        assert model.correction is not None
        end = 2990 - 80 - model.correction.delay  # the last code is decoded whole, and corrected with what is in it
        assert torch.equal(one_by_one[:end], whole[:end])
    short = Tokens(tokens.codes[:5], 390, tokens.sample_rate, tokens.hop, tokens.model)
    together = model.decode_batch([short, tokens], ["bert", "anna"], vocoder=vocoder, pitch=[None, pitch])
    assert torch.equal(together[1], whole)
    assert torch.equal(together[0], model.decode(short, "bert", vocoder=vocoder))


@pytest.mark.parametrize("vocoder", ["wavenet", "istft", "griffin-lim"])
def test_samples_do_not_depend_on_whether_the_weights_require_gradients(model: SpeechVQVAE, vocoder) -> None:
    learner, wav = stage_of(model).eval(), hum(120)
    tokens = model.tokenize(wav)
    assert torch.equal(learner.tokenize(wav).codes, tokens.codes)
    assert torch.equal(learner.decode(tokens, "anna", vocoder=vocoder), model.decode(tokens, "anna", vocoder=vocoder))


def without_harmonics(model: SpeechVQVAE) -> SpeechVQVAE:
    return stage_of(model, acoustic=replace(model.cfg.acoustic, harmonics=False)).eval()


def test_the_wavenet_reads_the_harmonics_of_the_pitch(model: SpeechVQVAE) -> None:
    """In decoding, from given and from predicted pitch, and is corrected to them; other vocoders stay as they are."""
    wav, plain = hum(120), without_harmonics(model)
    tokens, speaker = model.tokenize(wav), torch.tensor([0])
    assert model.harmonics is not None and plain.harmonics is None
    for pitch in (None, model.pitch_of(wav)):
        sounds = [each.decode(tokens, "anna", vocoder="wavenet", pitch=pitch) for each in (model, plain)]
        assert not torch.equal(*sounds)
        assert torch.equal(*(each.decode(tokens, "anna", pitch=pitch) for each in (model, plain)))
        utterance = decode_request(model, tokens, speaker, pitch, vocoder="wavenet")
        own = AcousticFrames.joined([piece.frames for piece in frames(model, utterance)])
        expected, pieces = model.harmonics(own), list(wavenet_pieces(model, utterance))
        assert own.pitch.voicing.any() and not torch.equal(expected.spectrum, own.spectrum)
        spectra = torch.cat([piece.spectra for piece in pieces if piece.spectra is not None], dim=1)
        torch.testing.assert_close(spectra, expected.spectrum)
        cond = torch.cat([piece.cond for piece in pieces], dim=1)
        torch.testing.assert_close(cond, encoded_frames(plain, expected, SAMPLES)[0], rtol=1e-4, atol=1e-5)


def test_the_wavenet_is_trained_on_the_harmonics_of_the_pitch(model: SpeechVQVAE) -> None:
    wav, plain = torch.stack([hum(110), hum(190)]), without_harmonics(model)
    own = true_frames(model, wav, 40)
    assert model.harmonics is not None and torch.equal(own.spectrum, true_frames(plain, wav, 40).spectrum)
    cond = torch.zeros(2, 5, 40)
    expected = encoded_frames(plain, model.harmonics(own), SAMPLES)
    torch.testing.assert_close(true_conditioning(model, cond, wav), expected)
    assert not torch.allclose(true_conditioning(plain, cond, wav), expected)


def test_harmonics_in_half_precision(model: SpeechVQVAE) -> None:
    """Adapting a model to new speakers trains on predicted frames, in mixed precision."""
    objective = EnrollmentObjective(stage_of(model, stage="joint"))
    batch = {name: value for name, value in batch_of().items() if name != "audio"}
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective(**batch)
    assert torch.isfinite(loss) and loss.item() == pytest.approx(objective(**batch)[0].item(), rel=0.02)


def test_harmonics_are_measured_once(model: SpeechVQVAE, tmp_path) -> None:
    cfg = replace(model.cfg, stage="istft", spectrum=LogMelConfig(40, 40, 400))
    learner = SpeechVQVAE(cfg)
    assert learner.harmonics is not None and not learner.harmonics.measured
    wavs = [hum(hertz, 5 * SAMPLES) for hertz in (90, 120, 160, 210, 290)]
    pcm = torch.cat(wavs).mul(32767).short().numpy()
    lengths = np.array([len(wav) for wav in wavs])
    speech = PackedSpeech(
        16000, model.speakers, tuple("abcde"), np.cumsum(lengths) - lengths, lengths, np.zeros(5, np.int64), pcm, ""
    )
    initialise_harmonics(learner, speech)
    assert learner.harmonics.measured and 0 < learner.harmonics.correlation.max() <= 1
    save_model(learner, tmp_path)
    later = SpeechVQVAE(cfg)
    init_from(later, [tmp_path])
    assert later.harmonics is not None and torch.equal(later.harmonics.depth, learner.harmonics.depth)
    initialise_harmonics(model, speech)
    assert model.harmonics is not None and model.harmonics.correlation[0] == 1.0  # those of the model are kept
    other = SpeechVQVAE(replace(cfg, spectrum=LogMelConfig(40, 40, 480)))
    init_from(other, [tmp_path])
    assert other.harmonics is not None and not other.harmonics.measured  # in another window they are others
    silent = replace(speech, samples=np.zeros_like(pcm))
    with pytest.raises(ValueError, match=r"100 voiced frames with steady F0.*model\.acoustic\.harmonics False"):
        initialise_harmonics(other, silent)


def test_every_process_has_the_harmonics_of_the_first_one(model: SpeechVQVAE, monkeypatch) -> None:
    learner = SpeechVQVAE(model.cfg)
    assert learner.harmonics is not None and model.harmonics is not None
    state = model.harmonics.state_dict()
    monkeypatch.setattr(pitch_init, "broadcast_object_list", lambda _: [state])
    monkeypatch.setattr(pitch_init, "processes", lambda: SimpleNamespace(is_main_process=False))
    none = np.zeros(0, np.int64)
    initialise_harmonics(learner, PackedSpeech(16000, ("anna",), (), none, none, none, np.zeros(0, np.int16), ""))
    assert torch.equal(learner.harmonics.depth, model.harmonics.depth)
    assert torch.equal(learner.harmonics.correlation, model.harmonics.correlation)


def test_a_wavenet_can_gain_harmonics_but_not_lose_them(model: SpeechVQVAE, tmp_path) -> None:
    plain = without_harmonics(model)
    for source in (model, plain):
        save_model(source, tmp_path / "source")
        for target in (model, plain):
            learner = SpeechVQVAE(replace(target.cfg, stage="istft", inherited_vocoders=()))
            (left,) = init_from(learner, [tmp_path / "source"]).values()
            assert by_part(left, learner) == ("harmonics" if source is plain and target is model else "nothing")
            lost = source is model and target is plain
            assert learner.cfg.inherited_vocoders == (("istft",) if lost else ("wavenet", "istft"))


def test_weights_are_named_by_part(model: SpeechVQVAE) -> None:
    names = [key for key in model.state_dict() if key.startswith(("decoder.", "pitch."))]
    count = sum(key.startswith("decoder.") for key in names)
    assert by_part(names[:-1], model) == f"pitch, decoder ({count - 1} of {count} weights)"
    assert by_part([], model) == "nothing"


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_istft_does_not_depend_on_threads(model: SpeechVQVAE, threads) -> None:
    tokens, before = model.tokenize(hum(150, 3000)), torch.get_num_threads()
    expected = model.decode(tokens, "bert", seed=4)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(model.decode(tokens, "bert", seed=4), expected)
    finally:
        torch.set_num_threads(before)
    assert not torch.equal(model.decode(tokens, "bert", seed=5), expected)


def test_conversion_passes_the_pitch_on(model: SpeechVQVAE) -> None:
    wav = hum(110)
    tokens, pitch = model.tokenize(wav), model.pitch_of(wav)
    assert pitch.voicing.mean() > 0.9
    for vocoder in ("istft", "wavenet"):
        given = model.decode(tokens, "bert", vocoder=vocoder, pitch=pitch)
        assert torch.equal(model.convert(wav, "bert", vocoder=vocoder), given)
        predicted = model.decode(tokens, "bert", vocoder=vocoder)
        assert torch.equal(model.convert(wav, "bert", vocoder=vocoder, pitch="codes"), predicted)
        assert not torch.equal(given, predicted)
    assert model.vocoders_with_pitch == ("wavenet", "istft")
    assert torch.equal(
        model.convert(wav, "bert", vocoder="griffin-lim"), model.decode(tokens, "bert", vocoder="griffin-lim")
    )
    moved = transformed_pitch(model, pitch, tokens, torch.tensor([1]))
    assert moved is not None and moved.octaves.shape == (1, 2 * len(tokens.codes))
    voiced = moved.octaves[moved.voicing > 0]
    assert float(voiced.mean()) == pytest.approx(7.6, abs=0.02)


def test_models_without_pitch_say_so(spectrum_model: SpeechVQVAE, model: SpeechVQVAE) -> None:
    with pytest.raises(ValueError, match=r"no vocoder that is conditioned on pitch"):
        spectrum_model.pitch_of(hum(100))
    with pytest.raises(ValueError, match="full scale is 1"):
        model.pitch_of(32768 * hum(100))
    with pytest.raises(ValueError, match=r"no trained vocoder istft.*--model\.stage istft"):
        spectrum_model.decode(spectrum_model.tokenize(hum(100)), "anna", vocoder="istft")
    with pytest.raises(ValueError, match="codes as they arrive"):
        model.decode_stream(iter([1, 2]), "anna", pitch=Pitch.unvoiced(4))


def test_the_wavenet_says_the_spectrum_of_the_frames(model: SpeechVQVAE) -> None:
    """Its samples are nearer to the predicted spectrum with the correction, which is on by default, than without."""
    tokens = model.tokenize(hum(120))
    plain = stage_of(model, acoustic=replace(model.cfg.acoustic, correction=False))
    assert plain.correction is None and plain.state_dict().keys() == model.state_dict().keys()
    assert model.correction is not None
    log_mel, asked = model.correction.log_mel, model.predict_spectrum(tokens, "anna")
    errors = []
    for each in (model, plain):
        wav = each.decode(tokens, "anna", vocoder="wavenet")
        assert wav.shape == (SAMPLES,) and wav.abs().max() <= 1
        errors.append(float((log_mel.centred(wav[None], len(asked))[0] - asked)[4:-4].abs().mean()))
        assert torch.equal(torch.cat(list(each.decode_stream(tokens, "anna", vocoder="wavenet"))), wav)
    assert errors[0] < 0.7 * errors[1]


def test_the_wavenet_reads_in_decoding_what_it_reads_in_training(two_frames: SpeechVQVAE) -> None:
    """Conditioning of whole crops and of streams, with several vectors per frame and frames per code."""
    wav = torch.stack([hum(120, 1600), hum(90, 1600)])
    frames = true_frames(two_frames, wav, 20)
    whole = encoded_frames(two_frames, frames, 1590)
    assert two_frames.acoustic is not None
    hop = two_frames.cfg.decoder.hop
    assert whole.shape == (2, 5, -(-1590 // hop)) and hop == two_frames.cfg.spectrum.hop_length // 4
    for row in range(2):
        own = AcousticFrames(frames.spectrum[row, None], Pitch(*(value[row, None] for value in frames.pitch)))
        parts = [FramePiece(own.part(start, start + 7), min(280, 1590 - start * 40)) for start in range(0, 40, 7)]
        hops = two_frames.cfg.spectrum.hop_length, hop
        pieces = list(encode_frames(two_frames.acoustic, two_frames.harmonics, iter(parts), *hops))
        torch.testing.assert_close(torch.cat([piece.cond for piece in pieces], 1), whole[row], rtol=1e-4, atol=1e-6)
        spectra = torch.cat([piece.spectra for piece in pieces if piece.spectra is not None], 1)
        assert torch.equal(spectra[0], own.spectrum[0, :40]) and sum(piece.num_samples for piece in pieces) == 1590


def test_vectors_are_interpolated_between_frames() -> None:
    vectors = torch.tensor([[[1.0, 3.0, -1.0]]])
    expected = [1, 1, 1, 1, 1.25, 1.75, 2.25, 2.75, 2.5, 1.5, 0.5, -0.5]
    assert upsampled(vectors, None, 4)[0, 0].tolist() == expected
    assert upsampled(vectors[:, :, 1:], vectors[:, :, :1], 4)[0, 0].tolist() == expected[4:]
    assert upsampled(vectors, None, 1) is vectors


# --- training ---


@pytest.mark.parametrize(
    ("stage", "moved", "logged"),
    [
        ("codes", {"encoder", "context", "spectrum", "pitch"}, {"spectrum_error", "voicing_bits", "pitch_error"}),
        ("context", {"context", "spectrum", "pitch", "decoder"}, {"spectrum_error", "voicing_bits", "pitch_error"}),
        ("decoder", {"decoder", "acoustic"}, {"bits_per_sample"}),
        ("istft", {"istft"}, {"spectral_convergence", "log_stft_error"}),
        (
            "joint",
            {"encoder", "context", "spectrum", "pitch", "decoder", "acoustic", "istft"},
            {"bits_per_sample", "spectrum_error", "pitch_error", "log_stft_error"},
        ),
    ],
)
def test_what_each_stage_trains(model: SpeechVQVAE, stage, moved, logged) -> None:
    learner = stage_of(model, stage=stage).train()
    loss, logs = learner(**batch_of())
    loss.backward()
    found = {name.split(".")[0] for name, p in learner.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved <= found and logged <= set(logs)
    if learner.cfg.freezes_codes:
        assert found == moved and learner.fingerprint == model.fingerprint
    if stage == "context":  # of the decoder only the speaker embedding, which the context shares
        assert [name for name, p in learner.decoder.named_parameters() if p.grad is not None] == ["speaker.weight"]
    metrics = conditioning_metrics(learner.eval(), [batch_of()])
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_wavenet_is_trained_on_true_frames(model: SpeechVQVAE) -> None:
    """Its loss does not depend on the codes, and that of the predicted frames does."""
    learner, batch = stage_of(model, stage="decoder").eval(), batch_of()
    other = {**batch, "wav": batch["wav"].flip(0) * 0.3}
    with torch.no_grad():
        same = [learner(**each)[1]["bits_per_sample"] for each in (batch, other)]
        assert torch.equal(*same)
        nll = [learner.nll_of_each(b["target"], learner.quantize(b["wav"], b["lengths"])[1].z_q, b["speaker"],
                                   b["lengths"]) for b in (batch, other)]  # fmt: skip
    assert not torch.equal(*nll)


def test_metrics_of_the_stages(model: SpeechVQVAE) -> None:
    of_context = conditioning_metrics(stage_of(model, stage="context").eval(), [batch_of()])
    assert 0 <= of_context["voicing_error"] <= 1 and of_context["pitch_error"] >= 0
    learner = stage_of(model, stage="istft").eval()
    of_istft = conditioning_metrics(learner, [batch_of()])
    assert of_istft == conditioning_metrics(learner, [batch_of()])  # the same noise each time
    assert of_istft["resynthesis_loss"] == of_istft["spectral_convergence"] + of_istft["log_stft_error"]
    cut = [{n: v[..., :length] if v.dim() > 1 else v for n, v in batch_of().items()} for length in (2879, 2880)]
    with pytest.raises(ValueError, match="crops of at least 2880 samples, got 2879"):
        conditioning_metrics(learner, [cut[0]])
    conditioning_metrics(learner, [{name: value for name, value in cut[1].items() if name != "audio"}])


@pytest.fixture(scope="module")
def two_frames(config: SpeechVQVAEConfig, initialised: Callable[..., SpeechVQVAE]) -> SpeechVQVAE:
    """A code is two acoustic frames."""
    finer = replace(config, spectrum=replace(config.spectrum, hop_length=config.encoder.hop // 2))
    return initialised(finer, samples=SAMPLES).requires_grad_(False)


@pytest.mark.parametrize("samples", [3200, 3170, 3160, 3121])
def test_crops_of_any_length_are_learned(two_frames: SpeechVQVAE, samples) -> None:
    cut = {name: value[..., :samples] if value.dim() > 1 else value for name, value in batch_of().items()}
    cut["lengths"] = torch.full((3,), samples)
    loss, _ = stage_of(two_frames, stage="decoder").train()(**cut)
    z_q = two_frames.quantize(cut["wav"], cut["lengths"])[1].z_q
    assert loss.isfinite() and two_frames.nll_of_each(cut["target"], z_q, cut["speaker"], cut["lengths"]).shape == (3,)


def test_a_speaker_is_added_with_distillation_on_acoustic_frames(two_frames: SpeechVQVAE, model: SpeechVQVAE) -> None:
    """Teacher and decoder read what a WaveNet reads in decoding: a copy of the decoder is no distance away."""
    for each in (two_frames, model):
        batch, objective = batch_of(), EnrollmentObjective(stage_of(each), distilled_speakers=3)
        assert objective.teacher is not None
        args = batch["target"], quantized_vectors(each, batch["wav"]), batch["speaker"], batch["lengths"]
        assert float(objective.distillation_loss(objective.teacher, *args).detach()) == pytest.approx(0, abs=1e-6)
        loss, logs = objective(**batch)
        assert loss.isfinite() and logs["bits_per_sample"] > 0


def test_predicted_spectra_leave_the_codebook_alone(model: SpeechVQVAE) -> None:
    learner = stage_of(model, stage="istft", predicted_spectra=1.0).train()
    before = {name: value.clone() for name, value in learner.state_dict().items() if name.startswith("quantizer.")}
    learner(**batch_of())
    assert before and all(torch.equal(learner.state_dict()[name], value) for name, value in before.items())


def converted_with(learner: SpeechVQVAE, monkeypatch, wav: Tensor, speaker: Tensor, lengths: Tensor):
    """-> encoder input, the speakers it was converted to, the frames that the vocoder was given."""
    assert learner.istft is not None
    asked, render = list[AcousticFrames](), learner.istft.corrected

    def recorded(frames: AcousticFrames) -> Tensor:
        asked.append(frames)
        return render(frames)

    monkeypatch.setattr(learner.istft, "corrected", recorded)
    torch.manual_seed(3)
    _, steps = torch.rand(3), torch.randint(1, 3, (3,))
    torch.manual_seed(3)
    return with_conversions(learner, wav, speaker, lengths), (speaker + steps) % 3, asked[0]


def test_conversions_are_what_decoding_says_for_another_speaker(model: SpeechVQVAE, monkeypatch) -> None:
    learner, batch = stage_of(model, stage="context", conversions=1.0).train(), batch_of()
    wav = batch["wav"] * torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    converted, targets, asked = converted_with(learner, monkeypatch, wav, batch["speaker"], batch["lengths"])
    assert learner.pitch is not None
    assert converted.shape == wav.shape and not converted.requires_grad
    assert not (targets == batch["speaker"]).any()
    torch.testing.assert_close(converted.square().mean(2), wav.square().mean(2))
    for row, target in enumerate(targets.tolist()):
        spectrum = learner.predict_spectrum(model.tokenize(wav[row, 0]), learner.speakers[target])
        torch.testing.assert_close(asked.spectrum[row], spectrum, rtol=1e-4, atol=1e-5)
        voiced = asked.pitch.octaves[row][asked.pitch.voicing[row] > 0]
        moved = {(0, 1): 0.7, (1, 0): -0.7}.get((row, target), 0.0)  # the pitch of the third was not measured
        assert float(voiced.median()) == pytest.approx(float(torch.tensor(100.0 + 40 * row).log2()) + moved, abs=0.03)
    partly = stage_of(model, stage="context", conversions=0.5)
    torch.manual_seed(0)
    half = with_conversions(partly, wav, batch["speaker"], batch["lengths"])
    torch.manual_seed(0)
    same = (half == wav).all(2)[:, 0]
    assert torch.equal(same, torch.rand(3) >= 0.5) and 0 < same.sum() < 3


def test_padding_of_converted_crops_is_silent(model: SpeechVQVAE) -> None:
    learner, batch = stage_of(model, stage="context", conversions=1.0).train(), batch_of()
    lengths = torch.tensor([SAMPLES, 2000, 1000])
    wav = batch["wav"] * (torch.arange(SAMPLES) < lengths[:, None])[:, None]
    converted = with_conversions(learner, wav, batch["speaker"], lengths)
    assert not converted[1, 0, 2000:].any() and not converted[2, 0, 1000:].any()
    torch.testing.assert_close(converted.square().sum(2), wav.square().sum(2))


def test_batches_are_rendered_in_time_and_with_the_spectrum_of_their_frames() -> None:
    shipped = load_model("mini")
    assert shipped.istft is not None and shipped.correction is not None
    loud = torch.arange(80) // 10 % 2  # the level changes every ten frames
    spectrum = (torch.linspace(0.5, -0.5, 80) + 1.5 * loud[:, None] - 1).expand(2, -1, -1)
    wav = shipped.istft.corrected(AcousticFrames(spectrum, Pitch(torch.ones(2, 80), torch.full((2, 80), 7.0))))
    assert wav.shape == (2, 80 * 160)
    said = shipped.correction.log_mel.centred(wav, 80)
    errors = [float((said[:, 4 + k : 76 + k] - spectrum[:, 4:76]).abs().mean()) for k in (-1, 0, 1)]
    assert errors[1] < 0.16 and errors[1] < 0.75 * min(errors[0], errors[2])


def test_conversions_leave_normalizer_and_codebook_alone(config: SpeechVQVAEConfig, model: SpeechVQVAE) -> None:
    """They are made in evaluation mode, also where encoder and codes are trained."""
    cfg = replace(config, stage="codes", conversions=1.0, normalizer="batch", context=model.cfg.context)
    learner = SpeechVQVAE(cfg)
    learner.load_state_dict(model.state_dict(), strict=False)
    learner.train()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    batch = batch_of()
    with_conversions(learner, batch["wav"], batch["speaker"], batch["lengths"])
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert learner.encoder.training and learner.normalizer.training
    loss, _ = learner(**batch)
    loss.backward()
    assert loss.isfinite() and learner.encoder.out.weight.grad is not None


def test_conversions_are_the_input_of_training_alone(model: SpeechVQVAE) -> None:
    batch = batch_of()
    learner, plain = (stage_of(model, stage="context", conversions=share) for share in (1.0, 0.0))
    losses = [[float(each.train(mode)(**batch)[0].detach()) for each in (learner, plain)] for mode in (True, False)]
    assert losses[0][0] != losses[0][1] and losses[1][0] == losses[1][1]
    around = {"past": torch.zeros(3, 1, 0), "past_lengths": torch.zeros(3, dtype=torch.long)}
    with pytest.raises(ValueError, match=r"set crops\.past and crops\.future to 0"):
        learner.train()(**batch, **around, future=torch.zeros(3, 1, 80))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conversions": 1.5}, r"conversions must lie in \[0, 1\], a fraction of the crops, got 1\.5"),
        ({"conversions": 0.5, "stage": "istft"}, "for the stages codes and context, .* got stage: istft"),
        (
            {"conversions": 0.5, "istft": IstftConfig(), "vocoder": "griffin-lim"},
            r"set istft\.dilations, got .*dilations=\(\)",
        ),
    ],
)
def test_conversions_that_cannot_be_are_refused(config: SpeechVQVAEConfig, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, **{"stage": "context", **changes})


def test_conversions_of_one_speaker_are_refused(config: SpeechVQVAEConfig) -> None:
    alone = SpeechVQVAE(replace(config, stage="context", conversions=1.0, speakers=("anna",)))
    with pytest.raises(ValueError, match="conversions need 2 speakers or more, the model has 1; set conversions 0"):
        with_conversions(alone, batch_of(1)["wav"], torch.zeros(1, dtype=torch.long), torch.tensor([SAMPLES]))


def test_an_absurd_pitch_is_no_nan(model: SpeechVQVAE) -> None:
    tokens = model.tokenize(hum(120))
    frames = -(-SAMPLES // model.cfg.spectrum.hop_length)
    wav = model.decode(tokens, "carl", pitch=Pitch(torch.ones(1, frames), torch.full((1, frames), 15.0)))
    assert wav.isfinite().all() and wav.shape == (SAMPLES,)


@pytest.mark.parametrize(
    ("pitch", "vocoder", "message"),
    [
        (Pitch.unvoiced(3), "istft", "pitch must be a list of 1, a Pitch or None for each utterance, got one Pitch"),
        ([None, None], "istft", "must be a list of 1, .* got 2"),
        ([Pitch(torch.zeros(2, 3), torch.zeros(2, 3))], "istft", r"must be \(1, N\) both, got \[\(2, 3\), \(2, 3\)\]"),
        ([Pitch.unvoiced(3)], "griffin-lim", "griffin-lim of this model is not conditioned on pitch"),
    ],
)
def test_a_pitch_that_cannot_be_used_is_refused(model: SpeechVQVAE, pitch, vocoder, message) -> None:
    with pytest.raises(ValueError, match=message):
        model.decode_batch([model.tokenize(hum(120))], "anna", vocoder=vocoder, pitch=pitch)
    with pytest.raises(ValueError, match="pitch must be 'source' or 'codes', got 'sorce'"):
        model.convert(hum(120), "anna", pitch="sorce")  # pyright: ignore[reportArgumentType]


# --- the command line ---


def test_convert_passes_the_pitch_on_from_files_and_from_streams(
    model: SpeechVQVAE, tmp_path, monkeypatch, capsys
) -> None:
    save_model(model, tmp_path / "model")
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", hum(120).numpy(), 16000)
    (tmp_path / "in" / "bad.wav").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    content = (tmp_path / "in" / "a.wav").read_bytes()

    def run(*arguments: object) -> int:
        return main(["convert", *map(str, arguments), "--speaker", "anna", "--model", str(tmp_path / "model")])

    def written(name: str) -> np.ndarray:
        return soundfile.read(tmp_path / name, dtype="int16")[0]

    expected = {kind: to_int16(model.convert(tmp_path / "in/a.wav", "anna", pitch=kind).numpy())
                for kind in ("source", "codes")}  # fmt: skip
    assert not np.array_equal(expected["source"], expected["codes"])
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 1 and "bad.wav is not audio" in capsys.readouterr().err
    assert np.array_equal(written("out/a.wav"), expected["source"])
    assert run(tmp_path / "in/a.wav", "--out", tmp_path / "codes.wav", "--pitch", "codes") == 0
    assert np.array_equal(written("codes.wav"), expected["codes"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run("-", "--out", tmp_path / "stdin.wav") == 0
    assert np.array_equal(written("stdin.wav"), expected["source"])
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert run(tmp_path / "pipe", "--out", tmp_path / "fifo.wav") == 0
    writer.join()
    assert np.array_equal(written("fifo.wav"), expected["source"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert run("-", "--out", tmp_path / "none.wav") == 1 and "empty stream" in capsys.readouterr().err
    assert not (tmp_path / "none.wav").exists()


# --- checkpoints ---


def test_stages_hand_their_vocoders_on(config: SpeechVQVAEConfig, model: SpeechVQVAE, tmp_path) -> None:
    assert model.vocoders == ("wavenet", "griffin-lim", "istft")
    save_model(stage_of(model, stage="context", inherited_vocoders=()), tmp_path / "context")
    of_context = load_model(tmp_path / "context")
    assert of_context.vocoders == ("griffin-lim",)
    converting = replace(config, stage="context", conversions=0.5)
    with pytest.raises(ModelError, match=r"init_from must bring .*context lacks istft"):
        init_from(SpeechVQVAE(converting), [tmp_path / "context"])
    learner = SpeechVQVAE(replace(config, stage="istft"))
    init_from(learner, [tmp_path / "context"])
    assert learner.vocoders == ("griffin-lim", "istft") and learner.fingerprint == model.fingerprint
    assert model_facts(learner)["vocoder"] == "istft (default), griffin-lim"
    save_model(learner, tmp_path / "istft")
    last = SpeechVQVAE(replace(config, stage="decoder"))
    init_from(last, [tmp_path / "istft"])
    assert last.vocoders == ("wavenet", "griffin-lim", "istft")
    save_model(last, tmp_path / "last")
    assert load_model(tmp_path / "last").vocoders == last.vocoders
    for changes, lacking in (
        ({"speakers": ("anna",)}, "several speakers"),
        ({"speakers": ("anna", "emil")}, "some speakers"),
        ({"context": replace(config.context, channels=7)}, "context, spectrum"),
    ):
        with pytest.raises(ModelError, match=f"last lacks {lacking}"):
            init_from(SpeechVQVAE(replace(converting, **changes)), [tmp_path / "last"])
    again = SpeechVQVAE(converting)
    init_from(again, [tmp_path / "last"])  # the WaveNet shares the speaker embedding, which this stage trains
    assert again.vocoders == ("griffin-lim", "istft")
    with pytest.raises(ModelError, match="stage: istft freezes encoder and codebook"):
        init_from(SpeechVQVAE(replace(config, stage="istft")), [])
    for options, kept in (({"correction": False}, True), ({"upsampling": 2}, False)):
        other = SpeechVQVAE(replace(config, stage="istft", acoustic=replace(config.acoustic, **options)))
        init_from(other, [tmp_path / "last"])
        assert ("wavenet" in other.vocoders) == kept, options
    wider = SpeechVQVAE(replace(config, stage="joint", spectrum=replace(config.spectrum, f_max=3000.0)))
    init_from(wider, [tmp_path / "last"])  # its vocoders would read other spectra
    assert wider.cfg.inherited_vocoders == ()


@pytest.mark.parametrize("stage", ["istft", "decoder"])
def test_parts_that_a_stage_freezes_must_be_in_a_checkpoint(config: SpeechVQVAEConfig, model, tmp_path, stage) -> None:
    without = {"pitch": PitchConfig(), "acoustic": AcousticConfig(), "istft": IstftConfig(), "vocoder": "griffin-lim"}
    codes = SpeechVQVAE(replace(config, stage="codes", **without))
    kept = ("encoder.", "normalizer.", "quantizer.", "context.", "spectrum.")
    weights = {name: value for name, value in model.state_dict().items() if name.startswith(kept)}
    codes.load_state_dict(weights, strict=False)
    save_model(codes, tmp_path / "codes")
    with pytest.raises(ModelError, match=f"stage: {stage} freezes pitch, which no checkpoint with these codes has"):
        init_from(SpeechVQVAE(replace(config, stage=stage)), [tmp_path / "codes"])


def test_pitch_goes_with_the_speaker(config: SpeechVQVAEConfig, model: SpeechVQVAE, tmp_path) -> None:
    save_model(model, tmp_path)
    learner = SpeechVQVAE(replace(config, stage="context", speakers=("dora", "bert")))
    (left,) = init_from(learner, [tmp_path]).values()
    assert learner.pitch is not None and {"pitch.centre", "pitch.spread"} <= set(left)
    assert learner.pitch.centre.tolist() == pytest.approx([7.3, 7.6]) and learner.pitch.spread.tolist()[0] == 0
    pcm = torch.cat([hum(200), hum(300)]).mul(32767).short().numpy()
    lengths = np.array([SAMPLES, SAMPLES])
    offsets, ids = np.array([0, SAMPLES]), np.array([0, 1])
    speech = PackedSpeech(16000, ("dora", "bert"), ("a", "b"), offsets, lengths, ids, pcm, "")
    initialise_pitch(learner, speech)
    assert 2 ** float(learner.pitch.centre[0]) == pytest.approx(200, rel=0.01)
    assert float(learner.pitch.centre[1]) == pytest.approx(7.6)  # known from the checkpoint
    alone = SpeechVQVAE(replace(config, speakers=()))
    assert alone.pitch is not None
    alone.pitch.centre.fill_(6.5)
    save_model(alone, tmp_path / "alone")
    init_from(successor := SpeechVQVAE(replace(config, stage="context", speakers=())), [tmp_path / "alone"])
    assert successor.pitch is not None and successor.pitch.centre.tolist() == [6.5]
    extended = with_speakers(model, ["emil"])
    assert extended.pitch is not None
    assert extended.pitch.centre.tolist() == pytest.approx([6.9, 7.6, 7.3, (6.9 + 7.6 + 7.3) / 3])
    assert extended.pitch.spread.tolist() == pytest.approx([0.2, 0.3, 0, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pitch": PitchConfig()}, "acoustic is conditioned on spectrum and pitch"),
        ({"pitch": PitchConfig(), "acoustic": AcousticConfig()}, "istft is conditioned on spectrum and pitch"),
        ({"istft": IstftConfig()}, "vocoder: istft needs"),
        ({"istft": IstftConfig(), "vocoder": "wavenet", "stage": "istft"}, "stage: istft needs"),
        ({"frame_noise": -1.0}, "frame_noise"),
        (
            {"spectrum": LogMelConfig(10, 40, 50), "istft": IstftConfig(), "vocoder": "wavenet"},
            r"acoustic\.correction False",
        ),
        ({"acoustic": AcousticConfig(dilations=(1,), upsampling=3)}, r"acoustic\.upsampling must divide .*40 samples"),
    ],
)
def test_invalid_configurations_are_refused(config: SpeechVQVAEConfig, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


def test_weights_of_a_wavenet_that_was_never_trained_are_not_stored(model: SpeechVQVAE, tmp_path) -> None:
    save_model(stage_of(model, stage="context", inherited_vocoders=()), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {key for key in stored if key.startswith(("decoder.", "acoustic."))} == {"decoder.speaker.weight"}
    loaded = load_model(tmp_path)
    assert loaded.vocoders == ("griffin-lim",) and loaded.fingerprint == model.fingerprint
    tokens = model.tokenize(hum(140))
    expected = model.decode(tokens, "bert", vocoder="griffin-lim")
    assert torch.equal(loaded.decode(tokens, "bert", vocoder="griffin-lim"), expected)
    save_model(model, tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
