"""Conversions by a verifier: cosines recomputed by hand, perfect conversions, and identity conversions."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from vqaudio.data.audio import read_audio
from vqaudio.metrics.confidence import Estimate
from vqaudio.metrics.speaker_verification import SpeakerVerifier
from vqaudio.metrics.voice_conversion import voice_conversion_metrics

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "vctk_mini"
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("resemblyzer") is None, reason="Resemblyzer is absent: pip install 'vqaudio[metrics]'"
)
RATE = 16000
Voices = dict[str, list[np.ndarray]]


@pytest.fixture(scope="module")
def verifier() -> SpeakerVerifier:
    return SpeakerVerifier()


@pytest.fixture(scope="module")
def recordings() -> Voices:
    """Three synthetic speakers with different F0, four utterances each."""
    rng, time = np.random.default_rng(0), np.arange(27_000) / RATE  # a window of the verifier

    def utterance(pitch: float) -> np.ndarray:
        phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time))) / RATE
        loudness = 1.1 + np.sin(2 * np.pi * rng.uniform(2, 4) * time)
        return (0.05 * loudness * sum(np.sin(k * phase) / k for k in range(1, 15))).astype(np.float32)

    return {name: [utterance(pitch) for _ in range(4)] for name, pitch in {"a": 90, "b": 150, "c": 260}.items()}


def _metrics(converted, sources, targets, recordings, verifier, originals=None) -> dict[str, Estimate]:
    return voice_conversion_metrics(
        converted, sources, targets, recordings, sample_rate=RATE, verifier=verifier, originals=originals
    )


def test_similarities_are_the_cosines_to_centroids(recordings: Voices, verifier: SpeakerVerifier) -> None:
    converted, sources, targets, originals = [recordings["a"][1], recordings["c"][0]], ["b", "a"], ["a", "c"], [2, None]
    found = _metrics(converted, sources, targets, recordings, verifier, originals)
    vectors = {name: np.stack([verifier.embed(wav, RATE) for wav in wavs]) for name, wavs in recordings.items()}

    def cosine(vector: np.ndarray, utterances: np.ndarray) -> float:
        return float(vector @ utterances.mean(0) / np.linalg.norm(utterances.mean(0)))

    to_target = [cosine(vectors["a"][1], vectors["a"]), cosine(vectors["c"][0], vectors["c"])]
    to_source = [cosine(vectors["a"][1], vectors["b"][[0, 1, 3]]), cosine(vectors["c"][0], vectors["a"])]
    same = [cosine(own[i], np.delete(own, i, 0)) for own in vectors.values() for i in range(4)]
    other = [cosine(v, vectors[m]) for n, own in vectors.items() for v in own for m in recordings if m != n]
    assert found["similarity_target"].value == pytest.approx(np.mean(to_target), abs=1e-5)
    assert found["similarity_source"].value == pytest.approx(np.mean(to_source), abs=1e-5)
    assert found["real_same_speaker"].value == pytest.approx(np.mean(same), abs=1e-5)
    assert found["real_other_speakers"].value == pytest.approx(np.mean(other), abs=1e-5)
    assert found["real_same_speaker"].count == 12 and found["chance"].value == pytest.approx(1 / 3)
    assert "similarity_speaker" not in found


def test_perfect_and_identity_conversions(recordings: Voices, verifier: SpeakerVerifier) -> None:
    sources, targets, originals = ["a", "a", "b", "c"], ["b", "c", "c", "a"], [0, 0, 1, 2]
    real = _metrics([], [], [], recordings, verifier)
    assert real["real_identified"].value == 1 and real["equal_error_rate"].value == 0
    assert set(real) == {"real_same_speaker", "real_other_speakers", "real_identified", "equal_error_rate", "chance"}
    perfect = _metrics([recordings[t][3] for t in targets], sources, targets, recordings, verifier, originals)
    assert perfect["closer_to_target"].value == perfect["target_identified"].value == 1
    assert perfect["closer_to_target"].count == 3  # the first two were made of one utterance
    unchanged = [recordings[s][i] for s, i in zip(sources, originals, strict=True)]
    idle = _metrics(unchanged, sources, targets, recordings, verifier, originals)
    assert idle["closer_to_target"].value == idle["target_identified"].value == 0
    assert idle["similarity_source"].value > idle["similarity_target"].value
    assert {name: idle[name] for name in real} == real


def test_a_reconstruction_is_a_conversion_to_the_source_speaker(recordings: Voices, verifier: SpeakerVerifier) -> None:
    """Real utterances are perfect reconstructions: each is left out of the mean vector of its speaker."""
    everyone = [name for name in recordings for _ in range(4)]
    found = _metrics(
        [w for own in recordings.values() for w in own], everyone, everyone, recordings, verifier, [0, 1, 2, 3] * 3
    )
    assert found["similarity_speaker"] == pytest.approx(found["real_same_speaker"])
    assert found["speaker_identified"] == found["real_identified"]
    assert not {"similarity_target", "similarity_source", "closer_to_target", "target_identified"} & set(found)
    flattered = _metrics([recordings["a"][0]], ["a"], ["a"], recordings, verifier)  # it is part of the mean vector
    alone = _metrics([recordings["a"][0]], ["a"], ["a"], recordings, verifier, [0])
    assert flattered["similarity_speaker"].value > alone["similarity_speaker"].value


def test_conversions_that_ignore_the_target_are_at_chance(recordings: Voices, verifier: SpeakerVerifier) -> None:
    rng, names = np.random.default_rng(1), list(recordings)
    sources = [names[rng.integers(3)] for _ in range(30)]
    targets = [names[(names.index(s) + rng.integers(1, 3)) % 3] for s in sources]
    converted = [recordings[names[rng.integers(3)]][rng.integers(4)] for _ in sources]
    found = _metrics(converted, sources, targets, recordings, verifier)
    assert found["target_identified"].low < 1 / 3 < found["target_identified"].high
    assert found["closer_to_target"].low < 0.5 < found["closer_to_target"].high


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent; set VQAUDIO_DATA to the folder of vctk_mini")
def test_real_speakers_are_distinguished(verifier: SpeakerVerifier) -> None:
    speech = {
        name: [read_audio(path, RATE) for path in sorted((DATA / "wav16" / name).glob("*"))[:4]]
        for name in ("p225", "p226", "p257")
    }
    converted = [speech["p226"][3], speech["p225"][3]]
    speech["p226"], speech["p225"] = speech["p226"][:3], speech["p225"][:3]
    found = _metrics(converted, ["p225", "p226"], ["p226", "p225"], speech, verifier)
    assert found["target_identified"].value == found["real_identified"].value == 1
    assert found["similarity_target"].value > found["similarity_source"].value + 0.1
    assert found["equal_error_rate"].value < 0.1


@pytest.mark.parametrize(
    ("count", "sources", "targets", "speakers", "originals", "message"),
    [
        (1, ["a", "b"], ["b"], "abc", None, "1 decoded utterances have 2 sources, 1 targets"),
        (1, ["a"], ["b"], "abc", [0, 1], "2 originals"),
        (1, ["a"], ["a"], "a", None, "2 or more enrolled speakers, got 1"),
        (1, ["a"], ["z"], "abc", None, "'z' is not enrolled"),
        (1, ["a"], ["b"], "abc", [4], r"originals of 'a' lie in 0..3, got 4"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    recordings: Voices, verifier: SpeakerVerifier, count, sources, targets, speakers, originals, message
) -> None:
    with pytest.raises(ValueError, match=message):
        enrolled = {name: recordings[name] for name in speakers}
        _metrics([recordings["a"][0]] * count, sources, targets, enrolled, verifier, originals)


def test_a_speaker_needs_two_utterances(recordings: Voices, verifier: SpeakerVerifier) -> None:
    with pytest.raises(ValueError, match="'c' has 1 enrolled utterances"):
        _metrics([], [], [], {**recordings, "c": recordings["c"][:1]}, verifier)
