"""The checks of a speech model: its tokens, and the compiled kernels that it is run with.

Letters: B streams, T samples or steps, N frames, D code width, Q classes.
"""

from __future__ import annotations

import copy
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vqaudio.checkpoint import GOLDEN, load_model, save_model
from vqaudio.kernels.library import Kernels, kernels, unloadable, why_missing
from vqaudio.kernels.nearest import nearest_code
from vqaudio.nn.vector_quantizer import VectorQuantizer, nearest_in_pytorch
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.sampling.backends import generate
from vqaudio.sampling.logits import uniforms
from vqaudio.speech.acoustic import decoder_conditioning
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior, CodePriorConfig
from vqaudio.speech.tokenizer import encode_in_chunks
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.archive import pack, unpack
from vqaudio.tokens.archive_format import read_archive
from vqaudio.tokens.files import read_tokens
from vqaudio.tokens.rows import TokenRow, format_row
from vqaudio.verify.checks import Check, CheckError, NotCheckedError
from vqaudio.verify.utterances import Utterance

LEAST_EQUAL = 0.99  # of the codes of an utterance: another processor may round across the border between two codes
BATCH = 8  # utterances in one batch
DECODED_SAMPLES = 800  # of each utterance, about: without compiled kernels decoding is slow
TIE = 1e-4  # of a cumulative distribution: what rounding may decide
NEAREST_MARGIN = 2.0**-18  # of the largest sum: bound of the rounding errors of a distance in float32


@dataclass(frozen=True)
class Subject:
    """What is checked."""

    model: SpeechVQVAE
    folder: Path
    """the folder that it was loaded from"""
    utterances: Sequence[Utterance]
    """audio of any length; at least one"""

    @functools.cached_property
    def tokens(self) -> list[Tokens]:
        """Tokens of each utterance, encoded alone and whole, with pitch tokens if the model has them."""
        pitch = self.model.pitch_quantizer is not None
        return [self.model.tokenize(each.wav, pitch=pitch) for each in self.utterances]

    @property
    def codes(self) -> list[Tensor]:
        """Their codes (N,)."""
        return [tokens.codes for tokens in self.tokens]

    @property
    def summary(self) -> str:
        """How much is compared."""
        return f"{len(self.codes)} utterances, {sum(map(len, self.codes))} codes"


def checks_of(subject: Subject) -> list[Check]:
    """All checks of a speech model, in the order of the table."""
    checks: dict[str, Callable[[Subject], str]] = {
        "golden tokens": golden_tokens,
        "fingerprint": fingerprint,
        "alone = batch": alone_is_batch,
        "alone = chunked": alone_is_chunked,
        "alone = streamed": alone_is_streamed,
        "decoded alone = batch = streamed": decoded_alone_is_batch,
        "kernels load": kernels_load,
        "nearest-code kernel = reference": nearest_is_reference,
        "WaveNet kernel = reference": wavenet_is_reference,
        "archive round trip": archive_round_trip,
    }
    return [Check(title, functools.partial(run, subject)) for title, run in checks.items()]


# --- tokens ---


def golden_tokens(subject: Subject) -> str:
    """The tokens in golden.jsonl, which were computed where the model was trained, are reproduced from the examples."""
    path, model = subject.folder / GOLDEN, subject.model
    if not path.exists():
        raise NotCheckedError(f"the model has no {GOLDEN}")
    rows, different, total = list(read_tokens(path)), 0, 0
    for row in rows:
        if row.tokens.model != model.fingerprint:
            raise CheckError(
                f"{path} has tokens of model {row.tokens.model}, but this is model {model.fingerprint}: its "
                "configuration, encoder or codebook is not the one that was shipped; install or download it again"
            )
        found = model.tokenize(subject.folder / "examples" / f"{row.id}_original.flac").codes
        count = _count_different(found, row.tokens.codes)
        if count > (1 - LEAST_EQUAL) * len(row.tokens.codes):
            raise CheckError(f"{row.id}: {count} of {len(row.tokens.codes)} codes are not those of {path}")
        different, total = different + count, total + len(row.tokens.codes)
    rounded = f", {different} of them rounded to another code" if different else ""
    return f"{len(rows)} utterances, {total} codes{rounded}"


