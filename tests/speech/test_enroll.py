"""A voice is learned, and nothing else changes: weights, fingerprint, codes, the model that was there."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, Tokens
from vqaudio.data.corpora import folder
from vqaudio.nn.context import ContextConfig
from vqaudio.speech.enroll import Adapted, Learner, adapt
from vqaudio.speech.enroll_config import AdaptConfig
from vqaudio.speech.enroll_data import NewSpeakers, find_new_speakers
from vqaudio.speech.speakers import SPEAKER_WEIGHT, with_speakers

QUICK = AdaptConfig(steps=40, crop_samples=1024, batch_size=4)


def _state(model: SpeechVQVAE) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _changed(before: dict[str, Tensor], after: SpeechVQVAE, num_old: int = 3) -> set[str]:
    """Names of the weights that are no longer the same to the bit; of the speakers' embedding the old rows count."""
    found = after.state_dict()
    assert found.keys() == before.keys()
    old = {**found, SPEAKER_WEIGHT: found[SPEAKER_WEIGHT][:num_old]}
    return {name for name in before if not torch.equal(before[name], old[name])}


@pytest.fixture(scope="module")
def newcomers(speech: Path) -> NewSpeakers:
    return find_new_speakers(speech / "dora")


@pytest.fixture(scope="module")
def adapted(tiny_model: SpeechVQVAE, newcomers: NewSpeakers) -> Adapted:
    return adapt(tiny_model, newcomers, QUICK)


def test_a_new_row_is_learned_and_nothing_else_changes(
    tiny_model: SpeechVQVAE, newcomers: NewSpeakers, adapted: Adapted, speech: Path
) -> None:
    model, (voice,) = adapted
    assert model.speakers == (*tiny_model.speakers, "dora")
    assert not _changed(tiny_model.state_dict(), model)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert voice.name == "dora"
    assert (voice.seconds, voice.scored_seconds) == (5.0, 1.0)
    assert voice.bits < voice.bits_before <= voice.bits_mean + 0.05
    assert voice.gap == voice.bits_others - voice.bits > 0
    assert voice.bits_nearest - voice.bits > 0
    assert voice.nearest in tiny_model.speakers


def test_tokens_stay_valid(tiny_model: SpeechVQVAE, adapted: Adapted, speech: Path) -> None:
    assert adapted.model.fingerprint == tiny_model.fingerprint
    for path in sorted(speech.rglob("*.wav")):
        tokens = tiny_model.tokenize(path)
        assert torch.equal(adapted.model.tokenize(path).codes, tokens.codes)
    short = Tokens(tokens.codes[:40], 320, tokens.sample_rate, tokens.hop, tokens.model)
    assert torch.equal(adapted.model.decode(short, "bert"), tiny_model.decode(short, "bert"))
    assert not torch.equal(adapted.model.decode(short, "dora"), adapted.model.decode(short, "bert"))


def test_the_model_that_was_there_is_not_touched(tiny_model: SpeechVQVAE, newcomers: NewSpeakers) -> None:
    mine = copy.deepcopy(tiny_model)
    before = _state(mine)
    adapt(mine, newcomers, AdaptConfig(steps=2, crop_samples=256, decoder=True))
    assert mine.speakers == ("anna", "bert", "carl")
    assert not _changed(before, mine)


def test_the_same_again_is_the_same(tiny_model: SpeechVQVAE, newcomers: NewSpeakers) -> None:
    cfg = AdaptConfig(steps=5, crop_samples=512)
    one, two = (adapt(tiny_model, newcomers, cfg) for _ in range(2))
    other = adapt(tiny_model, newcomers, AdaptConfig(steps=5, crop_samples=512, seed=1))
    assert not _changed(_state(one.model), two.model, 4) and one.voices == two.voices
    assert _changed(_state(one.model), other.model, 4) == {SPEAKER_WEIGHT}


def test_the_decoder_learns_when_it_is_asked_to(tiny_model: SpeechVQVAE, newcomers: NewSpeakers) -> None:
    model, (voice,) = adapt(
        tiny_model, newcomers, AdaptConfig(steps=40, crop_samples=1024, decoder=True, decoder_lr=3e-3)
    )
    changed = _changed(tiny_model.state_dict(), model)
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert model.fingerprint == tiny_model.fingerprint
    assert voice.bits < voice.bits_before


def test_old_voices_are_held_where_the_decoder_learns(tiny_model: SpeechVQVAE, speech: Path) -> None:
    """`drift` is 0 before a step, and the divergence of both decoders after it; padding counts nowhere."""
    learner = Learner(with_speakers(tiny_model, ["x"]), keep=3)
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(16, (2, 64), generator=generator)
    z_q, speaker = torch.randn(2, 4, 8, generator=generator), torch.tensor([0, 2])
    lengths = torch.tensor([64, 40])
    assert learner.before is not None
    assert abs(learner.drift(learner.before, target, z_q, speaker, lengths).item()) < 1e-5
    with torch.no_grad():
        learner.model.decoder.out.bias.add_(torch.arange(16) * 0.1)
        x = tiny_model.decoder.shift(target)
        p = tiny_model.decoder(x, z_q, speaker)[0].softmax(1)
        q = learner.model.decoder(x, z_q, speaker)[0].softmax(1)
        each = (p * (p / q).log()).sum(1)
        expected = (each[0].sum() + each[1, :40].sum()) / 104
        found = learner.drift(learner.before, target, z_q, speaker, lengths)
    assert found == pytest.approx(expected.item(), rel=1e-4)
    assert found > 0.01


