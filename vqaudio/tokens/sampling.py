"""Tokens that nobody said, drawn from a prior.

Letters: B utterances, P codes of the prompt, N codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.rows import TokenRow, file_name

AT_ONCE = 32  # utterances drawn together


def check_prior(prior: CodePrior, model: SpeechVQVAE) -> None:
    """Raises ValueError for a prior over the codes of another tokenizer."""
    if prior.cfg.model != model.fingerprint:
        raise ValueError(
            f"the prior is over codes of model {prior.cfg.model}, this is model {model.fingerprint}; give the model "
            "that it was trained with"
        )


def sample_ids(speakers: Sequence[str | None], count: int) -> list[str]:
    """Ids of the rows that `sample_rows` gives, in their order."""
    return [_id(speaker, number) for speaker in speakers for number in range(count)]


def sample_rows(
    prior: CodePrior,
    model: SpeechVQVAE,
    speakers: Sequence[str | None],
    count: int,
    seconds: float,
    sampling: SamplingConfig = SamplingConfig(),
    *,
    prompt: Tokens | None = None,
) -> Iterator[TokenRow]:
    """`count` utterances of each speaker (None: of nobody in particular), `seconds` long, after the prompt's own codes.

    A prior that does not know a speaker draws for nobody in particular; the row still names them. Each utterance
    depends on the seed, its speaker, its own number, and on nothing beside it. Raises ValueError for a prior over other
    codes, a prompt of another model, and for sizes that cannot be.
    """
    check_prior(prior, model)
    if count < 1 or not 0 < seconds < float("inf"):
        raise ValueError(f"count must be at least 1 and seconds above 0, got {count} and {seconds}")
    if prompt is not None:
        model.check_tokens(prompt)
    steps = max(1, round(seconds * model.frame_rate))
    seeds = np.random.SeedSequence(sampling.seed).generate_state(count)
    wanted = [(speaker, number) for speaker in speakers for number in range(count)]
    for start in range(0, len(wanted), AT_ONCE):
        part = wanted[start : start + AT_ONCE]
        told = [speaker if speaker in prior.cfg.speakers else None for speaker, _ in part]
        generators = [torch.Generator().manual_seed(int(seeds[number])) for _, number in part]
        before = None if prompt is None else prompt.codes.expand(len(part), -1)
        drawn = prior.sample(steps, told, before, sampling, generator=generators).cpu()
        for (speaker, number), codes in zip(part, drawn, strict=True):
            whole = codes if prompt is None else torch.cat([prompt.codes, codes])
            tokens = Tokens(whole, len(whole) * model.hop, model.sample_rate, model.hop, model.fingerprint)
            yield TokenRow(_id(speaker, number), speaker, tokens)


def _id(speaker: str | None, number: int) -> str:
    return file_name(f"{number}" if speaker is None else f"{speaker}-{number}")
