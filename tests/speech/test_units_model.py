"""A speech model with a level-free front-end and the unit objective, from training to a decoder of its codes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vqaudio import SpeechVQVAE, load_model, save_model
from vqaudio.checkpoint import ModelError
from vqaudio.metrics.conditioning_gap import conditioning_metrics
from vqaudio.nn.context import ContextConfig
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.log_mel_cmn import LogMelCMN, LogMelCMNConfig
from vqaudio.nn.pcen import PCENConfig
from vqaudio.nn.units import UnitsConfig
from vqaudio.speech.config import CODE_PARTS
from vqaudio.speech.frontend_init import initialise_frontend
from vqaudio.speech.init_from import init_from
from vqaudio.training.health import assess

UNITS = UnitsConfig(
    num_clusters=5, num_cepstra=3, hop_length=40, channels=6, cluster_offsets=(-1, 0, 2), cepstrum_offsets=(0, 3)
)
SPECTRUM = {"context": ContextConfig(dilations=(1,), channels=6), "spectrum": LogMelConfig(10, 40, 100)}


@pytest.fixture(scope="module")
def config(tiny_config):
    """Hop 80, log_mel_cmn, target: units, no context network."""
    front = LogMelCMNConfig(n_mels=12, hop_length=40, win_length=100)
    encoder = EncoderConfig(strides=(2,), channels=(8,), dilations=(1,), dim=4, lookahead=70, frontend=front)
    return replace(tiny_config, encoder=encoder, stage="codes", target="units", units=UNITS)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "wav": torch.rand(3, 1, 800, generator=generator) * 0.4 - 0.2,
        "target": torch.randint(16, (3, 800), generator=generator),
        "speaker": torch.tensor([0, 1, 2]),
        "lengths": torch.tensor([800, 800, 320]),
        "past": torch.rand(3, 1, 160, generator=generator) * 0.4 - 0.2,
        "past_lengths": torch.tensor([160, 0, 80]),
        "future": torch.rand(3, 1, 70, generator=generator) * 0.4 - 0.2,
        "units": torch.randint(5, (3, 26), generator=generator),
        "cepstra": torch.randn(3, 26, 3, generator=generator),
    }


def _trained(cfg, batch, randomise):
    torch.manual_seed(0)
    model = SpeechVQVAE(cfg).train()
    randomise(model.encoder)
    loss, logs = model(**batch)
    loss.backward()
    return model, logs


def test_codes_are_trained_by_the_units(config, batch, randomise) -> None:
    model, logs = _trained(config, batch, randomise)
    assert {"cluster_bits", "cepstrum_error", "perplexity"} <= set(logs) and "bits_per_sample" not in logs
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"encoder", "units", "decoder"}
    assert [n for n, p in model.decoder.named_parameters() if p.grad is not None] == ["speaker.weight"]
    no_target = {**batch, "units": torch.full_like(batch["units"], -1)}
    assert model(**no_target)[0].isfinite()
    with pytest.raises(ValueError, match="needs the targets units and cepstra"):
        model(**{name: value for name, value in batch.items() if name != "units"})


def test_a_spectrum_head_does_not_change_the_codes(config, batch, randomise) -> None:
    model, logs = _trained(replace(config, context=SPECTRUM["context"]), batch, randomise)
    speaking, own_logs = _trained(replace(config, **SPECTRUM), batch, randomise)
    assert set(own_logs) - set(logs) == {"spectrum_error"}
    assert model.context is not None and not any(p.requires_grad for p in model.context.parameters())  # unused
    speaking.load_state_dict(model.state_dict(), strict=False)
    gradients = []
    for each in (model, speaking):
        each.zero_grad()
        each.eval()(**batch)[0].backward()
        gradients.append({name: p.grad for name, p in each.encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    context = speaking.context
    assert context is not None and all(p.grad is not None for p in context.parameters())


def test_losses_of_parts_make_that_of_the_whole(config, batch, initialised) -> None:
    model = initialised(replace(config, stage="decoder"), samples=4000)
    learner = SpeechVQVAE(config).eval()
    learner.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        whole = learner(**batch)[0]
        parts = [learner(**{name: value[i : i + 1] for name, value in batch.items()})[0] for i in range(3)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_metrics_and_verdict(config, batch, randomise) -> None:
    model, _ = _trained(replace(config, **SPECTRUM), batch, randomise)
    model.eval()
    metrics = conditioning_metrics(model, [batch, batch])
    with torch.no_grad():
        logs = model(**batch)[1]
        assert metrics["cluster_bits"] == pytest.approx(logs["cluster_bits"].item(), rel=1e-4)
        assert metrics["cepstrum_error"] == pytest.approx(logs["cepstrum_error"].item(), rel=1e-4)
        assert metrics["spectrum_error"] == pytest.approx(logs["spectrum_error"].item(), rel=1e-4)
        _, q = model.quantize(*(batch[name] for name in ("wav", "lengths", "past", "past_lengths", "future")))
        mask = model.valid_frames(batch["lengths"], 10)
        other = model.unit_losses(q.z_q.roll(1, 0), batch["speaker"], mask, batch["units"], batch["cepstra"])
        nats, error = (
            other.cross_entropy.sum() / other.num_clusters.sum(),
            other.squared_error.sum() / other.num_cepstra.sum(),
        )
    assert metrics["unit_loss"] + metrics["conditioning_gap"] == pytest.approx(float(nats + error), rel=1e-4)
    good = {"unit_loss": 3.0, "conditioning_gap": 2.0, "speaker_gap": 0.0, "perplexity": 9.0, "codebook_size": 16.0}
    assert assess(good, 500).name == "healthy"  # the targets do not depend on the speaker
    assert assess({**good, "conditioning_gap": 0.0}, 500).name == "posterior collapse"
    assert assess({**good, "perplexity": 1.0}, 500).name == "codebook collapse"
    one = {name: value[:1] for name, value in batch.items()}
    with pytest.raises(ValueError, match="at least 2"):
        conditioning_metrics(model, [one])
    with pytest.raises(ValueError, match="no batch"):
        conditioning_metrics(model, [])


def test_a_decoder_is_trained_on_the_codes_afterwards(config, batch, initialised, tmp_path, randomise) -> None:
    model, _ = _trained(config, batch, randomise)
    save_model(model.eval(), tmp_path)
    later = SpeechVQVAE(replace(config, stage="decoder", **SPECTRUM))
    (left,) = init_from(later, [tmp_path]).values()
    assert {name.split(".")[0] for name in left} == {"context", "spectrum", "decoder"}
    assert later.units is None and later.fingerprint == model.fingerprint
    before = {name: value.clone() for name, value in later.encoder.state_dict().items()}
    loss, logs = later.train()(**{name: value for name, value in batch.items() if name not in ("units", "cepstra")})
    loss.backward()
    assert {"bits_per_sample", "spectrum_error"} <= set(logs)
    assert all(torch.equal(value, before[name]) for name, value in later.encoder.state_dict().items())
    assert later.fingerprint == model.fingerprint


# --- the constants of the front-end ---


def test_an_encoder_continues_with_another_front_end(config, batch, randomise, tmp_path) -> None:
    """Its weights are copied, and the constants of the new front-end are computed from speech."""
    front = LogMelConfig(n_mels=12, hop_length=40, win_length=100)
    cfg = replace(config, target="spectrum", encoder=replace(config.encoder, frontend=front), **SPECTRUM)
    source, _ = _trained(cfg, {k: v for k, v in batch.items() if k not in ("units", "cepstra")}, randomise)
    save_model(source.eval(), tmp_path)
    later = SpeechVQVAE(replace(cfg, encoder=config.encoder))
    (left,) = init_from(later, [tmp_path]).values()
    old, new = source.state_dict(), later.state_dict()
    constants = {name for name in new if name.startswith("encoder.frontend.")}
    front = later.encoder.get_submodule("frontend")
    assert constants and constants <= {*left} and not front.initialised
    copied = {name for name in new if name.startswith(CODE_PARTS)} - constants
    assert copied.isdisjoint(left) and all(torch.equal(new[name], old[name]) for name in copied)
    with pytest.raises(ModelError, match="freezes encoder and codebook"):
        init_from(SpeechVQVAE(replace(later.cfg, stage="context")), [tmp_path])
    front.get_buffer("initialised").fill_(True)
    save_model(later.eval(), tmp_path / "later")
    unwarped = replace(config.encoder, frontend=replace(config.encoder.frontend, warp=0.05))  # decides no code
    again = SpeechVQVAE(replace(later.cfg, stage="context", encoder=unwarped))
    init_from(again, [tmp_path / "later"])
    assert again.encoder.get_submodule("frontend").initialised and again.fingerprint == later.fingerprint


@pytest.mark.parametrize("kind", [LogMelCMNConfig, PCENConfig])
def test_constants_are_saved_and_in_the_fingerprint(config, initialised, tmp_path, kind) -> None:
    front = kind(n_mels=12, hop_length=40, win_length=100)
    cfg = replace(config, stage="decoder", target="spectrum", encoder=replace(config.encoder, frontend=front))
    model = initialised(cfg, samples=4000)
    made = model.encoder.frontend
    seen = {model.fingerprint}
    for name, buffer in made.named_buffers():
        if name in made.state_dict():
            buffer.copy_(~buffer if buffer.dtype == torch.bool else buffer + 1)
            assert model.fingerprint not in seen, name
            seen.add(model.fingerprint)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.fingerprint == model.fingerprint and loaded.cfg == model.cfg
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    other = replace(front, f_max=7000.0)
    changed = SpeechVQVAE(replace(cfg, encoder=replace(cfg.encoder, frontend=other)))
    changed.load_state_dict(model.state_dict())
    assert changed.fingerprint != model.fingerprint


def test_the_recipe_initialises_the_front_end_once(config, tmp_path) -> None:
    import numpy as np

    from vqaudio.data.packed import PackedSpeech

    rng = np.random.default_rng(0)
    samples = (rng.normal(size=30000) * 1000).astype(np.int16)
    speech = PackedSpeech(
        16000, ("a",), ("x", "y"), np.array([0, 10000]), np.array([10000, 20000]), np.zeros(2, np.int64), samples, ""
    )
    model, same = SpeechVQVAE(config), SpeechVQVAE(config)
    assert initialise_frontend(model, speech) and not initialise_frontend(model, speech)
    front = model.encoder.frontend
    assert isinstance(front, LogMelCMN) and front.initialised
    initialise_frontend(same, speech)
    theirs = same.encoder.frontend
    assert isinstance(theirs, LogMelCMN) and torch.equal(front.std, theirs.std)
    assert not initialise_frontend(
        SpeechVQVAE(
            replace(config, stage="codes", encoder=replace(config.encoder, frontend=LogMelConfig(12, 40, 100)))
        ),
        speech,
    )


# --- codes ---


def test_codes_do_not_depend_on_the_level_or_on_how_the_audio_arrives(config, initialised) -> None:
    model = initialised(replace(config, stage="decoder", target="spectrum"), samples=4000, peak=0.3)
    generator = torch.Generator().manual_seed(1)
    wav = torch.randn(60000, generator=generator) * 0.02 * (1 + (torch.arange(60000) / 4000).sin())
    codes = model.tokenize(wav).codes
    assert len(codes.unique()) > 2
    for cuts in ([1, 7000, 52999], [20000] * 3):
        streamed = torch.cat(list(model.encode_stream(wav.split(cuts))))
        assert torch.equal(streamed, codes)
    for factor in (0.5, 0.25, 2.0):  # powers of two, which round nothing, and one that does
        assert torch.equal(model.tokenize(wav * factor).codes, codes)
    assert (model.tokenize(wav * 0.7).codes != codes).float().mean() < 0.01
    both, _ = model.encode(torch.stack([wav, wav.flip(0)])[:, None], torch.tensor([60000, 31000]))
    assert torch.equal(both[0], codes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "hubert"}, "'spectrum' or 'units'"),
        ({"stage": "joint"}, "got stage: joint"),
        ({"target": "spectrum"}, "target: units, or stage: joint"),
        ({"units": replace(UNITS, hop_length=60)}, "divide the hop"),
    ],
)
def test_invalid_configurations_are_refused(config, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)