def test_old_voices_are_held_in_the_context_too(tiny_config: SpeechVQVAEConfig, initialised, randomise) -> None:
    """A context hears the voices: those of before are held to, in what was said before."""
    cfg = replace(tiny_config, context=ContextConfig(dilations=(1, 2), channels=6))
    model = initialised(cfg)
    randomise(model.context, seed=5).requires_grad_(False)
    learner = Learner(with_speakers(model, ["x"]), keep=3)
    generator = torch.Generator().manual_seed(0)
    target, z_q = torch.randint(16, (2, 64), generator=generator), torch.randn(2, 4, 8, generator=generator)
    speaker, lengths = torch.tensor([0, 2]), torch.tensor([64, 64])
    now, before = learner.model.decoder, learner.before
    assert before is not None and now.speaker is not None and model.context is not None
    assert abs(learner.drift(before, target, z_q, speaker, lengths).item()) < 1e-5
    with torch.no_grad():
        now.speaker.weight[:3] += torch.randn(3, now.speaker.weight.shape[1], generator=generator)
        x = now.shift(target)
        p = model.decoder(x, model.conditioned(z_q, speaker), speaker)[0].log_softmax(1)
        q = now(x, model.context(z_q, now.speaker(speaker)), speaker)[0].log_softmax(1)
        expected = (p.exp() * (p - q)).sum(1).mean()
        found = learner.drift(before, target, z_q, speaker, lengths)
    assert found == pytest.approx(expected.item(), rel=1e-4)
    assert found > 0.001


def test_what_is_frozen_is_never_in_training_mode(tiny_model: SpeechVQVAE) -> None:
    learner = Learner(with_speakers(tiny_model, ["x"]), keep=3).train()
    assert learner.training and [name for name, module in learner.named_modules() if module.training] == [""]
    trained = {name for name, parameter in learner.model.named_parameters() if parameter.requires_grad}
    assert trained == {f"decoder.{name}" for name, _ in tiny_model.decoder.named_parameters()}
    learner = Learner(with_speakers(tiny_model, ["x"]))
    assert [name for name, p in learner.model.named_parameters() if p.requires_grad] == [SPEAKER_WEIGHT]


def test_several_speakers_at_once(tiny_model: SpeechVQVAE, speech: Path) -> None:
    utterances = folder(speech)
    both = NewSpeakers([u for u in utterances if u.path.stem != "3"], [u for u in utterances if u.path.stem == "3"])
    model, voices = adapt(tiny_model, both, AdaptConfig(steps=60, crop_samples=1024))
    assert [voice.name for voice in voices] == ["dora", "emil"]
    assert model.speakers == ("anna", "bert", "carl", "dora", "emil")
    assert not _changed(tiny_model.state_dict(), model)
    assert all(voice.bits < voice.bits_before and voice.gap > 0 for voice in voices)
    rows = model.state_dict()[SPEAKER_WEIGHT]
    assert not torch.equal(rows[3], rows[4])


def test_models_and_names_that_do_not_fit_are_refused(tiny_model: SpeechVQVAE, speech: Path) -> None:
    with pytest.raises(ValueError, match=r"speaker 'anna' is in this model already.*--speaker"):
        adapt(tiny_model, find_new_speakers(speech / "dora", "anna"), QUICK)
    silent = SpeechVQVAE(SpeechVQVAEConfig(encoder=tiny_model.cfg.encoder, quantizer=tiny_model.cfg.quantizer)).eval()
    with pytest.raises(ValueError, match="this model has no speakers"):
        adapt(silent, find_new_speakers(speech / "dora"), QUICK)


def test_a_run_that_diverges_says_so(tiny_model: SpeechVQVAE, newcomers: NewSpeakers) -> None:
    with pytest.raises(ValueError, match="no voice was learned, try a smaller --lr"):
        adapt(tiny_model, newcomers, AdaptConfig(steps=3, crop_samples=256, decoder=True, decoder_lr=1e38))


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"crop_samples": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"decoder_lr": -1.0},
    ],
)
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        AdaptConfig(**settings)  # pyright: ignore[reportArgumentType]


def test_with_speakers_begins_at_the_mean(tiny_model: SpeechVQVAE) -> None:
    generator_state = torch.random.get_rng_state()
    grown = with_speakers(tiny_model, ["x", "y"])
    assert torch.equal(torch.random.get_rng_state(), generator_state)
    rows, old = grown.state_dict()[SPEAKER_WEIGHT], tiny_model.state_dict()[SPEAKER_WEIGHT]
    assert torch.equal(rows, torch.cat([old, old.mean(0).expand(2, -1)]))
    assert not _changed(tiny_model.state_dict(), grown)
    given = torch.rand(1, rows.shape[1])
    assert torch.equal(with_speakers(tiny_model, ["x"], given).state_dict()[SPEAKER_WEIGHT][3:], given)


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "at least one"), ([""], "empty name"), (["x", "x"], "different names"), (["x", "carl"], "'carl' is in")],
)
def test_names_are_checked(tiny_model: SpeechVQVAE, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_speakers(tiny_model, names)
