"""Multi-resolution STFT loss of a waveform (Yamamoto, Song and Kim, "Parallel WaveGAN", ICASSP 2020, section 2.2).

Shapes: B batch, T samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WINDOWS = (256, 512, 1024, 2048)  # samples; a window is moved by a quarter of its length
FLOOR = 1e-4  # of the level of white noise, added before the logarithm: -80 dB of full scale


class MultiResolutionSTFT(nn.Module):
    """Mean over several window lengths of spectral convergence and of the L1 distance of log magnitudes, in nepers."""

    def __init__(self) -> None:
        super().__init__()
        for size in WINDOWS:
            self.register_buffer(f"window{size}", torch.hann_window(size), persistent=False)

    def forward(self, predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), (B, T) -> spectral convergence, log magnitude distance (); T at least the longest window."""
        convergence, distance = predicted.new_zeros(()), predicted.new_zeros(())
        for size in WINDOWS:
            a, b = self._magnitude(predicted, size), self._magnitude(target, size)
            convergence = convergence + (a - b).norm() / b.norm().clamp(min=FLOOR)
            floor = FLOOR * size**0.5
            distance = distance + (torch.log(a + floor) - torch.log(b + floor)).abs().mean()
        return convergence / len(WINDOWS), distance / len(WINDOWS)

    def _magnitude(self, wav: Tensor, size: int) -> Tensor:
        window = self.get_buffer(f"window{size}")
        return torch.stft(wav, size, size // 4, size, window, center=False, return_complex=True).abs()
