"""How much of the log-mel spectrum codes determine: ridge regression from a code and its neighbours.

For models without a spectrum head of their own. Letters: N codes of an utterance, R spectra per code, F mel bands,
K codebook size, V speakers.
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
NEIGHBOURS = (-1, 0, 1)  # frames, relative to the predicted one
RIDGE = 1.0  # weight of the squared coefficients; of a code that occurs n times the mean is shrunk by n / (n + 1)


class SpectrumProbe:
    """A linear prediction of the log-mel spectrum from one-hot codes and speaker."""

    def __init__(self, coefficients: npt.NDArray[np.float64], speakers: Sequence[str], codebook_size: int, bands: int):
        """coefficients: (3 K + V + 1, R * F), as fitted."""
        self.coefficients, self.speakers = coefficients, tuple(speakers)
        self.codebook_size, self.bands = codebook_size, bands

    @classmethod
    def fit(
        cls, codes: Sequence[Codes], spectra: Sequence[Spectrum], speakers: Sequence[str], codebook_size: int
    ) -> SpectrumProbe:
        """Codes (N,), spectra (N * R, F) and speakers of utterances. Raises ValueError where their numbers differ."""
        from scipy.sparse import vstack

        if not len(codes) == len(spectra) == len(speakers) or not codes:
            raise ValueError(
                f"got codes of {len(codes)}, spectra of {len(spectra)} and speakers of {len(speakers)} utterances; "
                "give as many of each, 1 or more"
            )
        names = tuple(dict.fromkeys(speakers))
        inputs = vstack(
            [_features(own, codebook_size, names, speaker) for own, speaker in zip(codes, speakers, strict=True)]
        )
        targets = np.concatenate(
            [spectrum.reshape(len(own), -1) for own, spectrum in zip(codes, spectra, strict=True)]
        ).astype(np.float64)
        gram = (inputs.T @ inputs).toarray()
        gram[np.diag_indices(len(gram) - 1)] += RIDGE  # but not of the constant
        coefficients = np.linalg.solve(gram, inputs.T @ targets)
        return cls(coefficients, names, codebook_size, spectra[0].shape[1])

    def predict(self, codes: Codes, speaker: str) -> Spectrum:
        """(N,) -> (N * R, F); for a speaker who was not fitted, that of no speaker."""
        predicted = _features(codes, self.codebook_size, self.speakers, speaker) @ self.coefficients
        return predicted.reshape(-1, self.bands).astype(np.float32)


def _features(codes: Codes, codebook_size: int, speakers: Sequence[str], speaker: str) -> csr_matrix:
    """(N,) -> (N, 3 K + V + 1): one-hot codes of the frame and its neighbours, the speaker, and a constant."""
    from scipy.sparse import csr_matrix

    frames = np.arange(len(codes))
    columns = [
        part * codebook_size + codes[np.clip(frames + shift, 0, len(codes) - 1)]
        for part, shift in enumerate(NEIGHBOURS)
    ]
    first = len(NEIGHBOURS) * codebook_size
    if speaker in speakers:
        columns.append(np.full(len(codes), first + speakers.index(speaker)))
    columns.append(np.full(len(codes), first + len(speakers)))
    chosen = np.stack(columns, axis=1)  # (N, entries of a row)
    starts = np.arange(len(codes) + 1) * chosen.shape[1]
    return csr_matrix((np.ones(chosen.size), chosen.ravel(), starts), shape=(len(codes), first + len(speakers) + 1))
