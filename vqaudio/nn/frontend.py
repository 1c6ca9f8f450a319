"""The available front-ends of an encoder. To add one, write a file and add it to the union and to `build_frontend`."""

from __future__ import annotations

from torch import Tensor

from vqaudio.nn.log_mel import LogMel, LogMelConfig
from vqaudio.nn.log_mel_cmn import LogMelCMN, LogMelCMNConfig
from vqaudio.nn.pcen import PCEN, PCENConfig

__all__ = ["Frontend", "FrontendConfig", "FrontendState", "LogMel", "LogMelConfig", "build_frontend"]

FrontendConfig = LogMelConfig | LogMelCMNConfig | PCENConfig  # distinguished by `kind`; the first is the default
FrontendState = tuple[Tensor, ...]  # each (B, ...): all that later frames depend on; its parts differ by front-end
Frontend = LogMel | LogMelCMN | PCEN


def build_frontend(cfg: FrontendConfig, sample_rate: int) -> Frontend:
    """A configuration with n_mels above 0 -> its front-end, a module without trainable parameters.

    Called with (B, T, 1), a state (from `start`; None: that of the start of an utterance) and optionally a mask of the
    frames after the start, it returns (B, N, F) and the next state. Raises ValueError for frequencies above half the
    sample rate, and for empty mel bands.
    """
    match cfg:
        case LogMelConfig():
            return LogMel(cfg, sample_rate)
        case LogMelCMNConfig():
            return LogMelCMN(cfg, sample_rate)
        case PCENConfig():
            return PCEN(cfg, sample_rate)
