"""Adding a speaker trains its embedding and changes nothing else: other weights, fingerprint, codes, original model."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, Tokens
from vqaudio.data.corpora import folder
from vqaudio.nn.context import ContextConfig
from vqaudio.speech import enroll
from vqaudio.speech.enroll import Adapted, EnrollmentObjective, adapt
from vqaudio.speech.enroll_config import AdaptConfig
from vqaudio.speech.enroll_data import NewSpeakers, find_new_speakers
from vqaudio.speech.speakers import SPEAKER_WEIGHT, with_speakers

QUICK = AdaptConfig(steps=40, crop_samples=1024, batch_size=4)


def _state(model: SpeechVQVAE) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _changed(before: dict[str, Tensor], after: SpeechVQVAE, num_old: int = 3) -> set[str]:
    """Names of the weights that are not bit-identical; of the speaker embedding, only the first rows are compared."""
    state = after.state_dict()
    assert state.keys() == before.keys()
    compared = {**state, SPEAKER_WEIGHT: state[SPEAKER_WEIGHT][:num_old]}
    return {name for name in before if not torch.equal(before[name], compared[name])}


@pytest.fixture(scope="module")
def new_speakers(speech: Path) -> NewSpeakers:
    return find_new_speakers(speech / "dora")


@pytest.fixture(scope="module")
def adapted(tiny_model: SpeechVQVAE, new_speakers: NewSpeakers) -> Adapted:
    return adapt(tiny_model, new_speakers, QUICK)


def test_a_new_embedding_is_trained_and_nothing_else_changes(
    tiny_model: SpeechVQVAE, new_speakers: NewSpeakers, adapted: Adapted, speech: Path
) -> None:
    model, (speaker,) = adapted
    assert model.speakers == (*tiny_model.speakers, "dora")
    assert not _changed(tiny_model.state_dict(), model)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert speaker.name == "dora"
    assert (speaker.seconds, speaker.held_out_seconds) == (5.0, 1.0)
    assert speaker.bits < speaker.bits_initial <= speaker.bits_mean_embedding + 0.05
    assert speaker.conditioning_gap == speaker.bits_other_speakers - speaker.bits > 0
    assert speaker.bits_nearest_speaker - speaker.bits > 0
    assert speaker.nearest_speaker in tiny_model.speakers


def test_tokens_stay_valid(tiny_model: SpeechVQVAE, adapted: Adapted, speech: Path) -> None:
    assert adapted.model.fingerprint == tiny_model.fingerprint
    for path in sorted(speech.rglob("*.wav")):
        tokens = tiny_model.tokenize(path)
        assert torch.equal(adapted.model.tokenize(path).codes, tokens.codes)
    short = Tokens(tokens.codes[:40], 320, tokens.sample_rate, tokens.hop, tokens.model)
    assert torch.equal(adapted.model.decode(short, "bert"), tiny_model.decode(short, "bert"))
    assert not torch.equal(adapted.model.decode(short, "dora"), adapted.model.decode(short, "bert"))


def test_the_original_model_is_not_modified(tiny_model: SpeechVQVAE, new_speakers: NewSpeakers) -> None:
    original = copy.deepcopy(tiny_model)
    before = _state(original)
    adapt(original, new_speakers, AdaptConfig(steps=2, crop_samples=256, decoder=True))
    assert original.speakers == ("anna", "bert", "carl")
    assert not _changed(before, original)


def test_the_device_is_that_of_the_model_from_the_start(
    tiny_model: SpeechVQVAE, new_speakers: NewSpeakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What measures the pitch of the new speakers would otherwise take an available GPU for the whole run."""
    AcceleratorState._reset_state(reset_partial_state=True)
    seen: list[bool] = []
    monkeypatch.setattr(enroll, "initialise_pitch", lambda *_: seen.append(PartialState()._cpu))
    adapt(tiny_model, new_speakers, AdaptConfig(steps=1, crop_samples=256))
    assert seen == [True]


def test_adapting_is_reproducible(tiny_model: SpeechVQVAE, new_speakers: NewSpeakers) -> None:
    cfg = AdaptConfig(steps=5, crop_samples=512)
    one, two = (adapt(tiny_model, new_speakers, cfg) for _ in range(2))
    other = adapt(tiny_model, new_speakers, AdaptConfig(steps=5, crop_samples=512, seed=1))
    assert not _changed(_state(one.model), two.model, 4) and one.speakers == two.speakers
    assert _changed(_state(one.model), other.model, 4) == {SPEAKER_WEIGHT}


def test_the_decoder_is_trained_on_request(tiny_model: SpeechVQVAE, new_speakers: NewSpeakers) -> None:
    model, (speaker,) = adapt(
        tiny_model, new_speakers, AdaptConfig(steps=40, crop_samples=1024, decoder=True, decoder_lr=3e-3)
    )
    changed = _changed(tiny_model.state_dict(), model)
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert model.fingerprint == tiny_model.fingerprint
    assert speaker.bits < speaker.bits_initial


def test_distillation_keeps_the_original_speakers(tiny_model: SpeechVQVAE, speech: Path) -> None:
    """The loss is 0 for equal decoders, otherwise their mean KL divergence; padding does not count."""
    objective = EnrollmentObjective(with_speakers(tiny_model, ["x"]), distilled_speakers=3)
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(16, (2, 64), generator=generator)
    z_q, speaker = torch.randn(2, 4, 8, generator=generator), torch.tensor([0, 2])
    lengths = torch.tensor([64, 40])
    assert objective.teacher is not None
    assert abs(objective.distillation_loss(objective.teacher, target, z_q, speaker, lengths).item()) < 1e-5
    with torch.no_grad():
        objective.model.decoder.out.bias.add_(torch.arange(16) * 0.1)
        x = tiny_model.decoder.shift(target)
        p = tiny_model.decoder(x, z_q, speaker)[0].softmax(1)
        q = objective.model.decoder(x, z_q, speaker)[0].softmax(1)
        each = (p * (p / q).log()).sum(1)
        expected = (each[0].sum() + each[1, :40].sum()) / 104
        loss = objective.distillation_loss(objective.teacher, target, z_q, speaker, lengths)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert loss > 0.01


