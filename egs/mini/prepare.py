"""Create the embedded corpus: eight synthetic speakers reading the same twenty sentences.

    python egs/mini/prepare.py --overwrite

The result is part of the repository, so this is needed only to change the corpus. It calls the
programs espeak-ng and flite (Debian: apt-get install espeak-ng flite). The same versions of these
programs, of soxr and of libsndfile give the same bytes again.
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
import soxr
from scipy.signal import butter, sosfiltfilt

HERE = Path(__file__).resolve().parent
SAMPLE_RATE = 16_000
SPEECH_RMS = 0.08  # target RMS, as far as the peak stays within PEAK_RANGE; full scale is 1
PEAK_RANGE = (0.4, 0.7)
DC_CUTOFF = 20.0  # Hz; below every voice
MARGIN = 0.1  # seconds of silence kept around the speech of espeak-ng
AUDIBLE = 0.003  # fraction of the peak; quieter samples at either end count as silence
MAX_PHONE_MISMATCH = 0.15  # seconds between flite's last phone end and the end of its audio
SPLITS = {"valid": (6, 16), "test": (11, 20)}  # sentence numbers; all others train
ITEMS = ("wav16", "txt", "phones", "speakers.json", "train.jsonl", "valid.jsonl", "test.jsonl")


class PrepareError(Exception):
    """The corpus cannot be created; the message states the reason and the remedy."""


@dataclass(frozen=True)
class Voice:
    """One speaker of the corpus: a synthesiser, its voice, and the pitch setting."""

    name: str
    """speaker name: letters, digits, underscore"""
    program: str
    """espeak-ng or flite"""
    voice: str
    """the program's own name of the voice"""
    pitch: int = 50
    """espeak-ng's -p, 0 to 99; flite ignores it"""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.name):
            raise ValueError(f"name must be letters, digits and underscores, got {self.name!r}")
        if self.program not in ("espeak-ng", "flite"):
            raise ValueError(f"program must be espeak-ng or flite, got {self.program!r}")
        if not 0 <= self.pitch <= 99:
            raise ValueError(f"pitch must lie in 0 to 99, got {self.pitch}")


VOICES = (
    Voice("espeak_nyc_f5", "espeak-ng", "en-us-nyc+f5", pitch=75),
    Voice("espeak_rp_f3", "espeak-ng", "en-gb-x-rp+f3"),
    Voice("espeak_scot_m7", "espeak-ng", "en-gb-scotland+m7", pitch=85),
    Voice("espeak_us_m1", "espeak-ng", "en-us+m1", pitch=25),
    Voice("flite_awb", "flite", "awb"),
    Voice("flite_kal16", "flite", "kal16"),
    Voice("flite_rms", "flite", "rms"),
    Voice("flite_slt", "flite", "slt"),
)


class Phone(NamedTuple):
    """One phone of flite; start and end in seconds from the beginning of the file."""

    start: float
    end: float
    phone: str


class Speech(NamedTuple):
    """Synthesised speech: (T,) float64 at SAMPLE_RATE, and its phones if the program reports them."""

    wav: np.ndarray
    phones: list[Phone] | None


def run(*command: str) -> str:
    """Standard output of a program; PrepareError if it is missing or fails."""
    if shutil.which(command[0]) is None:
        raise PrepareError(f"{command[0]} is not installed; on Debian: apt-get install espeak-ng flite")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise PrepareError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def check_voices(voices: tuple[Voice, ...]) -> None:
    """Raise PrepareError for a missing voice: both programs would silently use another one."""
    flite = set(run("flite", "-lv").split(":", 1)[1].split())
    listing = run("espeak-ng", "--voices=en") + run("espeak-ng", "--voices=variant")
    espeak = set(listing.split())
    for voice in voices:
        language, _, variant = voice.voice.partition("+")
        names = {voice.voice} if voice.program == "flite" else {language, f"!v/{variant}"}
        known = names <= (flite if voice.program == "flite" else espeak)
        if not known:
            raise PrepareError(
                f"{voice.program} has no voice {voice.voice!r} (wanted for speaker {voice.name}); "
                "see flite -lv, espeak-ng --voices=en and espeak-ng --voices=variant"
            )


def parse_phones(printed: str, seconds: float) -> list[Phone]:
    """flite's "pau:0.164 hh:0.255 ..." (phone:end) as contiguous phones that fill the audio.

    flite reports the end of the final silence up to 0.12 s after the end of the audio. It is replaced by the end of
    the audio, rounded down to a millisecond.
    """
    pairs = [item.rsplit(":", 1) for item in printed.split()]
    ends = [float(end) for _, end in pairs]
    if not pairs or pairs[-1][0] != "pau" or abs(ends[-1] - seconds) > MAX_PHONE_MISMATCH:
        raise PrepareError(f"flite's phones do not fit {seconds:.3f} s of audio: {printed.strip()}")
    ends[-1] = math.floor(seconds * 1000) / 1000
    starts = [0.0, *ends[:-1]]
    if any(end <= start for start, end in zip(starts, ends, strict=True)):
        raise PrepareError(f"flite's phone times do not increase: {printed.strip()}")
    names = [name for name, _ in pairs]
    return [Phone(*row) for row in zip(starts, ends, names, strict=True)]


def trim(wav: np.ndarray) -> np.ndarray:
    """(T,) -> (T',): exactly MARGIN seconds before the first and after the last audible sample."""
    audible = np.flatnonzero(np.abs(wav) > AUDIBLE * np.abs(wav).max())
    margin = round(MARGIN * SAMPLE_RATE)
    padded = np.pad(wav, margin)
    return padded[audible[0] : audible[-1] + 1 + 2 * margin]


