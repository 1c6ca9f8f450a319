import math

import pytest
import torch

from vqaudio.nn.encoder import Encoder, EncoderConfig
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.describe import bits_per_second, model_facts, prior_facts
from vqaudio.speech.prior import CodePrior, CodePriorConfig
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.rows import TokenRow
from vqaudio.tokens.stats import TokenStats


def test_perplexity_by_hand() -> None:
    stats = TokenStats()
    rows = [
        TokenRow("a", "s", Tokens(torch.tensor([7, 7, 7]), 24, 8000, 8, "f")),
        TokenRow("b", None, Tokens(torch.tensor([9, 9, 7, 500, 500]), 40, 8000, 8, "f")),
    ]
    assert list(stats.watch(rows)) == rows
    assert (stats.rows, stats.num_tokens, len(stats.codes)) == (2, 8, 3)
    assert stats.seconds == pytest.approx(64 / 8000)
    assert stats.perplexity == pytest.approx(2**1.5)  # relative frequencies of 1/2, 1/4 and 1/4
    assert stats.facts()["speakers"] == "1: s"
    assert stats.facts()["usage"] == "3 different codes, highest 500"


def test_properties_of_a_model(tiny_model) -> None:
    facts = model_facts(tiny_model)
    assert facts["model"] == tiny_model.fingerprint
    assert facts["hop"] == "8 samples, 0.5 ms, 2000 codes per second"
    assert facts["bitrate"] == bits_per_second(tiny_model) == "8000 bits per second (log2 16 = 4 bits per code)"
    assert facts["latency"].startswith("19 samples, 1.2 ms")
    assert facts["speakers"] == "3: anna, bert, carl"


def test_properties_of_a_prior_over_speech_codes() -> None:
    """Its fingerprint, the fingerprint of its tokenizer, and its speakers."""
    net = WaveNetConfig(
        num_classes=24, layers=4, layers_per_stack=3, residual_channels=6, skip_channels=8, cond_hidden_channels=4
    )
    prior = CodePrior(CodePriorConfig(speakers=("anna", "bert"), model="0123456789ab", net=net))
    facts = prior_facts(prior)
    assert facts["fingerprint"] == prior.fingerprint
    assert facts["codes"] == "24, 250 per second, of model 0123456789ab"
    assert facts["receptive field"] == "9 codes, 0.04 s"  # dilations 1, 2, 4 and 1, and the previous code
    assert facts["speakers"] == "2: anna, bert"
    assert prior_facts(CodePrior(CodePriorConfig(net=net)))["speakers"] == "none"
    prior.net.out.bias.data += 1
    assert facts["fingerprint"] != prior.fingerprint


@pytest.mark.parametrize("strides", [(2, 4), (3,), (1, 5, 2)])
def test_the_receptive_field_is_what_a_frame_depends_on(strides) -> None:
    cfg = EncoderConfig(strides=strides, channels=(3,) * len(strides), dilations=(1, 2), dim=2, lookahead=11)
    encoder = Encoder(cfg)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(0.1)  # positive, so that no path cancels another
    frame = 2 + math.ceil(cfg.receptive_field / cfg.hop)
    wav = torch.ones(1, 1, (frame + 10) * cfg.hop, requires_grad=True)
    encoder(wav)[0][0, :, frame].sum().backward()
    assert wav.grad is not None
    used = wav.grad[0, 0].nonzero().flatten()
    last = (frame + 1) * cfg.hop + cfg.lookahead - 1
    assert (used[0], used[-1]) == (last - cfg.receptive_field + 1, last)
    assert len(used) == cfg.receptive_field
