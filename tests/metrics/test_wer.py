"""Error rates by hand and by jiwer; the language model by hand and by pocketsphinx; recognisers on real speech."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest

from vqaudio.data.audio import read_audio
from vqaudio.data.text import spelled, words_of
from vqaudio.metrics.asr import PocketsphinxASR, TransformersASR, transcribe_all
from vqaudio.metrics.language_model import arpa
from vqaudio.metrics.wer import wer_metrics

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "timit8"


# --- error rates ---


def test_error_rates_by_hand() -> None:
    """One word of four replaced, one of two added: (1 + 1) / (4 + 2); characters of "sit" and "sat": 1, "go " 3."""
    metrics = wer_metrics(["The cat sat down.", "Go home!"], ["the cat sit down", "go go home"])
    assert metrics["wer"].value == pytest.approx(2 / 6)
    assert metrics["cer"].value == pytest.approx((1 + 3) / (len("the cat sat down") + len("go home")))
    assert metrics["wer"].count == 2
    assert metrics["wer"].low == 0.25 and metrics["wer"].high == 0.5  # twice the first, twice the second


def test_error_rates_of_shuffled_references() -> None:
    """Of two utterances each is compared with the other: 2 deleted and 2 replaced, 2 inserted and 2 replaced."""
    metrics = wer_metrics(["a b c d", "x y"], ["a b c d", "x y"])
    assert metrics["wer"].value == metrics["cer"].value == 0
    assert metrics["wer_shuffled"].value == pytest.approx(8 / 6)


def test_equal_references_are_not_shuffled() -> None:
    metrics = wer_metrics(["one two", "One, two?", "three four"], ["one two", "one two", "three four"])
    assert metrics["wer_shuffled"].value == 1
    assert set(wer_metrics(["one", "one"], ["one", "two"])) == {"wer", "cer"}


def test_error_rates_are_those_of_jiwer() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcd"), size=rng.integers(1, 9))) for _ in range(50)]
    hypotheses = [" ".join(rng.choice(list("abcd"), size=rng.integers(0, 9))) for _ in range(50)]
    metrics = wer_metrics(texts, hypotheses)
    assert metrics["wer"].value == pytest.approx(jiwer.wer(texts, hypotheses))
    assert metrics["cer"].value == pytest.approx(jiwer.cer(texts, hypotheses))
    assert metrics["wer"].low < metrics["wer"].value < metrics["wer"].high
    assert metrics == wer_metrics(texts, hypotheses)


def test_empty_and_long_hypotheses() -> None:
    assert wer_metrics(["one two", "three"], ["", ""])["wer"][:3] == (1, 1, 1)
    assert wer_metrics(["one"], ["one two three four"])["wer"].value == 3


@pytest.mark.parametrize(
    ("texts", "hypotheses", "message"),
    [
        (["one", " ... "], ["one", "two"], r"reference 1 \(' ... '\) has no words"),
        (["one"], [], "1 references and 0 hypotheses"),
        ([], [], "0 references"),
    ],
)
def test_what_has_no_error_rate_is_refused(texts: list[str], hypotheses: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wer_metrics(texts, hypotheses)


# --- texts ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u201cDon\u2019t,\u201d she SAID -- well-known 'rock'!", "don't she said well known rock"),
        ("It cost £1,250 in 2 days.", "it cost one thousand two hundred fifty in two days"),
        (" ?! ", ""),
    ],
)
def test_words_are_spelled_one_way(text: str, words: str) -> None:
    assert " ".join(words_of(text)) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (19, "nineteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (1_000_012, "one million twelve"),
        (305_000_000_000, "three hundred five billion"),
        (10**12, "one" + " zero" * 12),
    ],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert spelled(number) == words


# --- the language model ---

SENTENCES = [["go", "home"], ["go", "go", "home"], ["stop"], []]


def test_a_bigram_model_by_hand() -> None:
    """After "go" came "go" once and "home" twice: two types in three tokens, so the weight of the unigram is 2 / 5."""
    text = arpa(SENTENCES, 2)
    assert "ngram 1=5\nngram 2=6\n" in text  # <s> </s> go home stop; <s> go, <s> stop, go go, go home, home/stop </s>
    unigram = {"go": 3 / 9, "home": 2 / 9}
    expected = {"go home": 2 / 5 + 2 / 5 * unigram["home"], "go go": 1 / 5 + 2 / 5 * unigram["go"]}
    for gram, chance in expected.items():
        assert f"{math.log10(chance):.6f}\t{gram}\n" in text
    assert f"{math.log10(3 / 9):.6f}\tgo\t{math.log10(2 / 5):.6f}\n" in text
    assert "-99.000000\t<s>\t" in text


def test_pocketsphinx_reads_the_language_model(tmp_path: Path) -> None:
    """For every history what follows it has probabilities that sum to 1, also through the back-off."""
    from pocketsphinx import LogMath, NGramModel

    path = tmp_path / "texts.arpa"
    path.write_text(arpa(SENTENCES, 3))
    model = NGramModel(None, LogMath(1.0001), str(path))
    logs = LogMath(1.0001)
    vocabulary = ["go", "home", "stop", "</s>"]
    for history in ([], ["<s>"], ["go"], ["home"], ["go", "<s>"], ["go", "go"], ["home", "stop"]):  # the latest first
        chances = [logs.exp(model.prob([word, *history])) for word in vocabulary]
        assert sum(chances) == pytest.approx(1, abs=2e-3)
    assert logs.exp(model.prob(["home", "go"])) == pytest.approx(2 / 5 + 2 / 5 * 2 / 9, rel=1e-3)


@pytest.mark.parametrize(
    ("sentences", "order", "message"), [([[], []], 2, "needs words"), (SENTENCES, 0, "at least 1")]
)
def test_invalid_language_models_are_refused(sentences: list[list[str]], order: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arpa(sentences, order)


# --- recognisers ---


@pytest.fixture(scope="module")
def speech() -> Iterator[tuple[list[str], list[np.ndarray]]]:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent; set VQAUDIO_DATA to the folder that holds timit8")
    paths = sorted(DATA.glob("wav16/*/*_00[12].flac"))[:6]
    texts = [(DATA / "txt" / path.parent.name / f"{path.stem}.txt").read_text() for path in paths]
    yield texts, [read_audio(path, 16_000) for path in paths]


@pytest.fixture(scope="module")
def sphinx(speech: tuple[list[str], list[np.ndarray]]) -> PocketsphinxASR:
    return PocketsphinxASR(speech[0])


@pytest.mark.data
def test_clear_speech_is_recognised_and_noise_is_not(sphinx: PocketsphinxASR, speech) -> None:
    texts, wavs = speech
    assert wer_metrics(texts, list(transcribe_all(sphinx, wavs, 16_000)))["wer"].value < 0.1
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 0.05, len(wav)).astype(np.float32) for wav in wavs]
    assert wer_metrics(texts, list(transcribe_all(sphinx, noise, 16_000)))["wer"].value > 0.8


@pytest.mark.data
@pytest.mark.slow
def test_transcripts_depend_on_the_audio_only(sphinx: PocketsphinxASR, speech) -> None:
    """Noisy, so that small differences would show: in any order, by any number of processes, at another rate."""
    rng = np.random.default_rng(1)
    wavs = [(wav + rng.normal(0, 0.01, len(wav))).astype(np.float32) for wav in speech[1]]
    transcripts = list(transcribe_all(sphinx, wavs, 16_000))
    assert list(transcribe_all(sphinx, wavs[::-1], 16_000))[::-1] == transcripts
    assert list(transcribe_all(sphinx, wavs, 16_000, workers=2)) == transcripts


@pytest.mark.data
def test_other_sample_rates_are_recognised(sphinx: PocketsphinxASR, speech) -> None:
    import soxr

    transcripts = sphinx.transcribe(soxr.resample(speech[1][0], 16_000, 22_050), 22_050)
    assert words_of(transcripts) == words_of(speech[0][0])


@pytest.mark.data
def test_silence_has_an_empty_transcript(sphinx: PocketsphinxASR) -> None:
    for length in (0, 1, 100):
        assert sphinx.transcribe(np.zeros(length, np.float32), 16_000) == ""
    with pytest.raises(ValueError, match="mono"):
        sphinx.transcribe(np.zeros((2, 100), np.float32), 16_000)
    with pytest.raises(ValueError, match="workers"):
        list(transcribe_all(sphinx, [], 16_000, workers=0))


def test_words_that_the_dictionary_lacks_are_listed() -> None:
    assert PocketsphinxASR(["Hello xqzzt", "world qqvvt"]).missing == ("qqvvt", "xqzzt")
    with pytest.raises(ValueError, match="no word of the 1 texts"):
        PocketsphinxASR(["xqzzt"])


@pytest.fixture(scope="module")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper with random weights, as transformers saves one; its vocabulary is the bytes and the signs it needs."""
    transformers = pytest.importorskip("transformers", reason="transformers is absent: pip install transformers")
    import torch
    from tokenizers.pre_tokenizers import ByteLevel

    signs = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    pieces = [*sorted(ByteLevel.alphabet()), *signs]
    index = {piece: i for i, piece in enumerate(pieces)}
    end, start = index["<|endoftext|>"], index["<|startoftranscript|>"]
    config = transformers.WhisperConfig(
        vocab_size=len(pieces), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=80, max_target_positions=32,
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config.max_new_tokens = 12
    model.save_pretrained(folder)
    transformers.WhisperTokenizer(vocab=index, merges=[]).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_recogniser_of_the_hub_transcribes(tiny_whisper) -> None:
    """With random weights the transcript is random but reproducible, and equals that of model and tokenizer."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

    wav = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
    recogniser = TransformersASR(str(tiny_whisper))
    model = WhisperForConditionalGeneration.from_pretrained(tiny_whisper)
    features = WhisperFeatureExtractor.from_pretrained(tiny_whisper)(wav, sampling_rate=16_000, return_tensors="pt")
    tokens: Any = model.generate(features["input_features"], num_beams=5)  # the beams of the pipeline
    written = tokens[0][tokens[0] < 256]  # bytes, no signs
    expected = str(WhisperTokenizer.from_pretrained(tiny_whisper).decode(written)).strip()
    assert recogniser.transcribe(wav, 16_000) == expected
    assert list(transcribe_all(recogniser, [wav, wav], 16_000)) == [expected] * 2
    assert recogniser.transcribe(wav[:0], 16_000) == ""
    assert expected and recogniser.transcribe(np.tile(wav, 62), 16_000)  # 31 s: in pieces
