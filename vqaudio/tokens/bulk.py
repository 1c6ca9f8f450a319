"""Many files at once: what the inputs of a command mean, and their tokens one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from vqaudio.data.audio import AudioError
from vqaudio.data.corpora import AUDIO_SUFFIXES, Failures, audio_below
from vqaudio.data.manifest import read_manifest
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.tokens.files import read_tokens, write_tokens
from vqaudio.tokens.rows import TokenRow, file_name


class Source(NamedTuple):
    """One utterance to tokenize."""

    id: str  # unique among the sources, usable as a file name
    path: Path
    speaker: str | None


def find_sources(inputs: Sequence[Path]) -> list[Source]:
    """Audio files, folders and manifests -> utterances with unique ids, in the order of the inputs.

    A file: its id is its name without the suffix, its speaker is not known. A folder: all audio files in it
    and below it, by their suffix, without hidden ones, sorted; the id joins the folders below INPUT and the
    name with "-"; a file in a subfolder has the subfolder's name as its speaker. A manifest (.jsonl): as it
    says.

    Raises FileNotFoundError for a folder without audio, ValueError for a damaged manifest, for two files with one
    id and for no inputs. Whether the files are there and hold audio is seen when they are read.
    """
    if not inputs:
        raise ValueError("name at least one audio file, folder or manifest (.jsonl)")
    sources: list[Source] = []
    for path in inputs:
        sources += _expand(path)
    path_of: dict[str, Path] = {}
    for source in sources:
        if source.id in path_of:
            raise ValueError(
                f"{path_of[source.id]} and {source.path} would share the id {source.id!r}; "
                "take them in separate runs, or write a manifest that gives them ids"
            )
        path_of[source.id] = source.path
    return sources


def tokenize_all(model: SpeechVQVAE, sources: Sequence[Source], failures: Failures) -> Iterator[TokenRow]:
    """Tokenize one source after the other; a file that cannot be used is appended to `failures` and left out.

    Raises AudioError at the end where not one could be used.
    """
    for source in sources:
        try:
            tokens = model.tokenize(source.path)
        except AudioError as error:
            failures.append(error)
        except OSError as error:
            failures.append(AudioError(f"{source.path} cannot be read: {error.strerror or error}"))
        else:
            yield TokenRow(source.id, source.speaker, tokens)
    if len(failures) == len(sources):
        raise AudioError(f"none of the {len(sources)} inputs can be used; nothing was written")


def tokenize_whole(model: SpeechVQVAE, sources: Sequence[Source]) -> Iterator[TokenRow]:
    """As `tokenize_all`, where each utterance counts. Raises AudioError for the first that cannot be used."""
    failures: Failures = []
    for row in tokenize_all(model, sources, failures):
        if failures:
            break
        yield row
    if failures:
        raise failures[0]


def tokens_of(model: SpeechVQVAE, manifests: Sequence[Path], path: Path) -> Iterator[TokenRow]:
    """The tokens of the manifests' utterances, read from `path` (.jsonl) or, the first time, written there.

    Processes that ask at once wait for the first. Raises ValueError for a file with tokens of another model or of other
    utterances, AudioError where an utterance cannot be used, FileNotFoundError without a manifest.
    """
    for manifest in manifests:
        if not manifest.is_file():
            raise FileNotFoundError(f"there is no manifest {manifest}; vqaudio prepare writes one")
    sources = find_sources(manifests)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            write_tokens(path, tokenize_whole(model, sources))
    wanted = [source.id for source in sources]
    rows = list(read_tokens(path))
    if [row.id for row in rows] != wanted:
        raise ValueError(
            f"{path} holds {len(rows)} utterances, not the {len(wanted)} of {', '.join(map(str, manifests))}; remove it"
        )
    if others := {row.tokens.model for row in rows} - {model.fingerprint}:
        raise ValueError(f"{path} holds tokens of model {others.pop()}, not of model {model.fingerprint}; remove it")
    return iter(rows)


def _expand(path: Path) -> list[Source]:
    if path.is_dir():
        sources = [_below(audio, path) for audio in audio_below(path)]
        if not sources:
            raise FileNotFoundError(
                f"there is no audio in {path}; looked in it and below it for {' '.join(sorted(AUDIO_SUFFIXES))}"
            )
        return sources
    if path.suffix == ".jsonl" and path.exists():
        return [Source(file_name(row.id), row.path, row.speaker) for row in read_manifest(path)]
    return [Source(file_name(path.stem), path, None)]


def _below(audio: Path, folder: Path) -> Source:
    parts = audio.relative_to(folder).with_suffix("").parts
    return Source(file_name("-".join(parts)), audio, file_name(parts[-2]) if len(parts) > 1 else None)
