"""The registry of report tasks: for each its title, description and metrics, and the function that computes them.

The page, the JSON file, `--only`, the table in docs/evaluation.md and the summary take titles, units, directions and
meanings from here. A new metric is a value that a function under vqaudio/metrics/ returns, and a row in `TASKS`. This
module imports nothing heavy: the command line reads it before torch is loaded, and functions are found when they run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Better = Literal["higher", "lower", "neither"]
HIGHER, LOWER, NEITHER = "higher", "lower", "neither"


class Metric(NamedTuple):
    """One number of a report."""

    key: str
    unit: str  # "fraction" is shown in percent; "" for a number without a unit
    better: Better
    meaning: str  # one sentence


class Task(NamedTuple):
    """What is measured together, from the same data."""

    key: str
    title: str
    description: str
    compute: str  # "module:function"
    metrics: tuple[Metric, ...]
    inputs: Literal["context", "codes"] = "context"
    """context: the function takes an EvaluationContext and yields names of systems with their metrics. codes: it takes
    the codes of all utterances, [(N,), ...], codebook_size and frame_rate, and is called for every system."""
    decodes: bool = False
    """whether it evaluates decoded audio"""
    summary: tuple[str, ...] = ()
    """sentences for the top of the report, in the template language of vqaudio/report/summary.py"""
    compared: str = ""
    """key of the metric by which the first sentence compares the tokens with the best k-means baseline"""

    def metric(self, key: str) -> Metric:
        """Raises KeyError for a metric that has no row."""
        for metric in self.metrics:
            if metric.key == key:
                return metric
        raise KeyError(f"task {self.key!r} computes {key!r}, which has no row in vqaudio/report/tasks.py; add one")

    @property
    def function(self) -> Callable[..., Any]:
        """Imported now."""
        module, name = self.compute.split(":")
        return getattr(importlib.import_module(module), name)


_CHANGES = {  # of the robustness task: how the input is changed
    "gain_minus6": "the speech is made 6 dB softer",
    "gain_plus6": "the speech is made 6 dB louder",
    "noise_20": "white noise is added at a signal-to-noise ratio of 20 dB",
    "noise_10": "white noise is added at a signal-to-noise ratio of 10 dB",
    "shift_hop": "the first hop is cut off; compared with the codes from the second on",
    "shift_half": "the first half hop is cut off",
    "resample_8k": "the speech is resampled to 8 kHz and back",
    "resample_44k": "the speech is resampled to 44.1 kHz and back",
    "mp3": "the speech is coded as MP3 at about 40 kbit/s",
    "opus": "the speech is coded with Opus at about 30 kbit/s",
}
_EDIT_RATES = tuple(
    Metric(
        f"edit_rate_{change}{suffix}",
        "edits",
        LOWER,
        f"Edits (insertions, deletions, substitutions) per {per} when {how}.",
    )
    for suffix, per in (("", "code"), ("_merged", "run of equal codes"))
    for change, how in _CHANGES.items()
)

TASKS = (
    Task(
        "conditioning_gap",
        "Conditioning gap",
        "How much the decoder uses the codes and the speaker: teacher-forced cross-entropy on crops of about half a "
        "second, in bits per sample. A conditioning gap near 0 means posterior collapse.",
        "vqaudio.report.compute:conditioning_gap",
        (
            Metric("bits_per_sample", "bits", LOWER, "Cross-entropy of the next sample given the previous samples, "
                   "the codes and the speaker; low values alone prove nothing, because a decoder that ignores its "
                   "codes can have them too."),
            Metric("conditioning_gap", "bits", HIGHER, "Increase of bits_per_sample when the codes are those of "
                   "another utterance; 0 means that the decoder ignores the codes."),
            Metric("conditioning_gap_mean", "bits", HIGHER, "Increase of bits_per_sample when every code vector is "
                   "replaced by the mean of all of them."),
            Metric("speaker_gap", "bits", HIGHER, "Increase of bits_per_sample when another speaker is given; 0 means "
                   "that the decoder ignores the speaker, so that voice conversion has no effect."),
        ),
    ),
    Task(
        "phones",
        "Phone accuracy",
        "How well codes predict phones, frame by frame: each code is mapped to its most frequent phone on one half of "
        "the speakers and scored on the other half.",
        "vqaudio.report.compute:phones",
        (
            Metric("accuracy", "fraction", HIGHER, "Frame-level phone accuracy of the mapping from codes to phones."),
            Metric("majority_accuracy", "fraction", NEITHER, "Accuracy of always predicting the most frequent phone, "
                   "which needs no codes."),
            Metric("shuffled_accuracy", "fraction", NEITHER, "Accuracy after the codes of each utterance have been "
                   "shuffled; it can be below majority_accuracy where there are many codes and little speech."),
            Metric("bigram_accuracy", "fraction", HIGHER, "Accuracy of predicting the phone from a code and the one "
                   "before it; with little speech most pairs are too rare, and it falls below accuracy."),
            Metric("pnmi", "fraction", HIGHER, "Phone-normalised mutual information, I(phone; code) / H(phone), "
                   "counted on the evaluated frames themselves and therefore too high for many codes on little "
                   "speech."),
            Metric("pnmi_shuffled", "fraction", NEITHER, "PNMI of shuffled codes: the bias of PNMI that is due to the "
                   "finite number of frames."),
            Metric("phone_purity", "fraction", HIGHER, "Fraction of frames that have the most frequent phone of their "
                   "code; it rises with the number of codes."),
            Metric("cluster_purity", "fraction", HIGHER, "Fraction of frames that have the most frequent code of "
                   "their phone; it falls with the number of codes and is 1 for a single code."),
            Metric("boundary_precision", "fraction", HIGHER, "Fraction of the code changes that lie within 20 ms of a "
                   "phone boundary."),
            Metric("boundary_recall", "fraction", HIGHER, "Fraction of the phone boundaries with a code change within "
                   "20 ms; it is 1 where codes change in every frame."),
            Metric("boundary_f1", "fraction", HIGHER, "Harmonic mean of boundary precision and recall."),
            Metric("boundary_r_value", "", HIGHER, "R-value of Räsänen et al. (2009), at most 1: unlike F1 it "
                   "penalises over-segmentation, and is far below 0 at hundreds of codes per second."),
            Metric("mapped_boundary_f1", "fraction", HIGHER, "Boundary F1 of the changes of the predicted phone "
                   "instead of the code."),
            Metric("mapped_boundary_r_value", "", HIGHER, "R-value of the changes of the predicted phone instead of "
                   "the code."),
        ),
        summary=(
            "On {set}, codes predict the phone of {tokens:accuracy} of the frames (always the most frequent phone: "
            "{tokens:majority_accuracy})",
        ),
        compared="accuracy",
    ),
    Task(
        "abx",
        "ABX phone discrimination",
        "For two tokens A and X of one phone and a token B of another: how often is X nearer to B than to A? No probe "
        "is trained; chance is 50 %.",
        "vqaudio.report.compute:abx",
        (
            Metric("abx_within", "fraction", LOWER, "ABX error rate with A, B and X by one speaker, comparing codes "
                   "by identity."),
            Metric("abx_across", "fraction", LOWER, "ABX error rate with X by another speaker; the increase over "
                   "abx_within shows how much codes depend on the speaker."),
            Metric("abx_within_vectors", "fraction", LOWER, "ABX error rate within speakers by the angle between code "
                   "vectors, so that similar codes count as similar."),
            Metric("abx_across_vectors", "fraction", LOWER, "ABX error rate across speakers by the angle between code "
                   "vectors."),
            Metric("abx_cells_within", "cells", NEITHER, "Number of compared combinations of phone pair, context and "
                   "speaker within speakers."),
            Metric("abx_cells_across", "cells", NEITHER, "Number of compared combinations of phone pair, context and "
                   "speakers across speakers."),
            Metric("abx_items", "phones", NEITHER, "Number of phone tokens that were compared, out of n."),
            Metric("abx_triphone_context", "", NEITHER, "1 if only phones with equal neighbours were compared, as in "
                   "published results; 0 if phones in any context were compared, which is harder and not comparable "
                   "with those."),
        ),
        summary=(
            "On {set}, the ABX error rate across speakers is [{tokens:abx_across_vectors} by code vectors and ]"
            "{tokens:abx_across} by code identity (chance: 50 %; it depends on the frame rate)",
        ),
        compared="abx_across",
    ),
    Task(
        "speaker_probe",
        "Speaker probe",
        "How much codes reveal about the speaker: classifiers predict the speaker from two seconds of codes. For voice "
        "conversion, lower accuracies are better.",
        "vqaudio.report.compute:speaker_probe",
        (
            Metric("linear_accuracy", "fraction", LOWER, "Speaker accuracy of a linear classifier on how often each "
                   "code occurs in a segment."),
            Metric("recurrent_accuracy", "fraction", LOWER, "Speaker accuracy of a small recurrent network, which "
                   "also uses the order of the codes."),
            Metric("chance", "fraction", NEITHER, "Accuracy of always predicting the speaker with the most segments."),
        ),
        summary=(
            "On {set}, two seconds of codes reveal the speaker in {tokens:linear_accuracy} of the cases to a "
            "linear and in {tokens:recurrent_accuracy} to a recurrent classifier (chance: {tokens:chance})",
        ),
    ),
    Task(
        "voice_conversion",
        "Voice conversion",
        "Whether decoded speech has the requested speaker, by cosine similarities of a pretrained speaker verifier.",
        "vqaudio.report.compute:voice_conversion",
        (
            Metric("similarity_target", "", HIGHER, "Similarity of a conversion to the target speaker; compare it "
                   "with real_same_speaker and real_other_speakers."),
            Metric("similarity_source", "", LOWER, "Similarity of a conversion to the source speaker."),
            Metric("closer_to_target", "fraction", HIGHER, "Fraction of the conversions that are more similar to the "
                   "target than to the source speaker."),
            Metric("target_identified", "fraction", HIGHER, "Fraction of the conversions whose most similar speaker, "
                   "among all, is the target."),
            Metric("similarity_speaker", "", HIGHER, "Similarity of a reconstruction to its speaker."),
            Metric("speaker_identified", "fraction", HIGHER, "Fraction of the reconstructions whose most similar "
                   "speaker, among all, is their own."),
            Metric("real_same_speaker", "", NEITHER, "Similarity of a real utterance to other utterances of its "
                   "speaker: the upper reference."),
            Metric("real_other_speakers", "", NEITHER, "Similarity of a real utterance to other speakers: the lower "
                   "reference."),
            Metric("real_identified", "fraction", NEITHER, "Fraction of the real utterances whose most similar "
                   "speaker is their own: the verifier's accuracy on this set."),
            Metric("equal_error_rate", "fraction", NEITHER, "Equal error rate (EER) of the verifier on real "
                   "utterances."),
            Metric("chance", "fraction", NEITHER, "1 over the number of enrolled speakers."),
        ),
        decodes=True,
        summary=(
            "On {set}, {conversion:closer_to_target} of the conversions are more similar to the target than to the "
            "source speaker (equal error rate of the verifier on real speech: {original:equal_error_rate})",
        ),
    ),
    Task(
        "wer",
        "Word error rate",
        "Speech recognition of original and decoded audio by Whisper, with an open vocabulary. original (Griffin-Lim): "
        "the original's log-mel spectrum as audio; reconstruction (Griffin-Lim): the spectrum that is predicted from "
        "the codes and the speaker, by the model's spectrum head or, where it has none, by ridge regression from codes "
        "of training utterances. Differences between them attribute the errors to codes and decoder.",
        "vqaudio.report.compute:wer",
        (
            Metric("wer", "fraction", LOWER, "Word error rate: substitutions, deletions and insertions over the words "
                   "of the reference; it can exceed 100 %."),
            Metric("cer", "fraction", LOWER, "Character error rate."),
            Metric("wer_lost_by_codes", "fraction", LOWER, "WER of the spectrum predicted from the codes minus that of "
                   "the original's spectrum, both inverted by Griffin-Lim: what the codes lose (of conversions: codes "
                   "and speaker)."),
            Metric("wer_lost_by_istft", "fraction", LOWER, "WER of the vocoder istft minus that of the spectrum "
                   "predicted from the same codes, inverted by Griffin-Lim: what the vocoder loses; below 0 where it "
                   "gains."),
            Metric("wer_lost_by_wavenet", "fraction", LOWER, "WER of the WaveNet minus that of the spectrum predicted "
                   "from the same codes: what the decoder loses; below 0 where it gains."),
            Metric("wer_shuffled", "fraction", NEITHER, "WER against the references of other utterances: the worst "
                   "case."),
            Metric("cer_shuffled", "fraction", NEITHER, "CER against the references of other utterances."),
        ),
        decodes=True,
        summary=(
            "On {set}, the codes change the word error rate by {reconstruction (Griffin-Lim):wer_lost_by_codes}, from "
            "{original (Griffin-Lim):wer} (the original's log-mel spectrum) to {reconstruction (Griffin-Lim):wer} (the "
            "spectrum predicted from the codes)[; the vocoder istft by a further "
            "{reconstruction (iSTFT):wer_lost_by_istft}, to {reconstruction (iSTFT):wer}][; the WaveNet by a further "
            "{reconstruction (WaveNet):wer_lost_by_wavenet}, to {reconstruction (WaveNet):wer}]",
            "On {set}, in conversions codes and speaker change the word error rate by "
            "{conversion (Griffin-Lim):wer_lost_by_codes}, from {original (Griffin-Lim):wer} to "
            "{conversion (Griffin-Lim):wer}[; the vocoder istft by a further "
            "{conversion (iSTFT):wer_lost_by_istft}, to {conversion (iSTFT):wer}][; the WaveNet by a further "
            "{conversion (WaveNet):wer_lost_by_wavenet}, to {conversion (WaveNet):wer}]",
        ),
    ),
    Task(
        "naturalness",
        "Naturalness",
        "Opinion scores from 1 to 5 that a network, DNSMOS P.835, predicts for original and decoded audio; "
        "clean recordings have about 3.2 overall.",
        "vqaudio.report.compute:naturalness",
        (
            Metric("mos_overall", "", HIGHER, "Predicted mean opinion score of the whole (OVRL), at most about 3.9."),
            Metric("mos_signal", "", HIGHER, "Predicted mean opinion score of the speech alone (SIG), at most about "
                   "4.0."),
            Metric("mos_background", "", HIGHER, "Predicted mean opinion score of the background alone (BAK), at most "
                   "about 4.4."),
        ),
        decodes=True,
        summary=(
            "On {set}, the predicted opinion score (DNSMOS, 1 to 5) is {original:mos_overall} for original audio"
            "[, {reconstruction:mos_overall} for reconstructions][, {conversion:mos_overall} for conversions]",
        ),
    ),
    Task(
        "signal",
        "Signal",
        "How close free-running reconstructions are to the original, and the pitch of conversions to that of their "
        "source. A vocoder makes a new waveform, so metrics that compare waveforms in time are necessarily low.",
        "vqaudio.report.compute:signal",
        (
            Metric("mcd", "dB", LOWER, "Mel-cepstral distortion after dynamic time warping, without level and pitch "
                   "(13 coefficients, 25 ms windows every 10 ms)."),
            Metric("log_mel_distance", "dB", LOWER, "Root mean square difference of log-mel spectra, frame by frame, "
                   "including level and noise."),
            Metric(
                "f0_correlation",
                "",
                HIGHER,
                "Correlation of F0 within each utterance, where both signals are voiced; mean over utterances, "
                "weighted by these frames.",
            ),
            Metric("f0_rmse", "cents", LOWER, "Root mean square F0 error where both signals are voiced; 100 cents are "
                   "a semitone."),
            Metric("gross_pitch_error", "fraction", LOWER, "Fraction of the frames voiced in both whose F0 differs by "
                   "more than 20 %."),
            Metric("voicing_error", "fraction", LOWER, "Fraction of the frames that are voiced in only one of the two "
                   "signals."),
            Metric("voiced_fraction", "fraction", NEITHER, "Fraction of voiced frames in the decoded audio; low for "
                   "whispered speech."),
            Metric("voiced_fraction_original", "fraction", NEITHER, "Fraction of voiced frames in the original."),
            Metric("level_difference", "dB", NEITHER, "Level of the reconstruction relative to the original; 0 is "
                   "ideal."),
            Metric("pesq", "", HIGHER, "Wide-band PESQ, from 1 to 4.64, which compares the signals in time."),
            Metric("stoi", "", HIGHER, "Short-time objective intelligibility (STOI), at most 1, which compares band "
                   "envelopes in time."),
            Metric("estoi", "", HIGHER, "Extended STOI, which also handles modulated noise."),
        ),
        decodes=True,
    ),
    Task(
        "codebook_usage",
        "Codebook usage",
        "Which codes are used, how long they last and how predictable the next one is.",
        "vqaudio.metrics.codebook_usage:codebook_usage_metrics",
        (
            Metric("usage", "fraction", NEITHER, "Fraction of the codebook that occurs in the set."),
            Metric("entropy", "bits", NEITHER, "Entropy of the code distribution; random codes have the highest."),
            Metric("perplexity", "codes", NEITHER, "2 to the power of the entropy: the effective number of codes."),
            Metric("repeat_rate", "fraction", NEITHER, "Fraction of the codes that equal the one before."),
            Metric("run_length_mean", "frames", NEITHER, "Mean number of frames for which a code stays the same."),
            Metric("run_length_ms", "ms", NEITHER, "Mean duration for which a code stays the same; a phone lasts "
                   "about 80 ms."),
            Metric("run_length_median", "frames", NEITHER, "Median number of frames for which a code stays the same."),
            Metric("bigram_entropy", "bits", NEITHER, "Conditional entropy of a code given the one before; biased low "
                   "on little speech."),
            Metric("distinct_bigrams", "pairs", NEITHER, "Number of different pairs of successive codes; it grows "
                   "with the amount of speech."),
            Metric("bigram_type_token_ratio", "fraction", NEITHER, "Different pairs over all pairs; 1 where no pair "
                   "occurs twice."),
            Metric("distinct_trigrams", "triples", NEITHER, "Number of different triples of successive codes."),
            Metric("trigram_type_token_ratio", "fraction", NEITHER, "Different triples over all triples."),
        ),
        inputs="codes",
    ),
    Task(
        "bitrate",
        "Bitrate",
        "Bits per second of speech under increasingly strong models of the code sequence.",
        "vqaudio.report.compute:bitrate",
        (
            Metric("nominal", "bits/s", LOWER, "Bitrate at log2 K bits per code."),
            Metric("unigram", "bits/s", LOWER, "Bitrate under the code frequencies of the evaluated utterances "
                   "themselves, which is biased low."),
            Metric("bigram", "bits/s", LOWER, "Bitrate under the code bigrams of the evaluated utterances themselves, "
                   "which is strongly biased low."),
            Metric("merged", "bits/s", LOWER, "Bitrate of the ZeroSpeech challenges with runs of equal codes merged: "
                   "for comparison with published results, because the codes cannot be recovered from it."),
            Metric("unigram_trained", "bits/s", LOWER, "Bitrate under the code frequencies of the training utterances "
                   "(--train-tokens)."),
            Metric("bigram_trained", "bits/s", LOWER, "Bitrate under the smoothed code bigrams of the training "
                   "utterances (--train-tokens)."),
            Metric("prior", "bits/s", LOWER, "Bitrate under the trained prior (--prior), which vqaudio pack reaches."),
        ),
    ),
    Task(
        "robustness",
        "Robustness",
        "How much the codes change when the signal changes and its content does not (gain, noise, time shift, "
        "resampling, lossy coding): unit edit distance per code, 0 for equal codes.",
        "vqaudio.report.compute:robustness",
        _EDIT_RATES,
    ),
)  # fmt: skip