def fingerprint(subject: Subject) -> str:
    """A copy that is saved and loaded has the same fingerprint and weights."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(subject.model, folder)
        again = load_model(folder)
    if again.fingerprint != subject.model.fingerprint:
        raise CheckError(f"{subject.model.fingerprint}, but {again.fingerprint} after it was saved and loaded")
    weights = subject.model.state_dict()
    for name in weights.keys() - set(subject.model.untrained_weights):
        if not torch.equal(again.state_dict()[name], weights[name].cpu()):
            raise CheckError(f"{name} differs after the model was saved and loaded")
    return f"{subject.model.fingerprint}, the same after it was saved and loaded"


def alone_is_batch(subject: Subject) -> str:
    """Utterances have the same codes in batches, whose padding is noise, as alone."""
    for start in range(0, len(subject.utterances), BATCH):
        batch, expected = subject.utterances[start : start + BATCH], subject.codes[start : start + BATCH]
        lengths = torch.tensor([len(each.wav) for each in batch])
        noise = torch.Generator().manual_seed(start)
        wavs = torch.rand(len(batch), 1, int(lengths.max()) + 1, generator=noise) - 0.5
        for row, each in zip(wavs, batch, strict=True):
            row[0, : len(each.wav)] = each.wav
        codes, counts = subject.model.encode(wavs, lengths)
        for each, row, count, alone in zip(batch, codes, counts.tolist(), expected, strict=True):
            assert_equal(each, row[:count].cpu(), alone, "in a batch")
    return subject.summary


def alone_is_chunked(subject: Subject) -> str:
    """Utterances have the same codes and pitch tokens in pieces of one second."""
    return _in_pieces(subject, lambda wav: wav.split(subject.model.sample_rate), "in chunks of one second")


def alone_is_streamed(subject: Subject) -> str:
    """Utterances have the same codes and pitch tokens in pieces of irregular lengths, from one sample on."""

    def pieces(wav: Tensor) -> Iterator[Tensor]:
        sizes = itertools.cycle([1, 7, subject.model.hop - 1, 1003, 20011])
        while len(wav):
            piece, wav = wav.tensor_split([next(sizes)])
            yield piece

    return _in_pieces(subject, pieces, "in a stream of irregular pieces")


def _in_pieces(subject: Subject, divide: Callable[[Tensor], Sequence[Tensor] | Iterator[Tensor]], how: str) -> str:
    for each, alone in zip(subject.utterances, subject.tokens, strict=True):
        found = torch.cat(list(subject.model.encode_stream(divide(each.wav))))
        assert_equal(each, found.cpu(), alone.codes, how)
        if alone.pitch is not None and subject.model.pitch_quantizer is not None:
            pitch = torch.cat(list(subject.model.pitch_quantizer.encode_stream(divide(each.wav))))
            assert_equal(each, pitch, alone.pitch.codes, f"{how}, as pitch tokens")
    return subject.summary


def archive_round_trip(subject: Subject) -> str:
    """An archive returns the rows that were packed: without a prior, and with one of random weights."""
    model = subject.model
    rows = [
        TokenRow(str(i), None, Tokens(codes, len(each.wav), model.sample_rate, model.hop, model.fingerprint))
        for i, (each, codes) in enumerate(zip(subject.utterances, subject.codes, strict=True))
    ]
    _round_trip(rows, None)
    if kernels() is None:
        return f"{subject.summary}; not with a prior: {why_missing()}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = WaveNetConfig(num_classes=model.codebook_size, layers=4, layers_per_stack=4, residual_channels=16)
        prior = CodePrior(CodePriorConfig(model=model.fingerprint, frame_rate=model.frame_rate, net=net))
    try:
        _round_trip(rows, prior.eval())
    except ModuleNotFoundError as error:
        return f"{subject.summary}; not with a prior: {error}"
    return f"{subject.summary}, without and with a prior"


def _round_trip(rows: list[TokenRow], prior: CodePrior | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.vqa"
        pack(rows, path, prior)
        found = list(unpack(read_archive(path), prior))
    if list(map(format_row, found)) != list(map(format_row, rows)):
        raise CheckError(f"the rows of an archive packed {'with' if prior else 'without'} a prior differ")


# --- speech ---


def decoded_alone_is_batch(subject: Subject) -> str:
    """Each vocoder gives an utterance the same samples alone, in a batch and streamed, as far as it can do that."""
    model, speaker = subject.model, next(iter(subject.model.speakers), None)
    if not model.vocoders:
        raise NotCheckedError("the decoder has not been trained (stage: codes)")
    count = max(1, DECODED_SAMPLES // model.hop)
    rows = [
        Tokens(codes[:count], len(codes[:count]) * model.hop, model.sample_rate, model.hop, model.fingerprint)
        for codes in sorted(subject.codes, key=len)[-3:]
    ]
    compared, compiled = [], kernels() is not None and model.device.type == "cpu"
    for vocoder in model.vocoders:
        alone = [model.decode(tokens, speaker, vocoder=vocoder) for tokens in rows]
        others = {}
        if vocoder != "wavenet" or compiled:  # in PyTorch, the WaveNet may round differently in a batch
            others["in a batch"] = model.decode_batch(rows, speaker, vocoder=vocoder)
        if vocoder != "griffin-lim":
            others["streamed"] = [torch.cat(list(model.decode_stream(t, speaker, vocoder=vocoder))) for t in rows]
        for how, found in others.items():
            if not all(map(torch.equal, alone, found)):
                raise CheckError(f"the samples of {vocoder} {how} are not those of an utterance alone")
        compared.append(f"{vocoder} ({' and '.join(others)})")
    return f"{len(rows)} utterances: {', '.join(compared)}"


# --- kernels ---


def kernels_load(subject: Subject) -> str:
    """All variants of the compiled kernels that this machine runs can be loaded."""
    if broken := unloadable():
        name, reason = next(iter(broken.items()))
        raise CheckError(f"the compiled kernels {name} cannot be loaded ({reason}); install vqaudio again")
    return f"{_available().variant} is used"


def nearest_is_reference(subject: Subject) -> str:
    """The compiled search finds the codes that PyTorch finds, on encoder outputs and noise; ties are excepted."""
    model = _on_cpu(subject.model)
    if not isinstance(model.quantizer, VectorQuantizer):
        raise NotCheckedError("this quantizer needs no search")
    rows, codebook = _encoder_outputs(model, subject.utterances), model.quantizer.vectors
    noise = torch.randn(4096, codebook.shape[1], generator=torch.Generator().manual_seed(0))
    rows = torch.cat([rows, noise * codebook.std()])
    found = nearest_code(_available(), rows, codebook, torch.get_num_threads())
    expected = nearest_in_pytorch(rows, codebook)
    different = (found != expected).nonzero()[:, 0]
    if int(((found < 0) | (found >= len(codebook))).sum()):
        raise CheckError(f"the kernel returned codes outside 0..{len(codebook) - 1}; install vqaudio again")
    exact, book = rows[different].double(), codebook.double()
    gap = (exact - book[found[different]]).square().sum(1) - (exact - book[expected[different]]).square().sum(1)
    rounding = NEAREST_MARGIN * (exact.square().sum(1) + book.square().sum(1).max())
    if wrong := int((gap.abs() > rounding).sum()):
        raise CheckError(
            f"the kernel found another code than PyTorch for {wrong} of {len(rows)} vectors; install vqaudio again"
        )
    ties = f", {len(different)} ties" if len(different) else ""
    return f"{len(rows)} vectors{ties}"


@torch.inference_mode()
def wavenet_is_reference(subject: Subject) -> str:
    """Each sample that the compiled WaveNet draws is the one that the net in float64 and the rule of `draw` give."""
    model = _on_cpu(subject.model)
    _available()
    net = model.decoder
    steps = net.cfg.receptive_field + 2 * net.cfg.hop
    frames = -(-steps // net.cfg.hop)
    codes = max(subject.codes, key=len)
    codes = codes.repeat(-(-frames // len(codes)))[:frames]
    speaker = torch.tensor([len(model.speakers) - 1]) if model.speakers else None
    cond = decoder_conditioning(model, model.quantizer.decode(codes[None]), speaker, steps)
    chosen = generate(net, cond, speaker, steps=steps, generator=torch.Generator().manual_seed(0))
    uniform = uniforms(1, steps, torch.Generator().manual_seed(0)).double()[0]  # (T,)
    logits, _ = copy.deepcopy(net).double()(net.shift(chosen), cond.double(), speaker)
    probabilities = torch.softmax(logits[0].T, 1)  # (T, Q)
    high = probabilities.cumsum(1).gather(1, chosen.T)[:, 0]
    low = high - probabilities.gather(1, chosen.T)[:, 0]
    distance = torch.maximum(low - uniform, uniform - high)  # above 0: another class was to be drawn
    if not (distance < TIE).all():  # a NaN, too
        t = int((~(distance < TIE)).nonzero()[0])
        raise CheckError(
            f"sample {t} of {steps} is not the one that the reference draws (distance {float(distance[t]):.3g} of the "
            "cumulative distribution); install vqaudio again"
        )
    return f"{steps} samples, largest distance {float(distance.clamp(min=0).max()):.2g}"


def _available() -> Kernels:
    available = kernels()
    if available is None:
        raise NotCheckedError(why_missing())
    return available


def _on_cpu(model: SpeechVQVAE) -> SpeechVQVAE:
    return model if model.device.type == "cpu" else copy.deepcopy(model).cpu()


@torch.inference_mode()
def _encoder_outputs(model: SpeechVQVAE, utterances: Sequence[Utterance]) -> Tensor:
    """(M, D): the vectors that the quantizer is given."""
    chunks = [z for each in utterances for z in encode_in_chunks(model.encoder, [each.wav])]  # (1, D, N) each
    return torch.cat([model.quantizer.valid_rows(model.normalizer(z)) for z in chunks])


def _count_different(found: Tensor, expected: Tensor) -> int:
    if len(found) != len(expected):
        return len(expected)
    return int((found != expected).sum())


def assert_equal(utterance: Utterance, found: Tensor, alone: Tensor, how: str) -> None:
    """Raises CheckError if two sequences of codes differ; `how` describes where the first comes from."""
    if count := _count_different(found, alone):
        first = f", the first at {int((found != alone).nonzero()[0])}" if len(found) == len(alone) else ""
        raise CheckError(f"{utterance.name}: {count} of {len(alone)} codes differ {how}{first}")
