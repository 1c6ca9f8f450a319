import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile

import vqaudio.data.packed as packed_module
from vqaudio.data.audio import AudioError, read_audio, to_int16
from vqaudio.data.manifest import Utterance
from vqaudio.data.packed import PackedSpeech, open_packed, pack


def _names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def sources(tmp_path, write_noise) -> list[Utterance]:
    """Four files, three rates, speakers b, a, b, c."""
    specs = [("u0.wav", 16000, "b"), ("u1.flac", 44100, "a"), ("u2.wav", 8000, "b")]
    utterances = [
        Utterance(name[:2], write_noise(tmp_path / name, rate=rate, frames=rate // 10), speaker, 0.1)
        for name, rate, speaker in specs
    ]
    path = write_noise(tmp_path / "u3.wav", rate=96000, frames=6400, channels=6, subtype="PCM_24")
    return [*utterances, Utterance("u3", path, "c", 0.0667)]


def _assert_holds(packed: PackedSpeech, sources: list[Utterance]) -> None:
    assert packed.utterance_ids == tuple(u.id for u in sources)
    for i, utterance in enumerate(sources):
        expected = to_int16(read_audio(utterance.path, packed.sample_rate))
        np.testing.assert_array_equal(packed.audio(i), expected)
        assert packed.speakers[packed.speaker_ids[i]] == utterance.speaker


def test_pack_equals_read_audio(tmp_path, sources) -> None:
    packed = pack(sources, tmp_path / "packed", 16000)
    _assert_holds(packed, sources)
    assert packed.speakers == ("a", "b", "c")
    assert packed.sample_rate == 16000
    assert packed.lengths.tolist() == [1600, 1600, 1600, 1067]
    assert packed.seconds == sum(packed.lengths) / 16000
    assert not packed.samples.flags.writeable
    assert _names(tmp_path / "packed") == ["index.json", "samples.i16"]


def test_open_packed_equals_pack(tmp_path, sources) -> None:
    packed = pack(sources, tmp_path / "packed", 16000, ["c", "b", "a", "unused"])
    assert packed.speakers == ("c", "b", "a", "unused")
    _assert_holds(packed, sources)
    _assert_holds(open_packed(tmp_path / "packed"), sources)


def test_same_sources_are_reused_and_changed_ones_decoded_again(tmp_path, sources, write_noise, monkeypatch) -> None:
    builds = []
    build = packed_module._build
    monkeypatch.setattr(packed_module, "_build", lambda *a: (builds.append(1), build(*a))[1])
    folder = tmp_path / "packed"
    pack(sources, folder, 16000)
    _assert_holds(pack(sources, folder, 16000), sources)
    assert len(builds) == 1
    write_noise(sources[0].path, frames=999)
    _assert_holds(pack(sources, folder, 16000), sources)
    assert len(builds) == 2
    _assert_holds(pack(sources[:2], folder, 16000), sources[:2])
    assert len(builds) == 3
    _assert_holds(pack(sources[:2], folder, 8000), sources[:2])
    assert len(builds) == 4


@pytest.mark.parametrize(
    "damage",
    ["cut samples", "other version", "no index", "bad json", "no object", "no lengths", "bad lengths", "no ids"],
)
def test_damaged_folder(tmp_path, sources, damage) -> None:
    folder = tmp_path / "packed"
    pack(sources, folder, 16000)
    index = json.loads((folder / "index.json").read_text())
    if damage == "cut samples":
        (folder / "samples.i16").write_bytes(b"12")
    elif damage == "other version":
        (folder / "index.json").write_text(json.dumps({**index, "version": 0}))
    elif damage == "no index":
        (folder / "index.json").unlink()
    else:
        contents = {
            "bad json": "{",
            "no object": "[]",
            "no lengths": json.dumps({key: value for key, value in index.items() if key != "lengths"}),
            "bad lengths": json.dumps({**index, "lengths": [10**30]}),
            "no ids": json.dumps({**index, "speaker_ids": []}),
        }
        (folder / "index.json").write_text(contents[damage])
    with pytest.raises((ValueError, FileNotFoundError), match="pack it"):
        open_packed(folder)
    if damage == "no index":  # not a packed corpus, so it must not be replaced
        with pytest.raises(FileExistsError, match="not a packed corpus"):
            pack(sources, folder, 16000)
        assert (folder / "samples.i16").exists()
    else:
        _assert_holds(pack(sources, folder, 16000), sources)


@pytest.mark.parametrize("had_one_before", [False, True])
def test_failed_build_names_the_file_and_leaves_nothing_half_made(tmp_path, sources, had_one_before) -> None:
    folder = tmp_path / "out" / "packed"
    if had_one_before:
        pack(sources[:2], folder, 16000)
    sources[2].path.write_text("text, not audio")
    with pytest.raises(AudioError, match=r"u2\.wav is not audio"):
        pack(sources, folder, 16000)
    assert set(_names(folder.parent)) <= {"packed", ".packed.lock"}
    assert folder.exists() == had_one_before
    if had_one_before:
        _assert_holds(open_packed(folder), sources[:2])


def test_missing_source_is_named_before_anything_is_made(tmp_path, sources) -> None:
    sources[1].path.unlink()
    with pytest.raises(AudioError, match=r"u1\.flac does not exist"):
        pack(sources, tmp_path / "out" / "packed", 16000)
    assert not (tmp_path / "out").exists()


def test_all_unusable_sources_are_named_together(tmp_path, sources, write_noise) -> None:
    soundfile.write(sources[0].path, np.full(1000, np.nan), 16000, subtype="FLOAT", format="WAV")
    cut = write_noise(tmp_path / "cut.wav")
    cut.write_bytes(cut.read_bytes()[:500])
    damaged = [*sources, Utterance("cut", cut, sources[0].speaker, 1.0)]
    with pytest.raises(AudioError, match="2 audio files cannot be used") as caught:
        pack(damaged, tmp_path / "packed", 16000)
    assert str(sources[0].path) in str(caught.value) and str(cut) in str(caught.value)
    sources[1].path.unlink()
    with pytest.raises(AudioError, match="3 audio files cannot be used") as caught:
        pack(damaged, tmp_path / "packed", 16000)
    assert all(str(path) in str(caught.value) for path in (sources[0].path, sources[1].path, cut))
    assert not (tmp_path / "packed").exists()


def test_what_a_killed_build_left_is_removed(tmp_path, sources) -> None:
    folder = tmp_path / "out" / "packed"
    for name in (".packed.partial", ".packed.old"):
        (folder.parent / name).mkdir(parents=True)
        (folder.parent / name / "samples.i16").write_bytes(b"half")
    _assert_holds(pack(sources, folder, 16000), sources)
    assert set(_names(folder.parent)) <= {"packed", ".packed.lock"}


@pytest.mark.parametrize("had_one_before", [False, True])
def test_a_build_killed_in_the_middle_leaves_the_folder_as_it_was(
    tmp_path, sources, had_one_before, write_manifest
) -> None:
    folder = tmp_path / "out" / "packed"
    if had_one_before:
        pack(sources[:2], folder, 16000)
    write_manifest(tmp_path / "m.jsonl", sources)
    script = (
        "import os, signal, sys\n"
        "import vqaudio.data.packed as packed\n"
        "from vqaudio.data.manifest import read_manifest\n"
        "real = packed.blocks\n"
        "def blocks(path, rate):\n"
        "    if path.stem == 'u2':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(path, rate)\n"
        "packed.blocks = blocks\n"
        "packed.pack(read_manifest(sys.argv[1]), sys.argv[2], 16000)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m.jsonl"), str(folder)],
        cwd=Path(__file__).resolve().parents[2],
    )
    assert run.returncode == -signal.SIGKILL
    assert ".packed.partial" in _names(folder.parent)
    assert folder.exists() == had_one_before
    if had_one_before:
        _assert_holds(open_packed(folder), sources[:2])
    _assert_holds(pack(sources, folder, 16000), sources)
    assert set(_names(folder.parent)) <= {"packed", ".packed.lock"}


