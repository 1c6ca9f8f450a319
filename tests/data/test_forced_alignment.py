"""Forced alignment of real speech, compared with the phones of a synthesiser and with manual labels."""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqaudio.cli.align import align as align_verb
from vqaudio.data.alignments import Segment, find_alignments, read_tsv
from vqaudio.data.audio import AudioError, read_audio
from vqaudio.data.forced_alignment import align, align_all
from vqaudio.data.manifest import Utterance, read_manifest
from vqaudio.metrics.alignment_agreement import agreement
from vqaudio.metrics.phone_classes import fold

pytest.importorskip("pocketsphinx", reason="pip install 'vqaudio[metrics]'")

EMBEDDED = Path(__file__).resolve().parents[2] / "egs" / "mini"
TIMIT = Path(os.environ.get("VQAUDIO_DATA", EMBEDDED.parents[2] / "shared" / "data")) / "timit8"
RATE = 16_000


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    """Three utterances of the embedded corpus whose phones are known."""
    return [u for u in read_manifest(EMBEDDED / "test.jsonl") if u.speaker.startswith("flite")][:3]


def _wav(utterance: Utterance) -> np.ndarray:
    return read_audio(utterance.path, RATE)


def test_phones_are_where_the_synthesiser_put_them(utterances: list[Utterance]) -> None:
    found = {u.id: align(_wav(u), u.text or "", RATE) for u in utterances}
    for utterance in utterances:
        phones = found[utterance.id]
        assert phones[0].start == 0 and phones[-1].end == pytest.approx(utterance.seconds)
        assert all(a.end == b.start for a, b in pairwise(phones))
    planned = find_alignments(EMBEDDED / "phones", found)
    metrics = agreement(
        [found[u.id] for u in utterances], [planned[u.id] for u in utterances], [u.speaker for u in utterances]
    )
    assert metrics["same_class"].value > 0.6 and metrics["boundary_recall"].value > 0.6
    assert metrics["deviation"].value < 0.02


def test_phones_follow_from_the_text(utterances: list[Utterance]) -> None:
    wav = _wav(utterances[0])
    (alignment,) = fold([align(wav, "Yes, no: 2 CUPS!", RATE)]).alignments
    assert "".join(phone.label for phone in alignment if phone.label != "SIL") == "YEHSNOWTUWKAHPS"


def test_what_was_aligned_before_does_not_matter(utterances: list[Utterance]) -> None:
    first, other = utterances[:2]
    alone = align(_wav(first), first.text or "", RATE)
    align(_wav(other), other.text or "", RATE)
    with pytest.raises(ValueError):
        align(_wav(first)[:3000], first.text or "", RATE)
    assert align(_wav(first), first.text or "", RATE) == alone


def test_another_rate_gives_nearly_the_same(utterances: list[Utterance]) -> None:
    import soxr

    wav, text = _wav(utterances[0]), utterances[0].text or ""
    phones, others = align(wav, text, RATE), align(soxr.resample(wav, RATE, 24_000), text, 24_000)
    assert [phone.label for phone in phones] == [phone.label for phone in others]
    assert np.median([abs(a.start - b.start) for a, b in zip(phones, others, strict=True)]) <= 0.01


