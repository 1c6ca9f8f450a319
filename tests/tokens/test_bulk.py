import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vqaudio.data.audio import AudioError
from vqaudio.data.manifest import Utterance
from vqaudio.speech import tokenizer
from vqaudio.tokens.bulk import (
    Source,
    find_sources,
    tokenize_all,
    tokenize_each,
    tokenize_source,
    tokenize_whole,
    with_storable_names,
)
from vqaudio.tokens.files import codes_file
from vqaudio.tokens.rows import TokenRow

MINI = Path(__file__).resolve().parents[2] / "egs" / "mini"


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_gives_ids_and_speakers_by_its_subfolders(tmp_path) -> None:
    _touch(tmp_path, "loose.wav", "p226/b.FLAC", "p225/a.wav", "sub/p225/a.wav", "p225/a.txt")
    _touch(tmp_path, ".hidden.wav", ".cache/x.wav", "p225/._a.wav")
    found = [(source.id, source.speaker) for source in find_sources([tmp_path])]
    assert found == [("loose", None), ("p225-a", "p225"), ("p226-b", "p226"), ("sub-p225-a", "sub")]
    assert find_sources([tmp_path]) == find_sources([tmp_path / "."])


def test_a_file_is_named_without_its_suffix(tmp_path) -> None:
    _touch(tmp_path, "x.y.wav", "notes.txt")
    inputs = [tmp_path / "x.y.wav", tmp_path / "notes.txt"]
    assert find_sources(inputs) == [Source("x.y", inputs[0], None), Source("notes", inputs[1], None)]


def test_a_manifest_gives_ids_and_speakers(tmp_path, write_manifest) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance("id 1", tmp_path / "wav/a.wav", "anna", 1.0)])
    assert find_sources([tmp_path / "m.jsonl"]) == [Source("id 1", tmp_path / "wav" / "a.wav", "anna")]


def test_names_that_cannot_be_ids_are_changed(tmp_path) -> None:
    _touch(tmp_path, "a\\b.wav", "line\nbreak.wav")
    assert [source.id for source in find_sources([tmp_path])] == ["a_b", "line_break"]


def test_invalid_inputs_are_refused(tmp_path) -> None:
    _touch(tmp_path, "a/x.wav", "b/x.wav", "c/x.wav", "c/x.flac")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="give at least one"):
        find_sources([])
    with pytest.raises(FileNotFoundError, match="there is no audio in"):
        find_sources([tmp_path / "empty"])
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 1"):
        find_sources([tmp_path / "bad.jsonl"])
    with pytest.raises(ValueError, match=r"a/x\.wav and .*b/x\.wav would have the same id 'x'"):
        find_sources([tmp_path / "a" / "x.wav", tmp_path / "b" / "x.wav"])
    with pytest.raises(ValueError, match="would have the same id 'x'"):
        find_sources([tmp_path / "c"])


def test_every_source_becomes_the_models_tokens(tiny_model) -> None:
    sources = find_sources([MINI / "test.jsonl"])[:3]
    failures = []
    rows = list(tokenize_all(tiny_model, sources, failures))
    assert failures == []
    for source, row in zip(sources, rows, strict=True):
        assert (row.id, row.speaker) == (source.id, source.speaker)
        assert row.tokens.codes.equal(tiny_model.tokenize(source.path).codes)
        assert len(row.tokens.codes) == -(-soundfile.info(source.path).frames // tiny_model.hop)


def test_failures_are_collected_and_the_others_done(tmp_path, tiny_model) -> None:
    soundfile.write(tmp_path / "good.wav", np.zeros(100), 16000)
    (tmp_path / "bad.wav").write_text("hello")
    sources = [*find_sources([tmp_path]), Source("gone", tmp_path / "gone.wav", None)]
    failures = []
    assert [row.id for row in tokenize_all(tiny_model, sources, failures)] == ["good"]
    assert [str(failure).split()[0] for failure in failures] == [
        str(tmp_path / name) for name in ("bad.wav", "gone.wav")
    ]
    with pytest.raises(AudioError, match="none of the 1 inputs can be used"):
        list(tokenize_all(tiny_model, sources[:1], []))


def test_tokenize_whole_names_all_sources_that_cannot_be_used(tmp_path, tiny_model) -> None:
    soundfile.write(tmp_path / "b.wav", np.zeros(100), 16000)
    for name in ("a.wav", "c.wav"):
        (tmp_path / name).write_text("hello")
    with pytest.raises(AudioError, match=r"2 audio files cannot be used: .*a\.wav .*c\.wav"):
        list(tokenize_whole(tiny_model, find_sources([tmp_path])))


def test_names_that_are_too_long_are_left_out_before_the_work(tmp_path) -> None:
    sources = [Source(name, tmp_path / "x.wav", None) for name in ("a", "é" * 125 + "x", "é" * 126)]
    failures = []
    kept = with_storable_names(sources, lambda id: codes_file(tmp_path / "out", id), failures)
    assert kept == sources[:2]  # 255 bytes with .npy, the most that is allowed
    assert [("256 bytes, at most 255" in str(failure)) for failure in failures] == [True]
    assert with_storable_names(sources, lambda id: codes_file(tmp_path / "t.jsonl", id), []) == sources
    with pytest.raises(AudioError, match="none of the 1 inputs can be written"):
        with_storable_names(sources[2:], lambda id: codes_file(tmp_path / "out", id), [])


def test_rows_are_yielded_one_by_one(tmp_path, tiny_model) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    rows = tokenize_all(tiny_model, [*find_sources([tmp_path]), Source("b", tmp_path / "b.wav", None)], failures := [])
    assert next(rows).id == "a"
    assert failures == []


def _plain(result: TokenRow | AudioError) -> str | tuple[object, ...]:
    """What can be compared."""
    if isinstance(result, AudioError):
        return str(result)
    return (result.id, result.speaker, result.tokens.codes.tolist(), result.tokens.num_samples, result.tokens.model)


def _threads_of_pools() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("tokenize", "read"))]


