"""One model on one set: intermediate results that several tasks share, each computed when it is first needed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vqaudio.data.alignments import Alignment
from vqaudio.data.crops import validation_batches
from vqaudio.data.manifest import Utterance
from vqaudio.data.packed import pack
from vqaudio.metrics.asr import WhisperASR
from vqaudio.metrics.bitrate import Bitrates, bitrates
from vqaudio.metrics.conditioning_gap import ConditionedNLL, conditioned_nll
from vqaudio.metrics.kmeans_baseline import MAX_FRAMES, KMeansTokenizer, random_codes
from vqaudio.metrics.phone_classes import Classes, fold
from vqaudio.report.datasets import EvaluationSet, training_speech
from vqaudio.report.decoded import DecodedSpeech, InvertibleSpectrum, decode_speech
from vqaudio.report.systems import KMEANS, MODEL, RANDOM, NotApplicableError
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior
from vqaudio.tokens.bulk import Source, tokenize_whole
from vqaudio.tokens.chunks import CodeSequences
from vqaudio.tokens.rows import TokenRow

Codes = npt.NDArray[np.int64]
CROP_SAMPLES, CROP_BATCH = 8192, 16
ENROLMENT_UTTERANCES = 5  # of a speaker, for the speaker verifier
KMEANS_SPARE = 2  # read this many times the frames that k-means is fitted to, so that they come from more utterances


@dataclass
class EvaluationContext:
    """A model, an evaluation set, the baselines, and the number of utterances to decode."""

    model: SpeechVQVAE
    dataset: EvaluationSet
    fit_kmeans: Callable[[], dict[str, KMeansTokenizer]]
    """returns the result of `fit_kmeans_baselines`, computed once for all sets"""
    spectrum: Callable[[], InvertibleSpectrum | None]
    """returns the result of `invertible_spectrum`, computed once for all sets"""
    enrolment: dict[str, list[Utterance]]
    """training utterances of the model's speakers, for the speaker verifier"""
    phone_classes: Classes
    decoded_utterances: int
    """maximum number of utterances that are decoded"""
    sampling: SamplingConfig
    """how samples are drawn; its seed is that of crops, baselines and probes too"""
    load_asr: Callable[[], WhisperASR] = WhisperASR
    """returns the speech recogniser, loaded once for all sets"""
    features: Sequence[Path] = ()
    """folders of ID.npy, (N, D) or (N,) at the model's frame rate: further systems for ABX"""
    prior: CodePrior | None = None
    train_codes: CodeSequences | None = None
    """codes of training utterances, for the bitrates whose names end in _trained"""

    @property
    def seed(self) -> int:
        """Random seed of everything in the report."""
        return self.sampling.seed

    @property
    def kmeans(self) -> dict[str, KMeansTokenizer]:
        """Baselines by name; empty where there is too little training speech."""
        return self.fit_kmeans()

    @property
    def unknown_speakers(self) -> int:
        """Number of utterances by speakers that are not in the model, where others of the set are."""
        unknown = sum(u.speaker not in self.model.speakers for u in self.dataset.utterances)
        return unknown if self.model.speakers and unknown < len(self.dataset.utterances) else 0

    @cached_property
    def rows(self) -> list[TokenRow]:
        """The model's tokens of all utterances. Raises AudioError for an utterance that cannot be used."""
        return list(tokenize_whole(self.model, [Source(u.id, u.path, u.speaker) for u in self.dataset.utterances]))

    @cached_property
    def codes(self) -> dict[str, list[Codes]]:
        """System -> codes (N,) of every utterance."""
        own = [row.tokens.codes.numpy() for row in self.rows]
        of_kmeans: dict[str, list[Codes]] = {name: [] for name in self.kmeans}
        for wav in map(self.dataset.wav, self.dataset.utterances if of_kmeans else ()):
            for name, tokenizer in self.kmeans.items():
                of_kmeans[name].append(tokenizer.encode(wav))
        return {MODEL: own, **of_kmeans, RANDOM: random_codes(own, self.model.codebook_size, self.seed)}

    @cached_property
    def alignments(self) -> dict[str, Alignment]:
        """Alignments by utterance, labelled with phone classes. Raises ValueError for labels without a class."""
        own = self.dataset.alignments
        return dict(zip(own, fold(list(own.values()), self.phone_classes).alignments, strict=True))

    @cached_property
    def bitrates(self) -> Bitrates:
        """Bitrates of all utterances and of each speaker."""
        return bitrates(self.rows, self.model.codebook_size, training=self.train_codes, prior=self.prior)

    def vectors(self, system: str, codes: Codes) -> npt.NDArray[np.float32] | None:
        """Codes (N,) of a system -> code vectors (N, D); None for a system whose codes have no vectors."""
        if system == MODEL:
            return self.model.quantizer.decode(torch.from_numpy(codes)[None].to(self.model.device))[0].T.cpu().numpy()
        return self.kmeans[system].vectors[codes] if system in self.kmeans else None

    @cached_property
    def nll(self) -> ConditionedNLL:
        """On crops of 8,192 samples: as many as there are utterances, at least 32, spread evenly over speakers."""
        model, utterances = self.model, self.dataset.utterances
        self._check_decoder()
        known = [u for u in utterances if u.speaker in model.speakers] if model.speakers else utterances
        if not known:
            raise NotApplicableError("the model has no speaker of this set, so there is no conditioning gap")
        batches = max(2, -(-len(known) // CROP_BATCH))
        with tempfile.TemporaryDirectory() as folder:
            speech = pack(known, Path(folder) / "packed", model.sample_rate, model.speakers or None)
            crops = validation_batches(
                speech, CROP_SAMPLES, CROP_BATCH, batches, self.seed, num_classes=model.cfg.decoder.num_classes
            )
            return conditioned_nll(model, crops)

    @cached_property
    def decoded(self) -> DecodedSpeech:
        """Utterances as audio of all systems (see `decode_speech`). Raises NotApplicableError as it does.

        Conversions are to speakers with training utterances here, by which their similarity can be measured; where
        there are none, to any of the model.
        """
        speakers = [name for name in self.model.speakers if len(self.enrolment.get(name, ())) > 1]
        return decode_speech(
            self.model,
            self.dataset,
            lambda i: self.rows[i].tokens,
            speakers,
            self.spectrum(),
            self.decoded_utterances,
            self.sampling,
        )

    def _check_decoder(self) -> None:
        if "wavenet" not in self.model.vocoders:
            raise NotApplicableError(
                f"the WaveNet of the model is not trained (stage: {self.model.cfg.stage}), so it has no cross-entropy"
            )


def enrolment(sets: Sequence[EvaluationSet], speakers: Sequence[str]) -> dict[str, list[Utterance]]:
    """Up to 5 training utterances of each speaker, the longest first, for the speaker verifier."""
    found: dict[str, list[Utterance]] = {}
    for u in sorted((u for one in sets for u in one.training), key=lambda u: (-min(u.seconds, 5.0), u.id)):
        if u.speaker in speakers and len(found.setdefault(u.speaker, [])) < ENROLMENT_UTTERANCES:
            found[u.speaker].append(u)
    return found


def fit_kmeans_baselines(sets: Sequence[EvaluationSet], model: SpeechVQVAE, seed: int) -> dict[str, KMeansTokenizer]:
    """K-means tokenizers with the model's codebook size and frame rate, fitted to training utterances of all sets.

    Empty where there are fewer frames than codes.
    """
    wavs = [wav for _, wav in training_speech(sets, MAX_FRAMES * KMEANS_SPARE * model.hop / model.sample_rate)]
    rate, hop, codes = model.sample_rate, model.hop, model.codebook_size
    if sum(-(-len(wav) // hop) for wav in wavs) < codes:
        return {}
    return {
        name: KMeansTokenizer.fit(wavs, sample_rate=rate, hop=hop, codes=codes, features=kind, seed=seed)
        for name, kind in KMEANS.items()
    }
