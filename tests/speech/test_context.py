"""The context network is bit-identical for any division into pieces, and causal."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vqaudio import SpeechVQVAE, Tokens
from vqaudio.checkpoint import ModelError, load_model, save_model
from vqaudio.metrics.conditioning_gap import conditioning_metrics
from vqaudio.nn.context import CONTEXT_CHUNK, Context, ContextConfig
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.frontend import LogMelConfig
from vqaudio.nn.fsq import FSQConfig
from vqaudio.speech.acoustic import decoded_target
from vqaudio.speech.init_from import init_from
from vqaudio.speech.losses import loudness_weights, smoothed, spectrum_loss


@pytest.fixture(scope="module")
def config(tiny_config):
    """Hop 80, a log-mel front-end, and a context network with the log-mel loss."""
    front = LogMelConfig(n_mels=12, hop_length=40, win_length=100)
    return replace(
        tiny_config,
        encoder=EncoderConfig(strides=(2,), channels=(8,), dilations=(1,), dim=4, lookahead=70, frontend=front),
        context=ContextConfig(dilations=(1, 2), channels=6),
        spectrum=LogMelConfig(n_mels=10, hop_length=40, win_length=100),
    )


@pytest.fixture(scope="module")
def model(config, initialised, randomise):
    made = initialised(config, samples=4000)
    randomise(made.context, seed=5)
    return made.requires_grad_(False)


@pytest.mark.parametrize("cuts", [[1] * 40, [7, 33], [CONTEXT_CHUNK, 24], [40]])
def test_the_same_bits_however_the_codes_arrive(randomise, cuts) -> None:
    context = randomise(Context(ContextConfig(dilations=(1, 4), channels=6), 4, 5)).requires_grad_(False)
    z_q, embedding = torch.randn(1, 4, 40), torch.randn(1, 5)
    whole = context.extend(z_q, embedding, context.start(z_q))[0]
    state, found = context.start(z_q), []
    for piece in z_q.split(cuts, dim=2):
        cond, state = context.extend(piece, embedding, state)
        found.append(cond)
    assert torch.equal(torch.cat(found, 2), whole)
    torch.testing.assert_close(whole, context(z_q, embedding))


@pytest.mark.parametrize("cuts", [[1] * 40, [7, 33], [CONTEXT_CHUNK, 24], [40]])
@pytest.mark.parametrize("lookahead", [1, 5, 20])
def test_with_look_ahead_too(randomise, cuts, lookahead) -> None:
    cfg = ContextConfig(dilations=(1, 4), channels=6, lookahead=lookahead)
    context = randomise(Context(cfg, 4, 5)).requires_grad_(False)
    z_q, embedding = torch.randn(1, 4, 40), torch.randn(1, 5)
    state, found = context.start(z_q), []
    for n, piece in enumerate(z_q.split(cuts, dim=2)):
        cond, state = context.extend(piece, embedding, state)
        found.append(cond)
        assert sum(cond.shape[2] for cond in found) == max(0, sum(cuts[: n + 1]) - lookahead)
    found.append(context.finish(embedding, state))
    whole, state = context.extend(z_q, embedding, context.start(z_q))
    whole = torch.cat([whole, context.finish(embedding, state)], 2)
    assert torch.equal(torch.cat(found, 2), whole)
    torch.testing.assert_close(whole, context(z_q, embedding))
    later = z_q.clone()
    later[:, :, 30:] += 1
    same = (context(later, embedding) == context(z_q, embedding)).all(1)[0]
    assert same[: 30 - lookahead].all() and not same[30 - lookahead]


def test_streamed_speech_equals_whole_speech(model) -> None:
    tokens = model.tokenize(torch.rand(3000) * 0.4 - 0.2)
    whole = model.decode(tokens, "anna")
    assert torch.equal(torch.cat(list(model.decode_stream(tokens, "anna"))), whole)
    one_by_one = torch.cat(list(model.decode_stream(iter(tokens.codes.tolist()), "anna")))
    assert torch.equal(one_by_one[: len(whole)], whole)
    short = Tokens(tokens.codes[:5], 400, tokens.sample_rate, tokens.hop, tokens.model)
    together = model.decode_batch([short, tokens], ["bert", "anna"])
    assert torch.equal(together[1], whole)
    assert torch.equal(together[0], model.decode(short, "bert"))


def _step(model, **changes):
    batch = {
        "wav": torch.rand(3, 1, 800) * 0.4 - 0.2,
        "target": torch.randint(16, (3, 800)),
        "speaker": torch.tensor([0, 1, 2]),
        "lengths": torch.tensor([800, 800, 320]),
    }
    loss, logs = model(**{**batch, **changes})
    loss.backward()
    return logs


def test_stage_codes_trains_codes_and_not_the_decoder(config) -> None:
    model = SpeechVQVAE(replace(config, stage="codes")).train()
    logs = _step(model)
    assert "spectrum_error" in logs and "bits_per_sample" not in logs
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"encoder", "context", "spectrum"} <= trained
    moved = [name for name, p in model.decoder.named_parameters() if p.grad is not None]
    assert moved == ["speaker.weight"]
    with pytest.raises(ValueError, match="WaveNet of this model has not been trained"):
        model.eval().decode(model.tokenize(torch.rand(900) * 0.1), "anna")


def test_stage_decoder_trains_the_decoder_with_frozen_codes(config, model, tmp_path) -> None:
    save_model(model, tmp_path / "codes")
    learner = SpeechVQVAE(replace(config, stage="decoder", speakers=("carl", "dora", "emil")))
    left = init_from(learner, [tmp_path / "codes"])
    assert list(left.values()) == [["decoder.speaker.weight"]]  # dora and emil are new speakers
    assert learner.fingerprint == model.fingerprint
    own, theirs = learner.decoder.speaker, model.decoder.speaker
    assert own is not None and theirs is not None
    assert torch.equal(own.weight[0], theirs.weight[2])
    logs = _step(learner.train(), speaker=torch.tensor([0, 1, 0]))
    assert {"spectrum_error", "bits_per_sample"} <= set(logs)
    assert not any(p.requires_grad for p in learner.encoder.parameters())
    assert learner.fingerprint == model.fingerprint  # the codebook did not move either
    save_model(learner, tmp_path / "speech")
    of_codes = SpeechVQVAE(replace(config, stage="codes"))
    init_from(of_codes, [tmp_path / "codes"])
    save_model(of_codes, tmp_path / "codes alone")
    taken = SpeechVQVAE(replace(config, stage="decoder"))
    (left,) = init_from(taken, [tmp_path / "codes alone"]).values()
    assert "decoder.out.weight" in left and "decoder.speaker.weight" not in left
    assert taken.fingerprint == model.fingerprint
    assert load_model(tmp_path / "speech").fingerprint == model.fingerprint


def test_frozen_codes_must_come_from_a_checkpoint(config, model, tmp_path) -> None:
    save_model(model, tmp_path)
    other_reach = replace(config, stage="decoder", encoder=replace(config.encoder, lookahead=71))
    wider = replace(config.encoder, channels=(9,))
    for cfg in (other_reach, replace(config, stage="decoder", encoder=wider)):
        with pytest.raises(ModelError, match="freezes encoder and codebook"):
            init_from(SpeechVQVAE(cfg), [tmp_path])
    narrower = replace(config, stage="decoder", context=replace(config.context, channels=5))
    without = replace(config, stage="decoder", context=ContextConfig(), spectrum=LogMelConfig())
    for cfg in (narrower, without):
        with pytest.raises(ModelError, match="has a context that was trained on its codes"):
            init_from(SpeechVQVAE(cfg), [tmp_path])
    with pytest.raises(ModelError, match="got none"):
        init_from(SpeechVQVAE(replace(config, stage="decoder")), [])
    free = SpeechVQVAE(replace(config, encoder=wider))
    before = free.quantizer.code_weights()["codebook"].clone()
    init_from(free, [tmp_path])  # a foreign encoder's codebook is not taken
    assert torch.equal(free.quantizer.code_weights()["codebook"], before) and not free.quantizer.initialised


def test_an_encoder_is_copied_beside_a_codebook_of_another_size(config, model, tmp_path) -> None:
    save_model(model, tmp_path)
    larger = replace(config, quantizer=replace(config.quantizer, codebook_size=2 * config.quantizer.codebook_size))
    learner = SpeechVQVAE(replace(larger, stage="codes"))
    (left,) = init_from(learner, [tmp_path]).values()
    assert {name.split(".")[0] for name in left} == {"quantizer"}
    for part in ("encoder", "normalizer", "context"):
        ours, theirs = (each.get_submodule(part).state_dict() for each in (learner, model))
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert not learner.quantizer.initialised  # training makes a codebook from the outputs of the encoder
    with pytest.raises(ModelError, match="freezes encoder and codebook"):
        init_from(SpeechVQVAE(replace(larger, stage="decoder")), [tmp_path])
    firmer = replace(config, stage="codes", quantizer=replace(config.quantizer, commitment_weight=0.5))
    again = SpeechVQVAE(firmer)  # the same codebook, trained with another option
    (left,) = init_from(again, [tmp_path]).values()
    assert not left and again.quantizer.initialised
    frozen = SpeechVQVAE(replace(firmer, stage="decoder"))
    init_from(frozen, [tmp_path])
    assert frozen.fingerprint == model.fingerprint
    scalar = SpeechVQVAE(replace(config, stage="codes", quantizer=FSQConfig(dim=4, levels=(3, 3))))
    (left,) = init_from(scalar, [tmp_path]).values()
    assert left and {name.split(".")[0] for name in left} == {"quantizer"}


def test_a_codebook_never_stands_beside_the_encoder_of_another_checkpoint(config, model, initialised, tmp_path) -> None:
    larger = replace(config, quantizer=replace(config.quantizer, codebook_size=2 * config.quantizer.codebook_size))
    save_model(model, tmp_path / "whole")
    save_model(initialised(larger, samples=4000), tmp_path / "larger")
    for stage in ("codes", "decoder"):
        learner = SpeechVQVAE(replace(config, stage=stage))
        init_from(learner, [tmp_path / "whole", tmp_path / "larger"])
        assert learner.fingerprint == model.fingerprint
        again = SpeechVQVAE(replace(config, stage=stage))
        init_from(again, [tmp_path / "larger", tmp_path / "whole"])
        assert again.fingerprint == model.fingerprint


def test_the_smoothed_spectrum_loss_has_the_error_of_local_means_where_it_is_loud(config) -> None:
    learner = SpeechVQVAE(replace(config, stage="codes", smoothed_spectrum_loss_weight=6.0, spectrum_loss_weight=1.0))
    assert learner.spectrum is not None
    wav, cond, mask = torch.rand(2, 800) - 0.5, torch.randn(2, 6, 10), torch.ones(2, 10, dtype=torch.bool)
    wav[:, 400:] *= 1e-4  # 80 dB less
    loss, logs = spectrum_loss(learner, wav, cond, mask)
    predicted = learner.spectrum(cond)
    target = learner.spectrum.log_mel.centred(wav, predicted.shape[1])
    differences = predicted - target
    differences = differences - differences.mean(1, keepdim=True)
    means = torch.nn.functional.avg_pool2d(differences[:, None], 5, 1, padding=2)[:, 0]
    torch.testing.assert_close(smoothed(differences), means)
    weights = loudness_weights(target, torch.ones_like(target[..., :1]))
    torch.testing.assert_close(weights.mean((1, 2)), torch.ones(2))
    quiet = predicted.shape[1] // 2 + 3  # beyond the windows that reach into the loud half
    assert weights[:, quiet:].max() < 0.02 < 1 < weights[:, : quiet - 6].min()
    expected = (means.square() * weights).mean()
    torch.testing.assert_close(logs["smoothed_spectrum_error"], expected)
    torch.testing.assert_close(loss, (predicted - target).square().mean() + 6 * expected)


def test_the_smoothed_spectrum_loss_ignores_padding(config) -> None:
    learner = SpeechVQVAE(replace(config, stage="codes", smoothed_spectrum_loss_weight=6.0))
    wav, cond = torch.rand(1, 800) - 0.5, torch.randn(1, 6, 10)
    wav[:, 320:] = 0
    mask = torch.arange(10)[None] < 4
    other = cond.clone()
    other[:, :, 4:] = 9.0
    one, another = (spectrum_loss(learner, wav, each, mask)[0] for each in (cond, other))
    torch.testing.assert_close(one, another)


def test_the_smoothed_spectrum_loss_of_a_batch_is_that_of_its_parts(config) -> None:
    learner = SpeechVQVAE(replace(config, stage="codes", smoothed_spectrum_loss_weight=6.0))
    wav, cond = torch.rand(3, 800) - 0.5, torch.randn(3, 6, 10)
    mask = torch.arange(10) < torch.tensor([10, 4, 7])[:, None]
    whole = spectrum_loss(learner, wav, cond, mask)[0] * mask.sum()
    parts = [
        spectrum_loss(learner, wav[i : i + 1], cond[i : i + 1], mask[i : i + 1])[0] * mask[i].sum() for i in range(3)
    ]
    torch.testing.assert_close(whole, sum(parts))


@pytest.mark.parametrize("stage", ["joint", "decoder"])
def test_what_must_be_exact_is_float32_under_autocast(config, model, stage) -> None:
    """Vectors of frozen codes, log-mel spectra, and the output of the context network."""
    learner = SpeechVQVAE(replace(config, stage=stage))
    learner.load_state_dict(model.state_dict())
    learner.eval()
    wav = torch.rand(2, 1, 4000, generator=torch.Generator().manual_seed(0)) * 0.4 - 0.2
    z_q, embedding = torch.randn(1, 4, 40), torch.randn(1, config.decoder.cond_hidden_channels)

    def found() -> list[torch.Tensor]:
        assert learner.spectrum is not None and learner.context is not None
        spectrum = learner.spectrum.log_mel.centred(wav[:, 0], 100)
        conditioning = learner.context.extend(z_q, embedding, learner.context.start(z_q))[0]
        return [spectrum, conditioning, learner.quantize(wav, torch.tensor([4000, 4000]))[0]]

    with torch.no_grad():
        exact = found()
        with torch.autocast("cpu", torch.bfloat16):
            under = found()
    assert [torch.equal(a, b) for a, b in zip(exact, under, strict=True)] == [True, True, stage == "decoder"]


def test_the_spectrum_error_ignores_padding(config) -> None:
    learner = SpeechVQVAE(replace(config, stage="codes"))
    learner.eval()
    target, lengths = torch.randint(16, (2, 800)), torch.tensor([800, 330])
    cond, audio = torch.randn(2, 6, 10), decoded_target(learner, target, lengths)
    assert audio[0].any() and not audio[1, 330:].any()
    alone = learner.spectrum_error_of_each(audio[1:, :400], cond[1:, :, :5], lengths[1:])
    torch.testing.assert_close(learner.spectrum_error_of_each(audio, cond, lengths)[1:], alone)


def test_spectrum_metrics_measure_codes_and_speakers(config, model) -> None:
    learner = SpeechVQVAE(replace(config, stage="codes"))
    learner.load_state_dict(model.state_dict())
    batch = {
        "wav": torch.rand(3, 1, 800) * 0.4 - 0.2,
        "target": torch.randint(16, (3, 800)),
        "speaker": torch.tensor([0, 1, 2]),
        "lengths": torch.tensor([800, 800, 320]),
    }
    metrics = conditioning_metrics(learner.eval(), [batch])
    with torch.no_grad():
        _, q = learner.quantize(batch["wav"], batch["lengths"])
        cond = learner.conditioned(q.z_q.roll(1, 0), batch["speaker"])
        audio = decoded_target(learner, batch["target"], batch["lengths"])
        other = learner.spectrum_error_of_each(audio, cond, batch["lengths"]).sum() / 24
    assert metrics["spectrum_error"] + metrics["conditioning_gap"] == pytest.approx(float(other), rel=1e-5)
    assert {"speaker_gap", "perplexity", "codebook_size"} <= set(metrics)
    one = {name: value[:1] for name, value in batch.items()}
    with pytest.raises(ValueError, match="at least 2"):
        conditioning_metrics(learner, [one])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "both"}, "one of 'joint', 'codes', 'context', 'decoder', 'istft'"),
        ({"context": ContextConfig()}, "needs a context network"),
        ({"spectrum": LogMelConfig(n_mels=10, hop_length=50, win_length=100)}, "divides"),
        ({"spectrum": LogMelConfig(), "stage": "codes"}, "spectrum.n_mels"),
        ({"spectrum_loss_weight": 0.0}, "spectrum_loss_weight"),
        ({"smoothed_spectrum_loss_weight": -1.0}, "smoothed_spectrum_loss_weight must be a finite number, 0 or more"),
        ({"smoothed_spectrum_loss_weight": 1.0, "spectrum": LogMelConfig()}, "set spectrum.n_mels"),
        (
            {"spectrum": LogMelConfig(n_mels=10, hop_length=40, win_length=100, equalizer_db=3.0)},
            "spectrum.equalizer_db 0",
        ),
    ],
)
def test_invalid_configurations_are_refused(config, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)
