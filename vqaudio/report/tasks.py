"""The questions of a report: what each asks, and how it is answered for a model on a set.

An answer names who it is about, a system that makes codes or a kind of audio, and its figures. What cannot be asked
raises UnansweredError with the reason, also after some answers; a package that is missing ModuleNotFoundError, with
what to install.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vqaudio.data.text import words_of
from vqaudio.metrics.abx import abx_metrics
from vqaudio.metrics.abx_items import items_of, load_features
from vqaudio.metrics.asr import transcribe_all
from vqaudio.metrics.codebook_usage import codebook_usage_metrics
from vqaudio.metrics.conditioning_gap import gap_estimates
from vqaudio.metrics.confidence import Estimate
from vqaudio.metrics.phones import phone_metrics
from vqaudio.metrics.robustness import missing_codings, robustness_metrics
from vqaudio.metrics.signal import signal_metrics
from vqaudio.metrics.speaker_probe import speaker_probe_metrics
from vqaudio.metrics.speaker_verification import SpeakerVerifier
from vqaudio.metrics.voice_conversion import voice_conversion_metrics
from vqaudio.metrics.wer import wer_metrics
from vqaudio.report.context import (
    CHANCE,
    CONVERSION,
    ORIGINAL,
    OURS,
    RECONSTRUCTION,
    EvaluationContext,
    NotApplicableError,
)
from vqaudio.report.datasets import Wav, spread

Figures = dict[str, Estimate]
Answers = Iterator[tuple[str, Figures]]
STABILITY_UTTERANCES, MOST_OF_A_SPEAKER = 12, 10
ABX_TOKENS = 10  # of a phone by a speaker
SPEAKING = {"conversion", "words", "signal"}  # questions for which the decoder speaks
NEEDS_PHONES = "no phones: name alignments with --phones (vqaudio align makes some from texts)"


class Question(NamedTuple):
    key: str
    title: str
    asks: str
    answer: Callable[[EvaluationContext], Answers]


def listening(subject: EvaluationContext) -> Answers:
    yield OURS, gap_estimates(subject.nll)


def phones(subject: EvaluationContext) -> Answers:
    chosen = _aligned(subject)
    own = [subject.set.utterances[i] for i in chosen]
    if len({u.speaker for u in own}) < 2:
        raise NotApplicableError(
            "what codes mean is learned from half of the speakers and asked of the others; here is 1"
        )
    for system, codes in subject.codes.items():
        yield (
            system,
            phone_metrics(
                [codes[i] for i in chosen],
                [subject.alignments[u.id] for u in own],
                [u.speaker for u in own],
                frame_rate=subject.model.frame_rate,
                codebook_size=subject.model.codebook_size,
                seed=subject.seed,
                classes="as they are",
            ),
        )


def abx(subject: EvaluationContext) -> Answers:
    chosen = _aligned(subject)
    ids = [subject.set.utterances[i].id for i in chosen]
    speakers = {subject.set.utterances[i].id: subject.set.utterances[i].speaker for i in chosen}
    items = items_of({id: subject.alignments[id] for id in ids}, speakers)
    figures = functools.partial(
        abx_metrics,
        items=items,
        frame_rate=subject.model.frame_rate,
        max_items_per_cell=ABX_TOKENS,
        seed=subject.seed,
    )
    for system, codes in subject.codes.items():
        named = {id: codes[i] for id, i in zip(ids, chosen, strict=True)}
        found = figures(named, distance="identity")
        vectors = {id: subject.vectors(system, own) for id, own in named.items()}
        placed = {id: own for id, own in vectors.items() if own is not None}
        if placed:
            of_vectors = figures(placed)
            found |= {f"{name}_vectors": of_vectors[name] for name in ("abx_within", "abx_across")}
        yield system, found
    for folder in subject.features:
        if any((folder / f"{id}.npy").is_file() for id in ids):  # it may be of another set
            yield folder.name, figures(load_features(folder, ids))


def codes(subject: EvaluationContext) -> Answers:
    for system, own in subject.codes.items():
        yield (
            system,
            codebook_usage_metrics(own, codebook_size=subject.model.codebook_size, frame_rate=subject.model.frame_rate),
        )


def bits(subject: EvaluationContext) -> Answers:
    count, found = len(subject.rows), subject.rates.overall
    yield OURS, {name: Estimate(rate.bits_per_second, rate.low, rate.high, count) for name, rate in found.items()}


def stability(subject: EvaluationContext) -> Answers:
    chosen = spread(subject.set.utterances, STABILITY_UTTERANCES, lambda u: u.speaker)
    model = subject.model
    wavs = [wav for wav in map(subject.set.wav, chosen) if len(wav) > 2 * model.hop]
    if not wavs:
        raise NotApplicableError("no utterance is longer than two codes")
    makers = {OURS: lambda wav: model.tokenize(wav).codes.numpy()}
    makers |= {name: units.encode for name, units in subject.kmeans.items()}
    for system, tokenize in makers.items():
        yield system, robustness_metrics(tokenize, wavs, sample_rate=model.sample_rate, hop=model.hop, seed=subject.seed)
    if missing := missing_codings(model.sample_rate):
        raise NotApplicableError("; ".join(f"{coding}: {why}" for coding, why in missing.items()))


def speaker(subject: EvaluationContext) -> Answers:
    turns: dict[str, int] = {}
    chosen = []
    for i, u in enumerate(subject.set.utterances):
        turns[u.speaker] = turns.get(u.speaker, 0) + 1
        if turns[u.speaker] <= MOST_OF_A_SPEAKER:  # or the one with the most would decide what chance is
            chosen.append(i)
    if sum(count > 1 for count in turns.values()) < 2:
        raise NotApplicableError(
            "a probe learns a speaker from one utterance and is asked of another: it needs 2 speakers with 2 utterances"
        )
    rate, size = subject.model.frame_rate, subject.model.codebook_size
    names = [subject.set.utterances[i].speaker for i in chosen]
    for system, codes in subject.codes.items():
        if system == CHANCE:  # is told by `chance`
            continue
        own = [codes[i] for i in chosen]
        yield system, speaker_probe_metrics(own, names, codebook_size=size, frame_rate=rate, seed=subject.seed)


def conversion(subject: EvaluationContext) -> Answers:
    spoken, rate = subject.decoded, subject.model.sample_rate
    if not spoken.targets:
        raise NotApplicableError("there is no other voice to convert to, of which training utterances are at hand")
    needed = {*spoken.targets, *(u.speaker for u in spoken.utterances)}
    if short := sorted(name for name in needed if len(subject.enrolment.get(name, ())) < 2):
        raise NotApplicableError(
            f"a voice is known by 2 or more training utterances, which {', '.join(short[:8])} lacks; evaluate a folder "
            "of vqaudio prepare, whose train.jsonl has them"
        )
    enrolled = {name: [subject.set.wav(u) for u in own] for name, own in subject.enrolment.items() if len(own) > 1}
    sources = [u.speaker for u in spoken.utterances]
    found = voice_conversion_metrics(
        [*spoken.reconstructions, *spoken.conversions],
        sources * 2,
        sources + spoken.targets,
        enrolled,
        sample_rate=rate,
        verifier=SpeakerVerifier(),
    )
    own = {name: found[name] for name in ("similarity_own", "own_named")}
    other = {name: found[name] for name in ("similarity_target", "similarity_source", "target_closer", "target_named")}
    yield RECONSTRUCTION, own
    yield CONVERSION, other
    yield ORIGINAL, {name: of_real for name, of_real in found.items() if name not in own | other}


def words(subject: EvaluationContext) -> Answers:
    spoken = subject.decoded
    told = [i for i, u in enumerate(spoken.utterances) if words_of(u.text or "")]
    if not told:
        raise NotApplicableError("no utterance that is spoken again has its text")
    texts = [spoken.utterances[i].text or "" for i in told]
    every = [u.text for u in (*subject.set.utterances, *subject.set.training) if u.text]
    recogniser = subject.recogniser(every)
    for audio, wavs in _audio(subject).items():
        heard = transcribe_all(recogniser, [wavs[i] for i in told], subject.model.sample_rate)
        yield audio, wer_metrics(texts, list(heard))


def signal(subject: EvaluationContext) -> Answers:
    spoken, rate = subject.decoded, subject.model.sample_rate
    left_out: list[str] = []
    names = [u.id for u in spoken.utterances]
    yield (
        RECONSTRUCTION,
        signal_metrics(spoken.originals, spoken.reconstructions, rate, names=names, left_out=left_out),
    )
    if left_out:
        raise NotApplicableError("; ".join(left_out))


def _audio(subject: EvaluationContext) -> dict[str, list[Wav]]:
    spoken = subject.decoded
    converted = {CONVERSION: spoken.conversions} if spoken.targets else {}
    return {ORIGINAL: spoken.originals, RECONSTRUCTION: spoken.reconstructions, **converted}


def check_features(folders: Sequence[Path], ids: Sequence[str]) -> None:
    """Raises FileNotFoundError for a folder without features of any aligned utterance."""
    for folder in folders:
        if not any((folder / f"{id}.npy").is_file() for id in ids):
            raise FileNotFoundError(
                f"{folder} has no features of the {len(ids)} utterances with phones: they are files ID.npy"
            )


def _aligned(subject: EvaluationContext) -> Sequence[int]:
    chosen = [i for i, u in enumerate(subject.set.utterances) if u.id in subject.set.alignments]
    if not chosen:
        raise NotApplicableError(NEEDS_PHONES)
    return chosen


QUESTIONS = (
    Question(
        "listening",
        "Does the decoder listen?",
        "What codes and speaker are worth to the decoder, in bits per sample; teacher-forced, on crops of "
        "half a second.",
        listening,
    ),
    Question(
        "phones",
        "Phones",
        "Each code is taken for the phone in which one half of the speakers have it most; how often is that "
        "right with the other half?",
        phones,
    ),
    Question(
        "abx",
        "Phones, without a probe",
        "Is a phone nearer to another token of itself than to another phone?",
        abx,
    ),
    Question(
        "speaker",
        "Who speaks?",
        "How well do two seconds of codes tell who speaks? The less the better where the speaker is to be exchanged.",
        speaker,
    ),
    Question(
        "conversion",
        "Voices",
        "Does the decoder speak in the voice that it is told to? A speaker verifier listens.",
        conversion,
    ),
    Question(
        "words",
        "Words",
        "What does a recogniser hear of what the decoder speaks freely?",
        words,
    ),
    Question(
        "signal",
        "Signal",
        "How near is what the decoder speaks freely to the original? It draws a new waveform, so measures "
        "that compare waveforms are low by design.",
        signal,
    ),
    Question(
        "codes",
        "Codes",
        "Which codes are used, how long do they stay, what follows what?",
        codes,
    ),
    Question(
        "bits",
        "Bits",
        "What a second of speech costs, by ever better models of the codes.",
        bits,
    ),
    Question(
        "stability",
        "Stability",
        "Do the codes stay when the speech changes in ways that a listener hardly minds?",
        stability,
    ),
)
