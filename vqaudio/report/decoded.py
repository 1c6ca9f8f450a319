"""Audio that a report judges: some utterances of a set, as they are and as the model decodes them in several ways.

The kinds of audio are a chain in which each loses something more, so that a loss can be attributed: the original, its
log-mel spectrum inverted by Griffin-Lim, the spectrum predicted from the codes inverted likewise, and the WaveNet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from vqaudio.data.manifest import Utterance
from vqaudio.metrics.spectrum_probe import Spectrum, SpectrumProbe
from vqaudio.nn.log_mel import LogMel, LogMelConfig
from vqaudio.report.datasets import EvaluationSet, Wav, round_robin, spread
from vqaudio.report.systems import INVERTED, ORIGINAL, NotApplicableError, conversion, reconstruction
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.griffin_lim import griffin_lim
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokens import Tokens
from vqaudio.speech.vocoders import Vocoder

DECODE_BATCH = 16  # utterances that the decoder generates together
MAX_TARGETS = 8  # speakers to whom utterances are converted, spread evenly over those of the model
PROBE_SECONDS = 600.0  # training speech to which a spectrum probe is fitted
PROBE_BANDS, PROBE_HOP, PROBE_WINDOW = 80, 0.01, 0.025  # mel bands; longest hop and window in seconds


class DecodedSpeech(NamedTuple):
    """Some utterances as audio of several systems, all free-running."""

    utterances: list[Utterance]
    targets: list[str]  # the speaker of each conversion; empty where nobody can be a target
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


def vocoders(model: SpeechVQVAE) -> tuple[Vocoder, ...]:
    """Those with which the model can decode."""
    griffin_lim: tuple[Vocoder, ...] = ("griffin-lim",) if model.spectrum is not None else ()
    return griffin_lim if model.cfg.stage == "codes" else (*griffin_lim, "wavenet")


def invertible_spectrum(model: SpeechVQVAE, sets: Sequence[EvaluationSet]) -> InvertibleSpectrum | None:
    """That of the model's spectrum head; for a model without one, of a probe fitted to training utterances of all sets.

    None where there is no training speech to fit one to.
    """
    if model.spectrum is not None:
        log_mel = LogMel(model.spectrum.log_mel.cfg, model.sample_rate).eval()
        return InvertibleSpectrum(log_mel, None)
    log_mel = LogMel(_probe_config(model.hop, model.sample_rate), model.sample_rate).eval()
    found = InvertibleSpectrum(log_mel, None)
    codes, spectra, speakers, seconds = [], [], [], 0.0
    candidates = [(one, u) for one in sets for u in one.training]
    for one, u in round_robin(candidates, lambda item: item[1].speaker):
        if seconds >= PROBE_SECONDS:
            break
        wav = one.wav(u)
        codes.append(model.tokenize(wav).codes.numpy())
        spectra.append(found.of_wav(wav, len(codes[-1]), model.hop))
        speakers.append(u.speaker)
        seconds += u.seconds
    if not codes:
        return None
    return found._replace(probe=SpectrumProbe.fit(codes, spectra, speakers, model.codebook_size))


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

    Where the model knows speakers of the set, their utterances are reconstructed and converted to other speakers among
    `targets`; where it knows none, utterances of all are converted. `tokens`: index of an utterance -> its tokens.
    Raises NotApplicableError where the model cannot decode them.
    """
    available = vocoders(model)
    if not available:
        raise NotApplicableError(
            "the model was trained with stage: codes, so its decoder is not trained yet, and it has no spectrum head"
        )
    if not model.speakers:
        raise NotApplicableError("the model was trained without speakers, so there is no speaker to decode with")
    known = [i for i, u in enumerate(dataset.utterances) if u.speaker in model.speakers]
    indices = known or list(range(len(dataset.utterances)))
    chosen = spread(indices, max_utterances, lambda i: dataset.utterances[i].speaker)
    utterances, batch = [dataset.utterances[i] for i in chosen], [tokens(i) for i in chosen]
    sources = [u.speaker for u in utterances]
    converted_to = choose_targets(targets, sources)
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
    if known:
        for vocoder in available:
            audio[reconstruction(vocoder)] = _decode(model, batch, sources, sampling, vocoder)
    if converted_to:
        for vocoder in available:
            audio[conversion(vocoder)] = _decode(model, batch, converted_to, sampling, vocoder)
    return DecodedSpeech(utterances, converted_to, audio)


def _decode(
    model: SpeechVQVAE, tokens: Sequence[Tokens], speakers: Sequence[str], sampling: SamplingConfig, vocoder: Vocoder
) -> list[Wav]:
    wavs = []
    for start in range(0, len(tokens), DECODE_BATCH):
        part = slice(start, start + DECODE_BATCH)
        decoded = model.decode_batch(tokens[part], speakers[part], sampling, vocoder=vocoder)
        wavs += [wav.numpy() for wav in decoded]
    return wavs
