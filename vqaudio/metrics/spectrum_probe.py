"""How much of the log-mel spectrum codes determine: ridge regression from codes within 40 ms.

For models without a spectrum head of their own. Letters: N codes of an utterance, R spectra per code, F mel bands,
K codebook size, V speakers, J frames that are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Codes = npt.NDArray[np.int64]
Spectrum = npt.NDArray[np.float32]
NEIGHBOURS = (0.0, -0.02, 0.02, -0.04, 0.04)  # seconds, relative to the predicted frame; the most important first
MAX_INPUTS = 10_000  # one-hot inputs: their Gram matrix takes 800 MB
RIDGE = 1.0  # weight of the squared coefficients; of a code that occurs n times the mean is shrunk by n / (n + 1)


class SpectrumProbe:
    """A linear prediction of the log-mel spectrum from one-hot codes and speaker."""

    def __init__(
        self,
        coefficients: npt.NDArray[np.float64],
        speakers: Sequence[str],
        codebook_size: int,
        shifts: Sequence[int],
        bands: int,
    ):
        """coefficients: (J K + V + 1, R * F), as fitted; shifts: the J frames that are read, relative to its own."""
        self.coefficients, self.speakers = coefficients, tuple(speakers)
        self.codebook_size, self.shifts, self.bands = codebook_size, tuple(shifts), bands

    @staticmethod
    def fits(codebook_size: int) -> bool:
        """Whether there are few enough codes."""
        return codebook_size <= MAX_INPUTS

    @classmethod
    def fit(
        cls,
        codes: Sequence[Codes],
        spectra: Sequence[Spectrum],
        speakers: Sequence[str],
        *,
        codebook_size: int,
        frame_rate: float,
    ) -> SpectrumProbe:
        """Codes (N,), spectra (N * R, F) and speakers of utterances. Raises ValueError where their numbers differ."""
        from scipy.sparse import vstack

        if not len(codes) == len(spectra) == len(speakers) or not codes:
            raise ValueError(
                f"got codes of {len(codes)}, spectra of {len(spectra)} and speakers of {len(speakers)} utterances; "
                "give as many of each, 1 or more"
            )
        names = tuple(dict.fromkeys(speakers))
        shifts = list(dict.fromkeys(round(seconds * frame_rate) for seconds in NEIGHBOURS))
        shifts = shifts[: max(1, MAX_INPUTS // codebook_size)]
        inputs = vstack(
            [_features(own, codebook_size, shifts, names, name) for own, name in zip(codes, speakers, strict=True)]
        )
        targets = np.concatenate(
            [spectrum.reshape(len(own), -1) for own, spectrum in zip(codes, spectra, strict=True)]
        ).astype(np.float64)
        gram = (inputs.T @ inputs).toarray()
        gram[np.diag_indices(len(gram) - 1)] += RIDGE  # but not of the constant
        coefficients = np.linalg.solve(gram, inputs.T @ targets)
        return cls(coefficients, names, codebook_size, shifts, spectra[0].shape[1])

    def predict(self, codes: Codes, speaker: str) -> Spectrum:
        """(N,) -> (N * R, F); for a speaker who was not fitted, that of no speaker."""
        inputs = _features(codes, self.codebook_size, self.shifts, self.speakers, speaker)
        predicted = inputs @ self.coefficients
        return predicted.reshape(-1, self.bands).astype(np.float32)


def _features(
    codes: Codes, codebook_size: int, shifts: Sequence[int], speakers: Sequence[str], speaker: str
) -> csr_matrix:
    """(N,) -> (N, J K + V + 1): one-hot codes of the frame and its J - 1 neighbours, the speaker, and a constant."""
    from scipy.sparse import csr_matrix

    frames = np.arange(len(codes))
    columns = [
        part * codebook_size + codes[np.clip(frames + shift, 0, len(codes) - 1)] for part, shift in enumerate(shifts)
    ]
    first = len(shifts) * codebook_size
    if speaker in speakers:
        columns.append(np.full(len(codes), first + speakers.index(speaker)))
    columns.append(np.full(len(codes), first + len(speakers)))
    chosen = np.stack(columns, axis=1)  # (N, entries of a row)
    starts = np.arange(len(codes) + 1) * chosen.shape[1]
    return csr_matrix((np.ones(chosen.size), chosen.ravel(), starts), shape=(len(codes), first + len(speakers) + 1))
