"""A fingerprint covers all that decides codes, notices every write, and stays what it was."""

import copy
import pickle
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import pytest
import torch

from vqaudio import SpeechVQVAE, load_model
from vqaudio.fingerprint import CachedFingerprint, FingerprintFields, config_facts, fingerprint, merge_facts
from vqaudio.images.autoencoder import ImageCoderConfig
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.frontend import LogMelConfig
from vqaudio.nn.fsq import FSQConfig
from vqaudio.nn.quantizer import QuantizerConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.config import SpeechVQVAEConfig
from vqaudio.speech.prior import CodePrior, CodePriorConfig

CONFIGS = [
    EncoderConfig,
    LogMelConfig,
    *get_args(QuantizerConfig),
    SpeechVQVAEConfig,
    ImageConfig,
    ImageCoderConfig,
    CodePriorConfig,
    WaveNetConfig,
]
OTHER_VALUES = {  # of fields whose value cannot be changed by a rule
    "codebook_update": "gradient",
    "strides": (2, 2, 2, 2, 2, 4),
    "channels": (32, 32, 64, 64, 128, 255),
    "dilations": (1, 2, 4, 7),
    "levels": (8, 5, 5, 6),
    "speakers": ("a",),
    "model": "x",
    "win_length": 401,
}


# --- every field is listed ---


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_is_listed_once(config: type) -> None:
    """Fails with the name of a new field. See FingerprintFields for where it belongs."""
    config_facts(config())


def test_a_field_that_is_not_listed_is_named() -> None:
    @dataclass(frozen=True)
    class Wider(EncoderConfig):
        groups: int = 1

    with pytest.raises(TypeError, match=r"Wider.FINGERPRINT must list each field once.*'groups' is listed 0 times"):
        config_facts(Wider())

    listed = EncoderConfig.FINGERPRINT

    @dataclass(frozen=True)
    class Listed(EncoderConfig):
        FINGERPRINT = replace(listed, never=(*listed.never, "groups"))

    with pytest.raises(TypeError, match="'groups' is no field"):
        config_facts(Listed())

    @dataclass(frozen=True)
    class Twice(EncoderConfig):
        FINGERPRINT = replace(listed, never=(*listed.never, "dim"))

    with pytest.raises(TypeError, match="'dim' is listed 2 times"):
        config_facts(Twice())