def test_an_opened_corpus_survives_its_replacement(tmp_path, sources) -> None:
    packed = pack(sources, tmp_path / "packed", 16000)
    pack(sources[:1], tmp_path / "packed", 16000)
    _assert_holds(packed, sources)


def test_builders_at_once_agree_and_decode_once(tmp_path, sources, monkeypatch) -> None:
    builds = []
    build = packed_module._build
    monkeypatch.setattr(packed_module, "_build", lambda *a: (builds.append(1), build(*a))[1])
    results: list[PackedSpeech] = []
    threads = [Thread(target=lambda: results.append(pack(sources, tmp_path / "packed", 16000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(builds) == 1
    for packed in results:
        _assert_holds(packed, sources)


def test_wrong_arguments(tmp_path, sources) -> None:
    with pytest.raises(ValueError, match="no utterances"):
        pack([], tmp_path / "packed", 16000)
    with pytest.raises(ValueError, match=r"speaker 'c' of utterance 'u3' .* 2 speakers given: a, b"):
        pack(sources, tmp_path / "packed", 16000, ["a", "b"])
    with pytest.raises(ValueError, match="unique"):
        pack(sources, tmp_path / "packed", 16000, ["a", "b", "c", "a"])
    with pytest.raises(FileNotFoundError, match="not a packed corpus"):
        open_packed(tmp_path / "nowhere")
    assert not (tmp_path / "packed").exists()


def test_read_only_place_is_explained(tmp_path, sources, monkeypatch) -> None:
    """Simulated, because root may write everywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="read-only"):
        pack(sources, tmp_path / "packed", 16000)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot make"):
        pack(sources, tmp_path / "file" / "packed", 16000)


def test_moved_packed_folder_opens(tmp_path, sources) -> None:
    pack(sources, tmp_path / "packed", 16000)
    shutil.move(tmp_path / "packed", tmp_path / "moved")
    for utterance in sources:
        assert Path(utterance.path).exists()
    _assert_holds(open_packed(tmp_path / "moved"), sources)


def test_the_content_hash_is_that_of_the_speech_and_not_of_its_place(tmp_path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 400)

    def packed(place: str, id: str = "a", speaker: str = "s", scale: float = 1.0) -> str:
        (tmp_path / place).mkdir(exist_ok=True)
        soundfile.write(tmp_path / place / "a.wav", samples * scale, 16000)
        return pack([Utterance(id, tmp_path / place / "a.wav", speaker, 0.025)], tmp_path / "p", 16000).content_hash()

    first = packed("here")
    assert packed("there") == first
    assert len({first, packed("here", id="b"), packed("here", speaker="t"), packed("here", scale=0.5)}) == 4
