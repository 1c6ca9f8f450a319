"""Audio that a report measures: some utterances of a set, as they are and as the model decodes them in several ways.

Each kind of audio loses something more than the one before, so that losses can be attributed: the original, its
log-mel spectrum inverted by Griffin-Lim, the spectrum predicted from the codes inverted likewise, and the vocoders that
were trained. As `vqaudio convert` does it, conversions have the pitch of the original, where the vocoder is conditioned
on one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from vqaudio.data.manifest import Utterance
from vqaudio.data.text import words_of
from vqaudio.metrics.spectrum_probe import Spectrum, SpectrumProbe
from vqaudio.nn.log_mel import LogMel, LogMelConfig
from vqaudio.nn.pitch import Pitch
from vqaudio.report.datasets import EvaluationSet, Wav, spread, training_speech
from vqaudio.report.systems import INVERTED, ORIGINAL, TITLES, NotApplicableError, conversion, reconstruction
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.griffin_lim import griffin_lim
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokens import Tokens
from vqaudio.speech.vocoders import Vocoder

DECODE_BATCH = 16  # utterances that the decoder generates together
MAX_SECONDS = 60  # of a decoded utterance: a WaveNet takes about as long as it lasts, alignment its square
MAX_TARGETS = 8  # speakers to whom utterances are converted, spread evenly over those of the model
PROBE_SECONDS = 600.0  # training speech to which a spectrum probe is fitted
PROBE_BANDS, PROBE_HOP, PROBE_WINDOW = 80, 0.01, 0.025  # mel bands; longest hop and window in seconds


class DecodedSpeech(NamedTuple):
    """Some utterances as audio of several systems, all free-running."""

    utterances: list[Utterance]
    targets: list[str]  # the speaker of each conversion; empty where there is no other speaker
    audio: dict[str, list[Wav]]  # system -> waveforms of all utterances

    def of(self, systems: Sequence[str]) -> dict[str, list[Wav]]:
        """Those of the given systems that exist."""
        return {name: self.audio[name] for name in systems if name in self.audio}


class InvertibleSpectrum(NamedTuple):
    """A log-mel spectrum that can be made from audio, from codes and, by Griffin-Lim, into audio."""

    log_mel: LogMel
    probe: SpectrumProbe | None  # None: the model's own spectrum head predicts it

    def of_wav(self, wav: Wav, num_codes: int, hop: int) -> Spectrum:
        """(T,) of N codes -> (N * R, F)."""
        frames = num_codes * (hop // self.log_mel.cfg.hop_length)
        return self.log_mel.centred(torch.from_numpy(wav)[None], frames)[0].numpy()

    def to_wav(self, spectrum: Spectrum, num_samples: int, seed: int) -> Wav:
        """(N * R, F) -> (T,)."""
        return griffin_lim(self.log_mel, torch.from_numpy(spectrum), num_samples, seed).numpy()


def invertible_spectrum(model: SpeechVQVAE, sets: Sequence[EvaluationSet]) -> InvertibleSpectrum | None:
    """That of the model's spectrum head; for a model without one, of a probe fitted to training utterances of all sets.

    None where there is no training speech to fit one to, or too many codes for one.
    """
    if model.spectrum is not None:
        log_mel = LogMel(model.spectrum.log_mel.cfg, model.sample_rate).eval()
        return InvertibleSpectrum(log_mel, None)
    log_mel = LogMel(_probe_config(model.hop, model.sample_rate), model.sample_rate).eval()
    if not SpectrumProbe.fits(model.codebook_size):
        return None
    found = InvertibleSpectrum(log_mel, None)
    codes, spectra, speakers = [], [], []
    for u, wav in training_speech(sets, PROBE_SECONDS):
        codes.append(model.tokenize(wav).codes.numpy())
        spectra.append(found.of_wav(wav, len(codes[-1]), model.hop))
        speakers.append(u.speaker)
    if not codes:
        return None
    probe = SpectrumProbe.fit(codes, spectra, speakers, codebook_size=model.codebook_size, frame_rate=model.frame_rate)
    return found._replace(probe=probe)


def _probe_config(hop: int, sample_rate: int) -> LogMelConfig:
    """80 bands, and the longest frames up to 10 ms that divide those of the codes."""
    longest = round(PROBE_HOP * sample_rate)
    divisor = next(samples for samples in range(min(longest, hop), 0, -1) if hop % samples == 0)
    window = max(divisor, round(PROBE_WINDOW * sample_rate))
    return LogMelConfig(PROBE_BANDS, divisor, window, f_max=0.475 * sample_rate)


def choose_targets(speakers: Sequence[str], sources: Sequence[str]) -> list[str]:
    """A target for each source, another speaker, in turn from up to 8 spread evenly over `speakers`; else empty."""
    count = min(MAX_TARGETS, len(speakers))
    candidates = [speakers[i * len(speakers) // count] for i in range(count)]
    targets = []
    for n, source in enumerate(sources):
        others = [name for name in candidates if name != source]
        if not others:
            return []
        targets.append(others[n % len(others)])
    return targets


def decode_speech(
    model: SpeechVQVAE,
    dataset: EvaluationSet,
    tokens: Callable[[int], Tokens],
    targets: Sequence[str],
    spectrum: InvertibleSpectrum | None,
    max_utterances: int,
    sampling: SamplingConfig,
) -> DecodedSpeech:
    """Utterances spread evenly over speakers, by every vocoder of the model.

    Where speakers of the set are in the model, or it was trained without speakers, their utterances are reconstructed
    and converted to other speakers among `targets` (else any of the model); where none is, utterances of all are
    converted. Utterances with a text are preferred; none is longer than MAX_SECONDS. `tokens`: index of an utterance ->
    its tokens. Raises NotApplicableError where the model cannot decode them.
    """
    if not model.vocoders and (spectrum is None or spectrum.probe is None):
        raise NotApplicableError(
            "the model was trained with stage: codes, so its decoder is not trained yet, and it has no spectrum head"
        )
    known = [i for i, u in enumerate(dataset.utterances) if u.speaker in model.speakers or not model.speakers]
    indices = [i for i in known or range(len(dataset.utterances)) if dataset.utterances[i].seconds <= MAX_SECONDS]
    if not indices:
        raise NotApplicableError(f"all utterances are longer than {MAX_SECONDS} s; cut them to decode them")
    indices = [i for i in indices if words_of(dataset.utterances[i].text or "")] or indices
    chosen = spread(indices, max_utterances, lambda i: dataset.utterances[i].speaker)
    utterances, batch = [dataset.utterances[i] for i in chosen], [tokens(i) for i in chosen]
    sources = [u.speaker for u in utterances]
    converted_to = choose_targets(targets, sources) or choose_targets(model.speakers, sources)
    audio = {ORIGINAL: [dataset.wav(u) for u in utterances]}
    if spectrum is not None:
        for wav, own in zip(audio[ORIGINAL], batch, strict=True):
            of_wav = spectrum.of_wav(wav, len(own.codes), model.hop)
            audio.setdefault(INVERTED, []).append(spectrum.to_wav(of_wav, own.num_samples, sampling.seed))
        if spectrum.probe is not None and known:
            audio[reconstruction("griffin-lim")] = [
                spectrum.to_wav(spectrum.probe.predict(own.codes.numpy(), source), own.num_samples, sampling.seed)
                for own, source in zip(batch, sources, strict=True)
            ]
    available = sorted(model.vocoders, key=[*TITLES].index)
    if known:
        for vocoder in available:
            own = sources if model.speakers else None
            audio[reconstruction(vocoder)] = _decode(model, batch, own, sampling, vocoder)
    if converted_to:
        conditioned = model.vocoders_with_pitch
        pitches = [model.pitch_of(wav) for wav in audio[ORIGINAL]] if conditioned else []
        for vocoder in available:
            own = pitches if vocoder in conditioned else None
            audio[conversion(vocoder)] = _decode(model, batch, converted_to, sampling, vocoder, own)
    return DecodedSpeech(utterances, converted_to, audio)


def _decode(
    model: SpeechVQVAE,
    tokens: Sequence[Tokens],
    speakers: Sequence[str] | None,
    sampling: SamplingConfig,
    vocoder: Vocoder,
    pitches: Sequence[Pitch] | None = None,
) -> list[Wav]:
    wavs = []
    for start in range(0, len(tokens), DECODE_BATCH):
        part = slice(start, start + DECODE_BATCH)
        names = None if speakers is None else speakers[part]
        decoded = model.decode_batch(tokens[part], names, sampling, vocoder, pitches and pitches[part])
        wavs += [wav.numpy() for wav in decoded]
    return wavs
