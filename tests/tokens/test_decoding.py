from pathlib import Path

import pytest
import torch

from vqaudio.data.audio import AudioError
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.bulk import Source
from vqaudio.tokens.decoding import DecodeJob, decode_jobs, name_outputs, name_rows


@pytest.fixture
def jobs(tiny_model):
    """Jobs of 5 different lengths and 3 speakers."""
    generator = torch.Generator().manual_seed(0)
    jobs = []
    for i, num_codes in enumerate((4, 9, 2, 7, 5)):
        codes = torch.randint(tiny_model.codebook_size, (num_codes,), generator=generator)
        tokens = Tokens(
            codes, num_codes * tiny_model.hop - i, tiny_model.sample_rate, tiny_model.hop, tiny_model.fingerprint
        )
        jobs.append(DecodeJob(Path(f"{i}.wav"), tokens, tiny_model.speakers[i % 3]))
    return jobs


def test_batched_equals_alone(tiny_model, jobs) -> None:
    together = {
        decoded.job.path: decoded.wav for decoded in decode_jobs(tiny_model, jobs, SamplingConfig(seed=5), batch_size=3)
    }
    assert sorted(together) == [job.path for job in jobs]
    for job in jobs:
        alone = tiny_model.decode(job.tokens, job.speaker, seed=5)
        assert alone.shape == (job.tokens.num_samples,)
        assert together[job.path].equal(alone)


def test_similar_lengths_are_decoded_together(tiny_model, jobs, monkeypatch) -> None:
    batches = []
    decode = type(tiny_model).decode_batch

    def watched(self, tokens, *args, **kwargs):
        batches.append([len(each.codes) for each in tokens])
        return decode(self, tokens, *args, **kwargs)

    monkeypatch.setattr(type(tiny_model), "decode_batch", watched)
    assert len(list(decode_jobs(tiny_model, jobs, batch_size=2))) == 5
    assert batches == [[9, 7], [5, 4], [2]]


def test_jobs_are_read_one_window_at_a_time(tiny_model, jobs) -> None:
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield jobs[2]

    next(decode_jobs(tiny_model, endless(), batch_size=2))
    assert len(taken) == 16


def test_no_jobs_and_an_invalid_batch_size(tiny_model, jobs) -> None:
    assert list(decode_jobs(tiny_model, [])) == []
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        list(decode_jobs(tiny_model, jobs, batch_size=0))


def test_outputs_with_names_that_are_too_long_are_left_out(tmp_path) -> None:
    """A temporary name, ten bytes longer, must be possible too."""
    sources = [Source(name, tmp_path / "x.wav", None) for name in ("a", "b" * 241, "c" * 242)]
    ids = [source.id for source in sources]
    failures = []
    named = name_outputs(sources, ["s"], tmp_path / "out", failures, overwrite=False)
    assert [id for id, _ in named] == ids[:2] and "its name has 246 bytes, at most 245" in str(failures[0])
    assert list(name_rows(ids, tmp_path / "out", failures, overwrite=False)) == ids[:2] and len(failures) == 2
    assert name_outputs(sources, ["s", "t"], tmp_path / "out", failures, overwrite=False).keys() == {
        ("a", "s"),
        ("a", "t"),
    }
    with pytest.raises(AudioError, match="at most 245"):
        name_rows(ids, tmp_path / "out", overwrite=False)
    with pytest.raises(AudioError, match="none of the 1 outputs"):
        name_rows(ids[2:], tmp_path / "out", [], overwrite=False)


def test_names_of_conversions(tmp_path) -> None:
    a, b = (Source(id, tmp_path / f"{id}.wav", None) for id in ("a", "a-b"))
    out = tmp_path / "out"
    assert name_outputs([a], ["s"], tmp_path / "x.flac", overwrite=False) == {("a", "s"): tmp_path / "x.flac"}
    assert name_outputs([a, b], ["s"], out, overwrite=False) == {
        ("a", "s"): out / "a.wav",
        ("a-b", "s"): out / "a-b.wav",
    }
    several = name_outputs([a], ["s", "../t"], out, overwrite=False)
    assert several == {("a", "s"): out / "a-s.wav", ("a", "../t"): out / "a-.._t.wav"}
    with pytest.raises(ValueError, match="would have the same file name"):
        name_outputs([a, b], ["b-c", "c"], out, overwrite=False)  # a-b-c.wav twice
    with pytest.raises(ValueError, match="is one file, but 1 inputs and 2 speakers make 2 outputs"):
        name_outputs([a], ["s", "t"], tmp_path / "x.wav", overwrite=False)
    with pytest.raises(ValueError, match="give a folder"):
        name_outputs([a], ["s"], tmp_path / "x.mp3", overwrite=False)
    assert not out.exists()