def _changed(config: Any, name: str) -> Any:
    value = getattr(config, name)
    return OTHER_VALUES.get(
        name, not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 0.4
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_the_facts_change_with_covered_fields_alone(config: type) -> None:
    before, covered = config(), config.FINGERPRINT
    for each in fields(config):
        if each.name in ("kind", *covered.nested):
            continue
        value = _changed(before, each.name)
        changed = copy.copy(before)
        object.__setattr__(changed, each.name, value)  # without validation: some combinations are invalid
        differs = config_facts(changed) != config_facts(before)
        assert differs == (each.name in (*covered.always, *covered.unless_default)), each.name


def test_a_later_field_at_its_default_changes_nothing() -> None:
    @dataclass(frozen=True)
    class Later:
        FINGERPRINT = FingerprintFields(always={"size": "old_name"}, unless_default=("later",))
        size: int = 3
        later: tuple[int, ...] = (1,)

    assert config_facts(Later()) == {"old_name": 3}
    assert config_facts(Later(later=(2,))) == {"old_name": 3, "later": (2,)}


def test_kinds_of_quantizer_have_different_facts() -> None:
    assert config_facts(FSQConfig())["kind"] == "fsq"
    assert "kind" not in config_facts(VectorQuantizerConfig())


def test_facts_of_a_speech_model_are_those_of_format_1() -> None:
    encoder = EncoderConfig(frontend=LogMelConfig(n_mels=80, warp=0.1), strides=(1,), channels=(8,))
    facts = SpeechVQVAEConfig(encoder=encoder, quantizer=VectorQuantizerConfig(unit_norm=True)).facts_of_codes()
    assert facts == {
        "strides": (1,),
        "channels": (8,),
        "dilations": (1, 2, 4, 8),
        "kernel_size": 3,
        "width": 64,
        "lookahead": 512,
        "gain": 10.0,
        "sample_rate": 16000,
        "normalizer": "frame",
        "codes": 512,
        "unit_norm": True,
        "front": {"bands": 80, "hop": 160, "window": 400, "lowest": 40.0, "highest": 7600.0},
    }
    assert "front" not in SpeechVQVAEConfig().facts_of_codes()


def test_facts_of_an_image_model_are_those_of_format_1() -> None:
    facts = {"maps": 1, "normalizer": "none", "unit_norm": False, "codes": 512}
    assert ImageConfig().facts_of_codes() == facts
    unit = ImageConfig(quantizer=VectorQuantizerConfig(unit_norm=True))
    assert unit.facts_of_codes() == {**facts, "unit_norm": True}


def test_no_fact_replaces_another() -> None:
    assert merge_facts({"a": 1}, {}, {"b": {"a": 2}}) == {"a": 1, "b": {"a": 2}}
    with pytest.raises(ValueError, match="the fact 'a' occurs twice"):
        merge_facts({"a": 1}, {"b": 2}, {"a": 1})

    @dataclass(frozen=True)
    class Wide(VectorQuantizerConfig):
        FINGERPRINT = FingerprintFields(
            always={"channels": "channels", "stages": "maps"},
            never=tuple(each.name for each in fields(VectorQuantizerConfig)),
        )
        channels: int = 3
        stages: int = 2

    with pytest.raises(ValueError, match="the fact 'channels' occurs twice"):
        SpeechVQVAEConfig(quantizer=Wide()).facts_of_codes()
    with pytest.raises(ValueError, match="the fact 'maps' occurs twice"):
        ImageConfig(quantizer=Wide()).facts_of_codes()


def test_the_shipped_models_keep_their_fingerprints() -> None:
    assert load_model("mini").fingerprint == "6f16c80f3ba3"
    assert load_model("units").fingerprint == "c22939815212"


def test_models_keep_the_fingerprints_of_format_1() -> None:
    """As the code computed them that wrote format 1, of models whose weights are all 0.5."""
    coder = ImageCoderConfig(channels=6, blocks=1, num_maps=2, dim=3, num_mixtures=2)
    net = WaveNetConfig(
        num_classes=16, layers=4, layers_per_stack=2, residual_channels=6, skip_channels=8, input_noise=0.1
    )
    models = [
        ImageVQVAE(ImageConfig(size=8, coder=coder, quantizer=VectorQuantizerConfig(codebook_size=6, dim=3))),
        CodePrior(CodePriorConfig(speakers=("a", "b"), model="0123456789ab", frame_rate=100, net=net)),
    ]
    for model in models:
        for weight in model.state_dict().values():
            weight.fill_(0.5)
    assert [model.fingerprint for model in models] == ["c2f5931be9d3", "cc9489872ae3"]


# --- every write is noticed ---


def _fresh(model: SpeechVQVAE) -> str:
    """The fingerprint, computed from nothing."""
    return copy.deepcopy(model).fingerprint


def test_weights_changed_through_data_are_noticed(tiny_model: SpeechVQVAE) -> None:
    model = copy.deepcopy(tiny_model)
    seen = {model.fingerprint}
    weights = {**model.encoder.state_dict(), **model.quantizer.code_weights()}
    for name, weight in weights.items():
        version = weight._version
        weight.data.view(-1)[-1] += 1e-3
        assert weight._version == version  # which is why a version counter is not enough
        assert model.fingerprint not in seen, name
        assert model.fingerprint == _fresh(model)
        seen.add(model.fingerprint)


def test_tokens_of_a_changed_model_are_refused(tiny_model: SpeechVQVAE) -> None:
    model, wav = copy.deepcopy(tiny_model), torch.rand(100, generator=torch.Generator().manual_seed(0)) - 0.5
    before = model.tokenize(wav, 16000)
    model.check_tokens(before)
    for parameter in model.encoder.parameters():
        parameter.data.mul_(1.1)
    with pytest.raises(ValueError, match=f"made by model {before.model}, this is model {_fresh(model)}"):
        model.check_tokens(before)
    model.check_tokens(model.tokenize(wav, 16000))


def test_priors_and_image_models_notice_too() -> None:
    net = WaveNetConfig(num_classes=16, layers=2, residual_channels=4, skip_channels=4)
    coder = ImageCoderConfig(channels=6, blocks=1, dim=3)
    for model in (
        CodePrior(CodePriorConfig(net=net)),
        ImageVQVAE(ImageConfig(size=8, coder=coder, quantizer=VectorQuantizerConfig(dim=3))),
    ):
        before = model.fingerprint
        next(model.parameters()).data.mul_(1.1)
        assert model.fingerprint != before


def test_the_cache_is_the_hash() -> None:
    cache, weights = CachedFingerprint(), {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor(3), "c": torch.tensor(True)}

    def check() -> str:
        found = cache.of({"x": 1}, weights)
        assert found == cache.of({"x": 1}, weights) == fingerprint({"x": 1}, weights)
        return found

    seen = [check()]
    for change in (
        lambda: weights["a"].data.fill_(float("nan")),
        lambda: weights["a"].data.fill_(0.0),
        lambda: weights["a"].data.fill_(-0.0),
        lambda: weights["b"].data.add_(1),
        lambda: weights["c"].data.logical_not_(),
        lambda: weights.update(a=weights["a"].double()),
        lambda: weights.pop("c"),
    ):
        change()
        seen.append(check())
    assert len(set(seen)) == len(seen)
    assert cache.of({"x": 2}, weights) == fingerprint({"x": 2}, weights) != seen[-1]
    for again in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert again.of({"x": 1}, weights) == seen[-1]