@pytest.mark.parametrize(
    ("samples", "text", "message"),
    [
        (
            RATE,
            "hello zyxomma world qwrt zyxomma",
            "missing from the English dictionary of pocketsphinx: zyxomma, qwrt$",
        ),
        (RATE, " -- ?", "the transcript ' -- [?]' contains no words"),
        (RATE, "hello", "digital silence"),
        (0, "hello", "0 samples at 16000 Hz are too short"),
        (200, "hello", "too short"),
    ],
)
def test_what_cannot_be_aligned_is_refused(samples: int, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align(np.zeros(samples, np.float32), text, RATE)


def test_samples_that_are_none_are_refused() -> None:
    for wav in (np.full(RATE, np.nan, np.float32), np.zeros((2, RATE), np.float32)):
        with pytest.raises(ValueError, match="mono"):
            align(wav, "hello", RATE)


def test_more_processes_give_the_same(utterances: list[Utterance]) -> None:
    assert list(align_all(utterances, [], workers=2)) == list(align_all(utterances, []))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        next(align_all(utterances, [], workers=0))


def test_agreement_by_hand() -> None:
    """Two phones of 0.1 s and silence; the first boundary is 10 ms late, the second 50 ms early."""
    hand = [Segment(0, 0.1, "aa"), Segment(0.1, 0.2, "iy"), Segment(0.2, 0.3, "h#")]
    made = [Segment(0, 0.11, "AA1"), Segment(0.11, 0.15, "IY0"), Segment(0.15, 0.3, "SIL")]
    metrics = agreement([made], [hand], ["a"])
    values = {name: estimate.value for name, estimate in metrics.items()}
    assert values == pytest.approx(
        {"same_class": 0.8, "boundary_recall": 0.5, "boundary_precision": 0.5, "deviation": 0.03, "offset": -0.02}
    )
    same = agreement([hand, made], [hand, made], ["a", "b"])
    assert same["same_class"][:3] == same["boundary_recall"][:3] == (1, 1, 1) and same["deviation"][:3] == (0, 0, 0)


def test_the_verb_writes_a_table_and_names_what_it_could_not_do(
    utterances: list[Utterance], tmp_path: Path, capsys: pytest.CaptureFixture[str], write_manifest: Callable[..., None]
) -> None:
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(RATE), RATE)
    others = [
        Utterance("strange", utterances[0].path, "a", 1.0, "zyxomma"),
        Utterance("no_text", utterances[0].path, "a", 1.0),
        Utterance("silent", silent, "a", 1.0, "hello"),
        Utterance("gone", tmp_path / "gone.wav", "a", 1.0, "hello"),
    ]
    manifest, out = tmp_path / "test.jsonl", tmp_path / "phones.tsv"
    write_manifest(manifest, [others[0], *utterances[:2], *others[1:]])
    assert align_verb((manifest,), out) == 1
    printed = capsys.readouterr()
    assert "2 of 6" in printed.out and "forced alignment by vqaudio align" in printed.out
    errors = printed.err.strip().splitlines()
    assert all(name in line for name, line in zip(("strange", "no_text", "silent", "gone"), errors, strict=True))
    assert "zyxomma" in errors[0] and "no text" in errors[1]
    assert read_tsv(out) == {u.id: align(_wav(u), u.text or "", RATE) for u in utterances[:2]}
    assert "forced alignment by vqaudio align" in out.read_text().splitlines()[0]

    with pytest.raises(FileExistsError, match="--overwrite"):
        align_verb((manifest,), out)
    write_manifest(manifest, utterances[:1])
    assert align_verb((manifest,), out, overwrite=True) == 0 and list(read_tsv(out)) == [utterances[0].id]
    assert "not measured; on TIMIT, the same class as the manual labels" in capsys.readouterr().out
    assert align_verb((manifest,), tmp_path / "again.tsv", reference=(out,)) == 0
    assert "on 1 utterances, same class as the reference in 100.0 % (100.0 to 100.0)" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"2 utterances have the id '{utterances[0].id}'"):
        align_verb((manifest, manifest), out, overwrite=True)
    write_manifest(manifest, others[:2])
    with pytest.raises(AudioError, match="none of the 2"):
        align_verb((manifest,), tmp_path / "nothing.tsv")
    assert not (tmp_path / "nothing.tsv").exists()


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not TIMIT.is_dir(), reason=f"{TIMIT} is absent; set VQAUDIO_DATA to the folder of timit8")
def test_it_agrees_with_manual_labels_as_documented() -> None:
    utterances = [
        Utterance(
            path.stem, path, path.parent.name, 1.0, (TIMIT / "txt" / path.parent.name / f"{path.stem}.txt").read_text()
        )
        for path in sorted((TIMIT / "wav16").rglob("*_00[1-3].flac"))
    ]
    found = dict(align_all(utterances, failures := []))
    hand = find_alignments(TIMIT / "phn", found)
    assert not failures and len(hand) == len(found) == 24
    metrics = agreement(list(found.values()), list(hand.values()), [id.split("_")[0] for id in found])
    assert metrics["same_class"].value == pytest.approx(0.74, abs=0.03)
    assert metrics["boundary_recall"].value == pytest.approx(0.75, abs=0.04)
    assert metrics["deviation"].value < 0.012 and abs(metrics["offset"].value) < 0.004