@pytest.mark.parametrize("rows", [2, 3, 64])
def test_batches_of_files_that_are_read_ahead_give_the_results_of_one_file(
    tmp_path, tiny_model, monkeypatch, rows
) -> None:
    monkeypatch.setitem(tokenizer.ROWS, "cpu", rows)
    for i, count in enumerate([9000, 1, 16000 * 21, 5000, 2048, 7, 4097, 100]):  # of one block, and of three
        soundfile.write(tmp_path / f"{i}.wav", np.random.default_rng(i).uniform(-0.5, 0.5, count), 16000)
    soundfile.write(tmp_path / "6b.flac", np.random.default_rng(6).uniform(-0.5, 0.5, (48000, 2)), 48000)
    (tmp_path / "3b.wav").write_text("hello")
    sources = [*find_sources([tmp_path]), Source("gone", tmp_path / "gone.wav", None)]
    soundfile.write(tmp_path / "2b.flac", np.random.default_rng(2).uniform(-0.5, 0.5, 16000 * 21), 16000)
    whole = (tmp_path / "2b.flac").read_bytes()
    (tmp_path / "2b.flac").write_bytes(whole[: len(whole) * 3 // 4])  # an error after the first block
    sources.insert(3, Source("2b", tmp_path / "2b.flac", None))
    results = [_plain(result) for result in tokenize_each(tiny_model, sources)]
    assert _threads_of_pools() == []
    assert results == [_plain(tokenize_source(tiny_model, source, tiny_model.fingerprint)) for source in sources]
    assert [source.id for source, result in zip(sources, results, strict=True) if isinstance(result, str)] == [
        *("2b", "3b", "gone")
    ]


@pytest.mark.parametrize("rows", [1, 2], ids=["tokenizing", "reading"])
def test_threads_end_with_the_iterator(tmp_path, tiny_model, monkeypatch, two_cpus, rows) -> None:
    monkeypatch.setitem(tokenizer.ROWS, "cpu", rows)
    for i in range(40):
        soundfile.write(tmp_path / f"{i:02}.wav", np.zeros(1000), 16000)
    results = tokenize_each(tiny_model, find_sources([tmp_path]))
    next(results)
    assert _threads_of_pools()  # one may suffice: a pool starts another only while none is idle
    results.close()
    assert _threads_of_pools() == []


def test_no_sources_have_no_results(tiny_model, monkeypatch) -> None:
    monkeypatch.setitem(tokenizer.ROWS, "cpu", 2)
    assert list(tokenize_each(tiny_model, [])) == []


@pytest.fixture
def two_cpus() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_several_threads_give_the_results_of_one_in_order(tmp_path, tiny_model, two_cpus) -> None:
    for i in range(40):  # more than are begun ahead, the longest first
        soundfile.write(tmp_path / f"{i:02}.wav", np.random.default_rng(i).uniform(-0.5, 0.5, 4000 - 90 * i), 16000)
    (tmp_path / "20.wav").write_text("hello")
    sources = find_sources([tmp_path])
    results = [str(result) for result in tokenize_each(tiny_model, sources)]
    assert torch.get_num_threads() == 2
    assert results == [str(tokenize_source(tiny_model, source, tiny_model.fingerprint)) for source in sources]
    assert "is not audio" in results[20]


def test_a_manifest_without_utterances_is_named(tmp_path) -> None:
    manifest = tmp_path / "none.jsonl"
    manifest.touch()
    with pytest.raises(ValueError, match=r"none\.jsonl lists no utterances; give"):
        find_sources([manifest])
