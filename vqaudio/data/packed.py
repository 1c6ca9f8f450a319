"""A decoded corpus: one int16 memory map with an index of utterances and speakers.

The folder contains `samples.i16` (little-endian, all utterances concatenated) and `index.json`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from tqdm import tqdm

from vqaudio.atomic import make_folder, replace_folder
from vqaudio.data.audio import INT16_SCALE, AudioError, Failures, blocks, check_file, combined_error, to_int16
from vqaudio.data.manifest import Utterance
from vqaudio.json_text import DAMAGED, read_index

VERSION = 1
SAMPLES_FILE, INDEX_FILE = "samples.i16", "index.json"


@dataclass(frozen=True, eq=False)
class PackedSpeech:
    """Decoded speech, ready for cropping. Shapes: U utterances, T samples in total."""

    sample_rate: int
    """Hz"""
    speakers: tuple[str, ...]
    """speaker names; speaker ids are indices into them"""
    utterance_ids: tuple[str, ...]
    """(U,) utterance ids"""
    offsets: npt.NDArray[np.int64]
    """(U,) first sample of each utterance"""
    lengths: npt.NDArray[np.int64]
    """(U,) samples of each utterance, at least 1"""
    speaker_ids: npt.NDArray[np.int64]
    """(U,) indices into speakers"""
    samples: npt.NDArray[np.int16]
    """(T,) read-only memory map"""
    source_hash: str
    """hash of source paths, file sizes and modification times, sample rate and speakers"""

    def __len__(self) -> int:
        return len(self.utterance_ids)

    def audio(self, index: int) -> npt.NDArray[np.int16]:
        """All samples of one utterance, a view into the memory map."""
        start = self.offsets[index]
        return self.samples[start : start + self.lengths[index]]

    def waveform(self, index: int) -> npt.NDArray[np.float32]:
        """All samples of one utterance, (T,) in [-1, 1)."""
        return np.divide(self.audio(index), INT16_SCALE, dtype=np.float32)

    def content_hash(self) -> str:
        """SHA-256 of what training uses: speakers, utterance ids and samples, wherever their files lie."""
        facts = [self.sample_rate, self.speakers, self.utterance_ids, self.lengths.tolist(), self.speaker_ids.tolist()]
        digest = hashlib.sha256(json.dumps(facts).encode())
        digest.update(np.ascontiguousarray(self.samples).data)
        return digest.hexdigest()

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def pack(
    utterances: Sequence[Utterance],
    folder: str | Path,
    sample_rate: int,
    speakers: Sequence[str] | None = None,
    *,
    progress: bool = False,
) -> PackedSpeech:
    """Decode `utterances` into `folder`, or open `folder` if it already contains exactly these.

    `speakers` fixes the order of speaker ids (default: the sorted names that occur). Concurrent processes
    wait for the first one and reuse its result. The folder is written atomically; partial files of a killed
    process are removed.

    Raises AudioError with the names of all unusable files, ValueError for an empty list or a speaker that is not
    in `speakers`, OSError if it cannot be written or is not a packed corpus.
    """
    folder = Path(folder).absolute()
    names = tuple(speakers) if speakers is not None else tuple(sorted({u.speaker for u in utterances}))
    _check_sources(utterances, names)
    _check_files(utterances, sample_rate)
    source_hash = _hash_sources(utterances, sample_rate, names)
    if (packed := _open_if_same(folder, source_hash)) is not None:
        return packed
    if folder.exists() and not (folder / INDEX_FILE).is_file():
        raise FileExistsError(f"{folder} exists and is not a packed corpus; choose another folder, or remove it")
    _make_parent(folder)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        # another process may have built it while this one waited for the lock
        if (packed := _open_if_same(folder, source_hash)) is not None:
            return packed
        partial = folder.with_name(f".{folder.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
            partial.mkdir()
            _build(utterances, partial, sample_rate, names, source_hash, progress)
            replace_folder(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return open_packed(folder)


def open_packed(folder: str | Path) -> PackedSpeech:
    """Open a folder written by `pack`. Raises FileNotFoundError, or ValueError if it is damaged or outdated."""
    folder = Path(folder)
    index_path, samples_path = folder / INDEX_FILE, folder / SAMPLES_FILE
    if not index_path.is_file() or not samples_path.is_file():
        raise FileNotFoundError(
            f"{folder} is not a packed corpus: it lacks {INDEX_FILE} or {SAMPLES_FILE}; pack it from its manifest"
        )
    advice = f"remove {folder} and pack it again"
    index = read_index(index_path, VERSION, advice)
    try:
        offsets, lengths, speaker_ids = (np.array(index[k], np.int64) for k in ("offsets", "lengths", "speaker_ids"))
        speakers, utterance_ids = tuple(index["speakers"]), tuple(index["utterance_ids"])
        sample_rate, source_hash = index["sample_rate"], index["source_hash"]
        if not offsets.shape == lengths.shape == speaker_ids.shape == (len(utterance_ids),):
            raise ValueError("its lists have different lengths")
    except DAMAGED as error:
        raise ValueError(f"{index_path} is damaged ({error!r}); {advice}") from error
    num_samples = int(lengths.sum())
    if samples_path.stat().st_size != 2 * num_samples:
        raise ValueError(
            f"{samples_path} has {samples_path.stat().st_size} bytes, expected {2 * num_samples} from its index; "
            f"{advice}"
        )
    samples = np.asarray(np.memmap(samples_path, dtype="<i2", mode="r", shape=(num_samples,)))  # a plain view is faster
    return PackedSpeech(
        sample_rate=sample_rate,
        speakers=speakers,
        utterance_ids=utterance_ids,
        offsets=offsets,
        lengths=lengths,
        speaker_ids=speaker_ids,
        samples=samples,
        source_hash=source_hash,
    )


def _check_sources(utterances: Sequence[Utterance], speakers: tuple[str, ...]) -> None:
    if not utterances:
        raise ValueError("there are no utterances to pack; check that the manifest is not empty")
    if len(set(speakers)) != len(speakers):
        raise ValueError(f"speaker names must be unique, got {', '.join(speakers)}")
    known = set(speakers)
    for utterance in utterances:
        if utterance.speaker not in known:
            raise ValueError(
                f"speaker {utterance.speaker!r} of utterance {utterance.id!r} is not among the "
                f"{len(speakers)} speakers given: {', '.join(speakers[:8])}"
                f"{', ...' if len(speakers) > 8 else ''}"
            )


def _check_files(utterances: Sequence[Utterance], sample_rate: int) -> None:
    """Raise an AudioError that names all unusable files, if one of them is missing or empty; a quick check."""
    try:
        for utterance in utterances:
            check_file(utterance.path)
    except AudioError:
        failures: Failures = []
        for utterance in utterances:
            for _ in _samples(utterance, sample_rate, failures):
                pass
        raise combined_error(failures) from None


def _samples(utterance: Utterance, sample_rate: int, failures: Failures) -> Iterator[npt.NDArray[np.int16]]:
    """Blocks of int16 samples; an error of the file is appended to `failures` and ends them."""
    try:
        for block in blocks(utterance.path, sample_rate):
            yield to_int16(block)
    except AudioError as error:
        failures.append(error)


def _hash_sources(utterances: Sequence[Utterance], sample_rate: int, speakers: tuple[str, ...]) -> str:
    """SHA-256 over everything that determines the packed samples, without reading the audio."""
    digest = hashlib.sha256(json.dumps([VERSION, sample_rate, speakers]).encode())
    for utterance in utterances:
        path = utterance.path.absolute()
        stat = path.stat()
        source = [utterance.id, str(path), utterance.speaker, stat.st_size, stat.st_mtime_ns]
        digest.update(json.dumps(source).encode())
    return digest.hexdigest()


def _open_if_same(folder: Path, source_hash: str) -> PackedSpeech | None:
    """The packed corpus in `folder` if it is valid and made from the same sources, else None."""
    try:
        packed = open_packed(folder)
    except (FileNotFoundError, ValueError):  # missing, of another version, or truncated: build it again
        return None
    return packed if packed.source_hash == source_hash else None


def _make_parent(folder: Path) -> None:
    make_folder(folder.parent)
    if not os.access(folder.parent, os.W_OK):
        raise PermissionError(
            f"cannot make {folder}: {folder.parent} is read-only; choose a folder that you may write to"
        )


def _build(
    utterances: Sequence[Utterance],
    folder: Path,
    sample_rate: int,
    speakers: tuple[str, ...],
    source_hash: str,
    progress: bool,
) -> None:
    """Decode all utterances into an empty folder, in constant memory.

    Raises AudioError at the end, with the names of all files that cannot be used.
    """
    lengths: list[int] = []
    failures: Failures = []
    # disable=None: no progress bar unless standard error is a terminal
    bar = tqdm(utterances, desc="decoding", unit="file", disable=None if progress else True)
    with (folder / SAMPLES_FILE).open("wb") as file:
        for utterance in bar:
            length = 0
            for block in _samples(utterance, sample_rate, failures):
                if not failures:  # the file will not be used any more
                    file.write(block.astype("<i2").tobytes())
                length += len(block)
            lengths.append(length)
    if failures:
        raise combined_error(failures)
    speaker_index = {speaker: i for i, speaker in enumerate(speakers)}
    index = {
        "version": VERSION,
        "sample_rate": sample_rate,
        "speakers": speakers,
        "utterance_ids": [u.id for u in utterances],
        "offsets": [0, *np.cumsum(lengths[:-1]).tolist()],
        "lengths": lengths,
        "speaker_ids": [speaker_index[u.speaker] for u in utterances],
        "source_hash": source_hash,
    }
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
