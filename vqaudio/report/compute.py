"""The functions of the report's tasks: an EvaluationContext -> names of systems and their metrics.

Each raises NotApplicableError where the task cannot be computed for the model on the set, possibly after it has yielded
some systems, and ModuleNotFoundError, with the command to install it, for a package that is missing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vqaudio.data.manifest import Utterance
from vqaudio.metrics.abx import abx_metrics
from vqaudio.metrics.abx_items import items_of, load_features
from vqaudio.metrics.conditioning_gap import gap_estimates
from vqaudio.metrics.confidence import Estimate
from vqaudio.metrics.mos import naturalness_metrics
from vqaudio.metrics.phones import phone_metrics
from vqaudio.metrics.robustness import missing_codecs, robustness_metrics
from vqaudio.metrics.signal import pitch_metrics, signal_metrics
from vqaudio.metrics.speaker_probe import speaker_probe_metrics
from vqaudio.metrics.speaker_verification import SpeakerVerifier
from vqaudio.metrics.voice_conversion import voice_conversion_metrics
from vqaudio.metrics.wer import normalised, wer_increase, wer_metrics
from vqaudio.report.context import ENROLMENT_UTTERANCES, EvaluationContext
from vqaudio.report.datasets import spread
from vqaudio.report.systems import (
    INVERTED,
    MODEL,
    ORIGINAL,
    RANDOM,
    TITLES,
    NotApplicableError,
    conversion,
    reconstruction,
)
from vqaudio.report.tasks import Task

Results = Iterator[tuple[str, dict[str, Estimate]]]
ROBUSTNESS_UTTERANCES, PROBE_UTTERANCES = 12, 10  # of a set; of a speaker, at most
_OF_RECONSTRUCTION = ("similarity_speaker", "speaker_identified")  # metrics of voice conversion; others: real speech
_OF_CONVERSION = ("similarity_target", "similarity_source", "closer_to_target", "target_identified")
ABX_ITEMS = 10  # of a phone by a speaker, at most
LOSSES = {  # of words: system -> the metric, and the system with one loss less
    reconstruction("griffin-lim"): ("wer_lost_by_codes", INVERTED),
    reconstruction("istft"): ("wer_lost_by_istft", reconstruction("griffin-lim")),
    reconstruction("wavenet"): ("wer_lost_by_wavenet", reconstruction("griffin-lim")),
    conversion("griffin-lim"): ("wer_lost_by_codes", INVERTED),
    conversion("istft"): ("wer_lost_by_istft", conversion("griffin-lim")),
    conversion("wavenet"): ("wer_lost_by_wavenet", conversion("griffin-lim")),
}


def compute(task: Task, context: EvaluationContext) -> Results:
    """Names of systems and their metrics, as they become ready. Raises as described for the module."""
    if task.inputs == "context":
        yield from task.function(context)
        return
    for system, codes in context.codes.items():
        size, rate = context.model.codebook_size, context.model.frame_rate
        yield system, task.function(codes, codebook_size=size, frame_rate=rate)


def conditioning_gap(context: EvaluationContext) -> Results:
    yield MODEL, gap_estimates(context.nll)


def phones(context: EvaluationContext) -> Results:
    chosen = _aligned(context)
    utterances = [context.dataset.utterances[i] for i in chosen]
    if len({u.speaker for u in utterances}) < 2:
        raise NotApplicableError(
            "the phone of each code is estimated on half of the speakers and scored on the other half, and this set "
            "has aligned utterances of only 1 speaker"
        )
    for system, codes in context.codes.items():
        yield (
            system,
            phone_metrics(
                [codes[i] for i in chosen],
                [context.alignments[u.id] for u in utterances],
                [u.speaker for u in utterances],
                frame_rate=context.model.frame_rate,
                codebook_size=context.model.codebook_size,
                seed=context.seed,
                classes="labels",
            ),
        )


def abx(context: EvaluationContext) -> Results:
    chosen = _aligned(context)
    ids = [context.dataset.utterances[i].id for i in chosen]
    speakers = {context.dataset.utterances[i].id: context.dataset.utterances[i].speaker for i in chosen}
    metrics = functools.partial(
        abx_metrics,
        items=items_of({id: context.alignments[id] for id in ids}, speakers),
        frame_rate=context.model.frame_rate,
        max_items_per_cell=ABX_ITEMS,
        seed=context.seed,
    )
    for system, codes in context.codes.items():
        of_utterance = {id: codes[i] for id, i in zip(ids, chosen, strict=True)}
        found = metrics(of_utterance, distance="identity")
        vectors = {id: context.vectors(system, own) for id, own in of_utterance.items()}
        known = {id: own for id, own in vectors.items() if own is not None}
        if known:
            of_vectors = metrics(known)
            found |= {f"{key}_vectors": of_vectors[key] for key in ("abx_within", "abx_across")}
        yield system, found
    for folder in context.features:
        if any((folder / f"{id}.npy").is_file() for id in ids):  # the folder may belong to another set
            yield folder.name, metrics(load_features(folder, ids))


def speaker_probe(context: EvaluationContext) -> Results:
    counts: dict[str, int] = {}
    chosen = []
    for i, u in enumerate(context.dataset.utterances):
        counts[u.speaker] = counts.get(u.speaker, 0) + 1
        if (
            counts[u.speaker] <= PROBE_UTTERANCES
        ):  # else the speaker with the most utterances would set the chance level
            chosen.append(i)
    if sum(count > 1 for count in counts.values()) < 2:
        raise NotApplicableError(
            "the probe is trained on some utterances of a speaker and tested on others: it needs 2 or more speakers "
            "with 2 or more utterances each"
        )
    speakers = [context.dataset.utterances[i].speaker for i in chosen]
    for system, codes in context.codes.items():
        if system != RANDOM:  # the metric `chance` covers random codes
            yield (
                system,
                speaker_probe_metrics(
                    [codes[i] for i in chosen],
                    speakers,
                    codebook_size=context.model.codebook_size,
                    frame_rate=context.model.frame_rate,
                    seed=context.seed,
                ),
            )


def voice_conversion(context: EvaluationContext) -> Results:
    decoded = context.decoded
    if not decoded.targets:
        raise NotApplicableError("there is no target speaker: the model has no other speaker")
    enrolment = {name: own for name, own in context.enrolment.items() if len(own) > 1}
    enrolment |= _enrolment_of_unknown(context, [u.speaker for u in decoded.utterances])
    if short := sorted(set(decoded.targets) - set(enrolment)):
        raise NotApplicableError(
            f"the speaker verifier needs 2 or more training utterances of each target, and {', '.join(short[:8])} have "
            "fewer in this run; evaluate a folder made by vqaudio prepare, whose train.jsonl has them, as well"
        )
    chosen = [i for i, u in enumerate(decoded.utterances) if u.speaker in enrolment]
    if not chosen:
        raise NotApplicableError("the speaker verifier needs 2 or more utterances of a speaker of the set")
    sources = [decoded.utterances[i].speaker for i in chosen]
    enrolled = {name: [context.dataset.wav(u) for u in own] for name, own in enrolment.items()}
    verifier, real = SpeakerVerifier(), dict[str, Estimate]()
    for vocoder in sorted(context.model.vocoders, key=[*TITLES].index):
        targets = {reconstruction(vocoder): sources, conversion(vocoder): [decoded.targets[i] for i in chosen]}
        audio = decoded.of([*targets])
        found = voice_conversion_metrics(
            [wavs[i] for wavs in audio.values() for i in chosen],
            sources * len(audio),
            [name for system in audio for name in targets[system]],
            enrolled,
            sample_rate=context.model.sample_rate,
            verifier=verifier,
            originals=[_place(decoded.utterances[i], enrolment) for i in chosen] * len(audio),
        )
        for system, keys in zip(targets, (_OF_RECONSTRUCTION, _OF_CONVERSION), strict=True):
            if own := {key: found[key] for key in keys if key in found}:
                yield system, own
        real = {key: own for key, own in found.items() if key not in (*_OF_RECONSTRUCTION, *_OF_CONVERSION)}
    yield ORIGINAL, real
    if left_out := len(decoded.utterances) - len(chosen):
        raise NotApplicableError(
            f"{left_out} of {len(decoded.utterances)} utterances are left out: they are the only one of their speaker"
        )


def _enrolment_of_unknown(context: EvaluationContext, speakers: Sequence[str]) -> dict[str, list[Utterance]]:
    """Up to 5 utterances of each of `speakers` that are not in the model, if there are 2 or more."""
    found: dict[str, list[Utterance]] = {name: [] for name in speakers if name not in context.model.speakers}
    for u in (*context.dataset.utterances, *context.dataset.training):
        if u.speaker in found and len(found[u.speaker]) < ENROLMENT_UTTERANCES:
            found[u.speaker].append(u)
    return {name: own for name, own in found.items() if len(own) > 1}


def _place(utterance: Utterance, enrolment: Mapping[str, Sequence[Utterance]]) -> int | None:
    """Index of an utterance among those of its speaker that are enrolled."""
    return next((i for i, u in enumerate(enrolment[utterance.speaker]) if u.id == utterance.id), None)


def wer(context: EvaluationContext) -> Results:
    decoded = context.decoded
    chosen = [i for i, u in enumerate(decoded.utterances) if normalised(u.text or "")]
    if not chosen:
        raise NotApplicableError("none of the decoded utterances has a text in the manifest")
    references = [decoded.utterances[i].text or "" for i in chosen]
    asr = context.load_asr()
    hypotheses: dict[str, list[str]] = {}
    for system, wavs in decoded.audio.items():
        hypotheses[system] = [asr.transcribe(wavs[i], context.model.sample_rate) for i in chosen]
        metrics = wer_metrics(references, hypotheses[system])
        key, less = LOSSES.get(system, ("", ""))
        if less in hypotheses:
            metrics[key] = wer_increase(references, hypotheses[less], hypotheses[system])
        yield system, metrics


def naturalness(context: EvaluationContext) -> Results:
    for system, wavs in context.decoded.audio.items():
        yield system, naturalness_metrics(wavs, context.model.sample_rate)


def signal(context: EvaluationContext) -> Results:
    decoded, problems = context.decoded, list[str]()
    converted = decoded.of([*map(conversion, context.model.vocoders_with_pitch)])
    for system, wavs in converted.items():
        yield system, pitch_metrics(decoded.audio[ORIGINAL], wavs, context.model.sample_rate)
    if not decoded.of([*map(reconstruction, TITLES)]):
        but = "; the pitch of conversions is measured" if converted else ""
        raise NotApplicableError(f"the model has no speaker of this set and cannot reconstruct their speech{but}")
    found = decoded.of([INVERTED, *map(reconstruction, TITLES)])
    for system, wavs in found.items():
        left_out = list[str]()
        yield (
            system,
            signal_metrics(
                decoded.audio[ORIGINAL],
                wavs,
                context.model.sample_rate,
                names=[u.id for u in decoded.utterances],
                left_out=left_out,
            ),
        )
        problems += [f"{system}: {problem}" for problem in left_out]
    if problems:
        raise NotApplicableError("; ".join(problems))


def bitrate(context: EvaluationContext) -> Results:
    yield MODEL, {name: rate.estimate for name, rate in context.bitrates.overall.items()}


def robustness(context: EvaluationContext) -> Results:
    chosen = spread(context.dataset.utterances, ROBUSTNESS_UTTERANCES, lambda u: u.speaker)
    model = context.model
    wavs = [wav for wav in map(context.dataset.wav, chosen) if len(wav) > 2 * model.hop]
    if not wavs:
        raise NotApplicableError("no utterance is longer than two codes")
    encoders = {MODEL: lambda wav: model.tokenize(wav).codes.numpy()}
    encoders |= {name: kmeans.encode for name, kmeans in context.kmeans.items()}
    for system, encode in encoders.items():
        yield system, robustness_metrics(encode, wavs, sample_rate=model.sample_rate, hop=model.hop, seed=context.seed)
    if missing := missing_codecs(model.sample_rate):
        raise NotApplicableError("; ".join(missing.values()))


def _aligned(context: EvaluationContext) -> Sequence[int]:
    """Indices of the utterances with phone alignments."""
    chosen = [i for i, u in enumerate(context.dataset.utterances) if u.id in context.dataset.alignments]
    if not chosen:
        raise NotApplicableError(
            "there are no phone alignments: give them with --phones (vqaudio align makes them from texts)"
        )
    return chosen


def check_features(folders: Sequence[Path], ids: Sequence[str]) -> None:
    """Raises FileNotFoundError for a folder without features of any aligned utterance."""
    for folder in folders:
        if not any((folder / f"{id}.npy").is_file() for id in ids):
            raise FileNotFoundError(
                f"{folder} has no features of the {len(ids)} utterances with phone alignments: they are files ID.npy"
            )
