"""One model on one set: what several questions need of it, each made once, when it is first asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from vqaudio.data.alignments import Alignment
from vqaudio.data.crops import validation_batches
from vqaudio.data.manifest import Utterance
from vqaudio.data.packed import pack
from vqaudio.metrics.asr import ASR, PocketsphinxASR
from vqaudio.metrics.bitrate import Bitrates, bitrates
from vqaudio.metrics.conditioning_gap import ConditionedNLL, conditioned_nll
from vqaudio.metrics.kmeans_baseline import MAX_FRAMES, FeatureKind, KMeansTokenizer, random_codes
from vqaudio.metrics.phone_classes import Classes, fold
from vqaudio.report.datasets import EvaluationSet, Wav, in_turns, spread
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior
from vqaudio.speech.synthesis import DecodeOptions
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.bulk import Source, tokenize_whole
from vqaudio.tokens.chunks import CodeSequences
from vqaudio.tokens.rows import TokenRow

Codes = npt.NDArray[np.int64]
OURS, CHANCE = "tokens", "random codes"  # systems that make codes; those of UNITS beside them
UNITS: dict[str, FeatureKind] = {"k-means log-mel": "log_mel", "k-means MFCC": "mfcc"}
ORIGINAL, RECONSTRUCTION, CONVERSION = "original", "reconstruction", "conversion"  # audio
CROP_SAMPLES, CROPS_AT_ONCE = 8192, 16
SPOKEN_AT_ONCE = 16  # utterances of a batch of the decoder
ENROLLED = 5  # utterances that a voice is known by
SPARE = 2  # times as many frames as k-means takes are read for it, so that it draws them from more speech


class NotApplicableError(Exception):
    """Why a question cannot be asked of a model on a set; the report says so in its place."""


class DecodedSpeech(NamedTuple):
    """Some utterances, as they are and as the decoder speaks them freely: lists of one length.

    Without another voice to speak in, the last two are empty.
    """

    utterances: list[Utterance]
    originals: list[Wav]
    reconstructions: list[Wav]  # in their own voices
    targets: list[str]
    conversions: list[Wav]  # in the targets' voices


@dataclass
class EvaluationContext:
    """A model and a set, what both are compared with, and how much of the set is spoken again."""

    model: SpeechVQVAE
    set: EvaluationSet
    fit_kmeans: Callable[[], dict[str, KMeansTokenizer]]
    """what `fit_units` gives, learned once for all sets"""
    enrolment: dict[str, list[Utterance]]
    """of the model's voices, utterances that are not judged here"""
    classes: Classes
    """in which phones are scored"""
    spoken_utterances: int
    options: DecodeOptions
    seed: int
    recogniser: Callable[[Sequence[str]], ASR] = PocketsphinxASR
    """of words, made for the texts of the corpus"""
    features: Sequence[Path] = ()
    """folders of ID.npy, (N, D) or (N,) at the model's frame rate: other systems for ABX"""
    prior: CodePrior | None = None
    training: CodeSequences | None = None
    """codes that bits are counted on"""

    @property
    def kmeans(self) -> dict[str, KMeansTokenizer]:
        """Baselines by their names; none where there was no speech to learn them from."""
        return self.fit_kmeans()

    @cached_property
    def rows(self) -> list[TokenRow]:
        """The tokens of all utterances. Raises AudioError for one that cannot be used."""
        return list(tokenize_whole(self.model, [Source(u.id, u.path, u.speaker) for u in self.set.utterances]))

    @cached_property
    def codes(self) -> dict[str, list[Codes]]:
        """(N,) of every utterance, by the systems that made them."""
        ours = [row.tokens.codes.numpy() for row in self.rows]
        found: dict[str, list[Codes]] = {name: [] for name in self.kmeans}
        for wav in map(self.set.wav, self.set.utterances if found else ()):
            for name, units in self.kmeans.items():
                found[name].append(units.encode(wav))
        return {OURS: ours, **found, CHANCE: random_codes(ours, self.model.codebook_size, self.seed)}

    @cached_property
    def alignments(self) -> dict[str, Alignment]:
        """By utterance, with the phone classes for labels. Raises ValueError for labels that have no class."""
        own = self.set.alignments
        return dict(zip(own, fold(list(own.values()), self.classes).alignments, strict=True))

    @cached_property
    def rates(self) -> Bitrates:
        """What the tokens cost, of all and of each speaker."""
        return bitrates(self.rows, self.model.codebook_size, training=self.training, prior=self.prior)

    def vectors(self, system: str, codes: Codes) -> npt.NDArray[np.float32] | None:
        """(N,) of one system -> the code vectors (N, D); None where codes are names only."""
        if system == OURS:
            return self.model.quantizer.decode(torch.from_numpy(codes)[None].to(self.model.device))[0].T.cpu().numpy()
        return self.kmeans[system].vectors[codes] if system in self.kmeans else None

    @cached_property
    def nll(self) -> ConditionedNLL:
        """As many crops of half a second as there are utterances, at least 32, the speakers in turns."""
        model, own = self.model, self.set.utterances
        self._check_speaks()
        known = [u for u in own if u.speaker in model.speakers] if model.speakers else own
        if not known:
            raise NotApplicableError("the model knows none of the speakers, so that its decoder has no voice for them")
        batches = max(2, -(-len(known) // CROPS_AT_ONCE))
        with tempfile.TemporaryDirectory() as folder:
            speech = pack(known, Path(folder) / "packed", model.sample_rate, model.speakers or None)
            crops = validation_batches(
                speech, CROP_SAMPLES, CROPS_AT_ONCE, batches, self.seed, num_classes=model.cfg.decoder.num_classes
            )
            return conditioned_nll(model, crops)

    @cached_property
    def decoded(self) -> DecodedSpeech:
        """The speakers in turns; each in its own voice and, if there is one, in another.

        Raises UnansweredError where the model has no voice for them.
        """
        self._check_speaks()
        if not self.model.speakers:
            raise NotApplicableError("the model has no speakers: it speaks in nobody's voice")
        known = [i for i, u in enumerate(self.set.utterances) if u.speaker in self.model.speakers]
        if not known:
            raise NotApplicableError(
                "the model knows none of the speakers: it cannot say what they said in their voices"
            )
        chosen = spread(known, self.spoken_utterances, lambda i: self.set.utterances[i].speaker)
        utterances = [self.set.utterances[i] for i in chosen]
        tokens = [self.rows[i].tokens for i in chosen]
        voices = [name for name in self.model.speakers if name in self.enrolment]
        targets = []
        for turn, u in enumerate(utterances):
            if others := [name for name in voices if name != u.speaker]:
                targets.append(others[turn % len(others)])  # all of them in turns
        if len(targets) < len(utterances):
            targets = []
        return DecodedSpeech(
            utterances,
            [self.set.wav(u) for u in utterances],
            self._speak(tokens, [u.speaker for u in utterances]),
            targets,
            self._speak(tokens, targets) if targets else [],
        )

    def _check_speaks(self) -> None:
        if self.model.cfg.stage == "codes":
            raise NotApplicableError("the model has learned codes alone: its decoder cannot say anything yet")

    def _speak(self, tokens: Sequence[Tokens], voices: Sequence[str]) -> list[Wav]:
        spoken = []
        for start in range(0, len(tokens), SPOKEN_AT_ONCE):
            part = slice(start, start + SPOKEN_AT_ONCE)
            spoken += [wav.numpy() for wav in self.model.decode_batch(tokens[part], voices[part], **self.options)]
        return spoken


def enrolment(sets: Sequence[EvaluationSet], speakers: Sequence[str]) -> dict[str, list[Utterance]]:
    """Of each speaker some training utterances, the longest first: what the voice is known by."""
    found: dict[str, list[Utterance]] = {}
    for u in sorted((u for one in sets for u in one.training), key=lambda u: (-min(u.seconds, 5.0), u.id)):
        if u.speaker in speakers and len(found.setdefault(u.speaker, [])) < ENROLLED:
            found[u.speaker].append(u)
    return found


def fit_units(sets: Sequence[EvaluationSet], model: SpeechVQVAE, seed: int) -> dict[str, KMeansTokenizer]:
    """K-means with the model's number of codes at its frame rate, on training utterances of all sets together."""
    every = [(one, u) for one in sets for u in one.training]
    enough, seconds = MAX_FRAMES * SPARE * model.hop / model.sample_rate, 0.0
    wavs: list[Wav] = []
    for one, u in in_turns(every, lambda item: item[1].speaker):
        if seconds >= enough:
            break
        wavs.append(one.wav(u))
        seconds += u.seconds
    rate, hop, codes = model.sample_rate, model.hop, model.codebook_size
    if sum(-(-len(wav) // hop) for wav in wavs) < codes:
        return {}
    return {
        name: KMeansTokenizer.fit(wavs, sample_rate=rate, hop=hop, codes=codes, features=kind, seed=seed)
        for name, kind in UNITS.items()
    }
