"""Pitch tokens: voicing and F0 of consecutive frames as one code.

Shapes: B batch, N frames, R frames per token, M tokens (ceil(N / R)), D = 2 R width of a vector, T samples.

A token depends on the windows of its own frames and on nothing else: not on the speaker, nor on the rest of the
utterance. F0 is therefore absolute, in octaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.fingerprint import CachedFingerprint
from vqaudio.nn.pitch import MEAN_OCTAVES, Pitch, PitchTracker, forward_filled
from vqaudio.nn.vector_quantizer import VectorQuantizer, VectorQuantizerConfig
from vqaudio.torch_defaults import one_thread

MAX_RATE = 50.0  # tokens per second
VOICING = 0.5  # length of a vector's step from unvoiced to voiced: as much as half an octave
BLOCK_TOKENS = 64  # that are always computed together, so that the bits do not depend on how the audio is divided
NO_TOKENS = torch.zeros(0, dtype=torch.long, device="cpu")
FIT_STEPS, FIT_ROWS = 300, 4096  # of the moving averages that follow k-means


@dataclass(frozen=True)
class PitchQuantizerConfig:
    """Options of PitchQuantizer."""

    frames: int = 0
    """frames of the spectrum per pitch token; at most 50 tokens per second. 0: no pitch tokens"""
    codebook_size: int = 256
    """number of different pitch tokens"""

    def __post_init__(self) -> None:
        if self.frames < 0:
            raise ValueError(f"pitch_tokens.frames must be 0 or more, got {self.frames}")
        self.quantizer()

    def quantizer(self) -> VectorQuantizerConfig:
        """Options of the quantizer of a vector; it has no dead codes, because it begins with different vectors."""
        size, dim = self.codebook_size, 2 * max(1, self.frames)
        return VectorQuantizerConfig(codebook_size=size, dim=dim, kmeans_iterations=50, restart_threshold=0.0)

    def check(self, hop: int, sample_rate: int) -> None:
        """Raises ValueError for more than MAX_RATE tokens per second; `hop`: samples per frame."""
        if (rate := sample_rate / (self.frames * hop)) > MAX_RATE:
            raise ValueError(
                f"pitch_tokens.frames must make at most {MAX_RATE:g} tokens per second, got {self.frames} frames of "
                f"{hop} samples, {rate:g} per second"
            )


class PitchQuantizer(nn.Module):
    """Pitch of R frames -> the nearest code of a codebook that `fit` makes, and back."""

    def __init__(self, cfg: PitchQuantizerConfig, tracker: PitchTracker):
        """Raises ValueError as `PitchQuantizerConfig.check` does."""
        super().__init__()
        cfg.check(tracker.hop, tracker.sample_rate)
        self.cfg, self.tracker = cfg, tracker
        self.quantizer = VectorQuantizer(cfg.quantizer())
        self._fingerprint = CachedFingerprint()

    @property
    def hop(self) -> int:
        """Samples per token."""
        return self.cfg.frames * self.tracker.hop

    @property
    def fingerprint(self) -> str:
        """12 hex digits: a hash of everything that determines the pitch tokens of speech."""
        tracker = {"sample_rate": self.tracker.sample_rate, "hop_length": self.tracker.hop, **asdict(self.tracker.cfg)}
        return self._fingerprint.of({**tracker, **asdict(self.cfg)}, self.quantizer.code_weights())

    def encode(self, pitch: Pitch) -> Tensor:
        """(B, N) -> tokens (B, M) int64; frames that are missing at the end are unvoiced."""
        return self.quantizer.encode(self._vectors(pitch))

    def decode(self, tokens: Tensor) -> Pitch:
        """(B, M) int64 -> (B, M * R)."""
        vectors = self.quantizer.decode(tokens.to(self.quantizer.device))  # (B, D, M)
        voicing, octaves = rearrange(vectors, "b (two r) m -> two b (m r)", two=2)
        voicing = (voicing > VOICING / 2).float()
        return Pitch(voicing, forward_filled(voicing, octaves + MEAN_OCTAVES))

    def encode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Consecutive pieces (T,) of an utterance, of any length -> its tokens (M,), block by block.

        The last ones follow when the pieces end.
        """
        state = self.start()
        for piece in pieces:
            tokens, state = self.extend(piece, state)
            yield tokens
        yield self.finish(state)

    def start(self) -> Tensor:
        """State before the first sample: the samples (T,) from `tracker.past` before the next token on."""
        return torch.zeros(self.tracker.past, dtype=torch.float32, device="cpu")

    def extend(self, wav: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The next samples (T,) in [-1, 1], state -> the tokens (M,) that are complete, state."""
        state, found = torch.cat([state, wav.detach().float().cpu()]), [NO_TOKENS]
        while len(state) >= self._block_samples:
            found.append(self._block(state))
            state = state[BLOCK_TOKENS * self.hop :]
        return torch.cat(found), state.clone()  # a view would keep what was read

    def finish(self, state: Tensor) -> Tensor:
        """State -> the last tokens (M,)."""
        found = [NO_TOKENS]
        while (left := len(state) - self.tracker.past) > 0:
            found.append(self._block(state)[: -(-left // self.hop)])
            state = state[BLOCK_TOKENS * self.hop :]
        return torch.cat(found)

    @torch.no_grad()
    def fit(self, wavs: Iterable[Tensor]) -> None:
        """Makes the codebook from this process's utterances (T,). To be called by every process.

        k-means on the different vectors (all-unvoiced speech has only one), then moving averages over vectors as often
        as they occur. Raises ValueError if no process has an utterance.
        """
        vectors = [self._vectors(self.tracker(wav[None], -(-len(wav) // self.tracker.hop)))[0].T for wav in wavs]
        rows = torch.cat([self.quantizer.codebook[:0], *vectors])  # (M, D)
        self.quantizer.initialise([torch.unique(rows, dim=0)])
        generator = torch.Generator().manual_seed(0)
        self.quantizer.train()
        for _ in range(FIT_STEPS):
            chosen = torch.randint(max(1, len(rows)), (FIT_ROWS if len(rows) else 0,), generator=generator)
            self.quantizer(rearrange(rows[chosen.to(rows.device)], "m d -> 1 d m"))
        self.quantizer.train(self.training)

    @property
    def _block_samples(self) -> int:
        """Samples of the windows of a block."""
        return BLOCK_TOKENS * self.hop - self.tracker.hop + self.tracker.cfg.win_length

    def _block(self, state: Tensor) -> Tensor:
        """The tokens (BLOCK_TOKENS,) at the begin of a state, with zeros after its end."""
        wav = state[: self._block_samples]
        with one_thread():
            whole = F.pad(wav, (0, self._block_samples - len(wav)))
            pitch = self.tracker.after_past(whole[None], BLOCK_TOKENS * self.cfg.frames)
            return self.encode(pitch)[0].cpu()

    def _vectors(self, pitch: Pitch) -> Tensor:
        """(B, N) -> (B, D, M): voicing, and F0 relative to MEAN_OCTAVES, of unvoiced frames the mean of the voiced."""
        padded = pitch.frames(-(-pitch.voicing.shape[1] // self.cfg.frames) * self.cfg.frames)
        voicing, octaves = (rearrange(value, "b (m r) -> b r m", r=self.cfg.frames) for value in padded)
        relative = voicing * (octaves - MEAN_OCTAVES)
        mean = relative.sum(1, keepdim=True) / voicing.sum(1, keepdim=True).clamp(min=1)
        vectors = torch.cat([VOICING * voicing, torch.where(voicing > 0, relative, mean)], dim=1)
        return vectors.to(self.quantizer.device)