def test_distillation_includes_the_context(tiny_config: SpeechVQVAEConfig, initialised, randomise) -> None:
    """The context depends on the speaker embedding; the teacher's context uses the teacher's embedding."""
    cfg = replace(tiny_config, context=ContextConfig(dilations=(1, 2), channels=6))
    model = initialised(cfg)
    randomise(model.context, seed=5).requires_grad_(False)
    objective = EnrollmentObjective(with_speakers(model, ["x"]), distilled_speakers=3)
    generator = torch.Generator().manual_seed(0)
    target, z_q = torch.randint(16, (2, 64), generator=generator), torch.randn(2, 4, 8, generator=generator)
    speaker, lengths = torch.tensor([0, 2]), torch.tensor([64, 64])
    student, teacher = objective.model.decoder, objective.teacher
    assert teacher is not None and student.speaker is not None and model.context is not None
    assert abs(objective.distillation_loss(teacher, target, z_q, speaker, lengths).item()) < 1e-5
    with torch.no_grad():
        student.speaker.weight[:3] += torch.randn(3, student.speaker.weight.shape[1], generator=generator)
        x = student.shift(target)
        p = model.decoder(x, model.conditioned(z_q, speaker), speaker)[0].log_softmax(1)
        q = student(x, model.context(z_q, student.speaker(speaker)), speaker)[0].log_softmax(1)
        expected = (p.exp() * (p - q)).sum(1).mean()
        loss = objective.distillation_loss(teacher, target, z_q, speaker, lengths)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert loss > 0.001


def test_frozen_modules_are_never_in_training_mode(tiny_model: SpeechVQVAE) -> None:
    objective = EnrollmentObjective(with_speakers(tiny_model, ["x"]), distilled_speakers=3).train()
    assert objective.training and [name for name, module in objective.named_modules() if module.training] == [""]
    trained = {name for name, parameter in objective.model.named_parameters() if parameter.requires_grad}
    assert trained == {f"decoder.{name}" for name, _ in tiny_model.decoder.named_parameters()}
    objective = EnrollmentObjective(with_speakers(tiny_model, ["x"]))
    assert [name for name, p in objective.model.named_parameters() if p.requires_grad] == [SPEAKER_WEIGHT]


def test_several_speakers_at_once(tiny_model: SpeechVQVAE, speech: Path) -> None:
    utterances = folder(speech)
    both = NewSpeakers([u for u in utterances if u.path.stem != "3"], [u for u in utterances if u.path.stem == "3"])
    model, speakers = adapt(tiny_model, both, AdaptConfig(steps=60, crop_samples=1024))
    assert [speaker.name for speaker in speakers] == ["dora", "emil"]
    assert model.speakers == ("anna", "bert", "carl", "dora", "emil")
    assert not _changed(tiny_model.state_dict(), model)
    assert all(speaker.bits < speaker.bits_initial and speaker.conditioning_gap > 0 for speaker in speakers)
    rows = model.state_dict()[SPEAKER_WEIGHT]
    assert not torch.equal(rows[3], rows[4])


def test_unsuitable_models_and_names_are_refused(tiny_model: SpeechVQVAE, speech: Path) -> None:
    with pytest.raises(ValueError, match=r"speaker 'anna' is in this model already.*--speaker"):
        adapt(tiny_model, find_new_speakers(speech / "dora", "anna"), QUICK)
    without_speakers = SpeechVQVAE(
        SpeechVQVAEConfig(encoder=tiny_model.cfg.encoder, quantizer=tiny_model.cfg.quantizer)
    ).eval()
    with pytest.raises(ValueError, match="this model has no speakers"):
        adapt(without_speakers, find_new_speakers(speech / "dora"), QUICK)


def test_a_run_that_diverges_is_reported(tiny_model: SpeechVQVAE, new_speakers: NewSpeakers) -> None:
    with pytest.raises(ValueError, match="no speaker was added, try a smaller --lr"):
        adapt(tiny_model, new_speakers, AdaptConfig(steps=3, crop_samples=256, decoder=True, decoder_lr=1e38))


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


def test_new_embeddings_start_at_the_mean(tiny_model: SpeechVQVAE) -> None:
    generator_state = torch.random.get_rng_state()
    extended = with_speakers(tiny_model, ["x", "y"])
    assert torch.equal(torch.random.get_rng_state(), generator_state)
    rows, existing = extended.state_dict()[SPEAKER_WEIGHT], tiny_model.state_dict()[SPEAKER_WEIGHT]
    assert torch.equal(rows, torch.cat([existing, existing.mean(0).expand(2, -1)]))
    assert not _changed(tiny_model.state_dict(), extended)
    given = torch.rand(1, rows.shape[1])
    assert torch.equal(with_speakers(tiny_model, ["x"], given).state_dict()[SPEAKER_WEIGHT][3:], given)


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "at least one"), ([""], "empty name"), (["x", "x"], "different names"), (["x", "carl"], "'carl' is in")],
)
def test_names_are_checked(tiny_model: SpeechVQVAE, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_speakers(tiny_model, names)
