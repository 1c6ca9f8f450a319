"""Samples token rows from a trained prior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from vqaudio.sampling.config import SamplingConfig, check_count
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.rows import TokenRow, file_name

AT_ONCE = 32  # utterances sampled in one batch
MAX_SECONDS = 24 * 3600  # of one utterance; more is a mistake


def check_prior(prior: CodePrior, model: SpeechVQVAE) -> None:
    """Raises ValueError if the prior was trained on the codes of another tokenizer."""
    if prior.cfg.model != model.fingerprint:
        raise ValueError(
            f"the prior was trained on codes of model {prior.cfg.model}, but this is model {model.fingerprint}; give "
            "the model whose codes the prior was trained on"
        )


def sample_ids(speakers: Sequence[str | None], count: int) -> list[str]:
    """Ids of the rows that `sample_rows` yields, in their order. Raises ValueError for `count` out of range."""
    check_count(count)
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
    """Samples `count` utterances per speaker (None: the null speaker), each `seconds` long.

    With a `prompt`, each utterance begins with its codes and the sampled ones follow. If a speaker is not in
    the prior, it samples with the null speaker, and the row still has the speaker's name. An utterance depends on the
    seed, its speaker and its number only, not on the other utterances. Raises ValueError for a prior over the codes of
    another model, for a prompt of another model, and for `count` or `seconds` out of range.
    """
    check_prior(prior, model)
    check_count(count)
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"seconds must be above 0 and at most {MAX_SECONDS}, got {seconds}")
    if prompt is not None:
        model.check_tokens(prompt)
    steps, fingerprint = max(1, round(seconds * model.frame_rate)), model.fingerprint
    seeds = np.random.SeedSequence(sampling.seed).generate_state(count)
    wanted = [(speaker, number) for speaker in speakers for number in range(count)]
    for start in range(0, len(wanted), AT_ONCE):
        part = wanted[start : start + AT_ONCE]
        conditioned_on = [speaker if speaker in prior.cfg.speakers else None for speaker, _ in part]
        generators = [torch.Generator().manual_seed(int(seeds[number])) for _, number in part]
        before = None if prompt is None else prompt.codes.expand(len(part), -1)
        sampled = prior.sample(steps, conditioned_on, before, sampling, generator=generators).cpu()
        for (speaker, number), codes in zip(part, sampled, strict=True):
            whole = codes if prompt is None else torch.cat([prompt.codes, codes])
            tokens = Tokens(whole, len(whole) * model.hop, model.sample_rate, model.hop, fingerprint)
            yield TokenRow(_id(speaker, number), speaker, tokens)


def _id(speaker: str | None, number: int) -> str:
    return file_name(f"{number}" if speaker is None else f"{speaker}-{number}")