def synthesise(voice: Voice, text: str, folder: Path) -> Speech:
    """Synthesise a sentence; the program writes its WAV file to `folder`."""
    path = folder / "speech.wav"
    if voice.program == "flite":
        printed = run("flite", "-voice", voice.voice, "-psdur", "-t", text, "-o", str(path))
    else:
        pitch = ("-p", str(voice.pitch))
        printed = run("espeak-ng", "-v", voice.voice, *pitch, "-z", "-w", str(path), text)
    wav, rate = sf.read(path, dtype="float64")
    if wav.ndim != 1 or len(wav) == 0 or not np.abs(wav).max() > 0:
        raise PrepareError(f"{voice.program} -v {voice.voice} produced no mono speech for {text!r}")
    if voice.program == "flite":  # not trimmed: the phone times are relative to the first sample
        if rate != SAMPLE_RATE:
            raise PrepareError(f"the sample rate of flite {voice.voice} is {rate} Hz, not {SAMPLE_RATE} Hz")
        return Speech(wav, parse_phones(printed, len(wav) / rate))
    return Speech(trim(soxr.resample(wav, rate, SAMPLE_RATE, quality="VHQ")), None)


def level(wav: np.ndarray) -> np.ndarray:
    """(T,) float -> (T,) int16 without DC, scaled as close to SPEECH_RMS as PEAK_RANGE allows.

    DC is removed by a zero-phase high-pass instead of subtracting the mean: no phone is shifted; silence stays zero.
    """
    wav = sosfiltfilt(butter(2, DC_CUTOFF, "highpass", fs=SAMPLE_RATE, output="sos"), wav)
    peak, rms = np.abs(wav).max(), np.sqrt(np.mean(wav**2))
    wanted_peak = np.clip(SPEECH_RMS * peak / rms, *PEAK_RANGE)
    return np.rint(wav * (wanted_peak / peak) * 32767).astype(np.int16)


def read_sentences() -> list[str]:
    """The lines of sentences.txt; line n is sentence n."""
    return (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()


def build(voices: tuple[Voice, ...], sentences: list[str], out: Path) -> None:
    """Write all of ITEMS into the empty folder out."""
    split_of = {number: name for name, numbers in SPLITS.items() for number in numbers}
    rows: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    (out / "phones").mkdir()
    for voice in voices:
        for kind in ("wav16", "txt", *(["phones"] if voice.program == "flite" else [])):
            (out / kind / voice.name).mkdir(parents=True)
        for number, text in enumerate(sentences, start=1):
            utterance = f"{voice.name}_{number:03d}"
            path = f"wav16/{voice.name}/{utterance}.flac"
            with tempfile.TemporaryDirectory() as folder:
                speech = synthesise(voice, text, Path(folder))
            samples = level(speech.wav)
            sf.write(out / path, samples, SAMPLE_RATE, subtype="PCM_16", compression_level=1.0)
            (out / "txt" / voice.name / f"{utterance}.txt").write_text(text + "\n")
            if speech.phones is not None:
                table = "".join(f"{s:.3f}\t{e:.3f}\t{p}\n" for s, e, p in speech.phones)
                phones_path = out / "phones" / voice.name / f"{utterance}.tsv"
                phones_path.write_text("start\tend\tphone\n" + table)
            seconds = len(samples) / SAMPLE_RATE
            row = {
                "id": utterance,
                "path": path,
                "speaker": voice.name,
                "seconds": seconds,
                "text": text,
            }
            rows[split_of.get(number, "train")].append(json.dumps(row) + "\n")
    for name, lines in rows.items():
        (out / f"{name}.jsonl").write_text("".join(lines))
    speakers = sorted(voice.name for voice in voices)
    (out / "speakers.json").write_text(json.dumps(speakers, indent=2) + "\n")


def install(built: Path, out: Path) -> None:
    """Move ITEMS into place. Manifests are removed first and written last, so that none ever names a missing file.

    `built` is a folder in `out`, so that each move is one rename.
    """
    replaced = built / "replaced"
    replaced.mkdir()
    for item in reversed(ITEMS):
        if (out / item).exists():
            (out / item).replace(replaced / item)
    for item in ITEMS:
        (built / item).replace(out / item)


def prepare(out: Path, *, overwrite: bool) -> None:
    """Create the corpus in `out`; existing files are replaced only if everything succeeds."""
    existing = [item for item in ITEMS if (out / item).exists()]
    if existing and not overwrite:
        raise PrepareError(f"{out} already contains {', '.join(existing)}; add --overwrite to replace them")
    check_voices(VOICES)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".building-") as folder:
        build(VOICES, read_sentences(), Path(folder))
        install(Path(folder), out)


def main() -> None:
    """The command line; exit code 0 if the corpus was created, 1 if not, 2 for wrong usage."""
    parser = argparse.ArgumentParser(description="Create the embedded corpus of vqaudio.")
    parser.add_argument("--out", type=Path, default=HERE, help="output folder (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing corpus")
    args = parser.parse_args()
    try:
        prepare(args.out, overwrite=args.overwrite)
    except (PrepareError, OSError) as error:
        sys.exit(f"prepare.py: {error}")
    print(f"created {len(VOICES)} voices x {len(read_sentences())} sentences in {args.out}")


if __name__ == "__main__":
    main()
