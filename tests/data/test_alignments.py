"""One utterance in every format is the same alignment; what no aligner means is refused with file and line."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vqaudio.data.alignments import (
    ROUNDING,
    Alignment,
    AlignmentWarning,
    Segment,
    find_alignments,
    read_ctm,
    read_phn,
    read_textgrid,
    read_tsv,
    write_alignments,
)

SEGMENTS = [Segment(0.0, 0.25, "h#"), Segment(0.25, 0.5, "ay"), Segment(0.75, 1.0, "d")]  # a gap before the last

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1
            text = "say ""I'd"" 5 times"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1
        points: size = 1
        points [1]:
            number = 0.5
            mark = "click"
    item [3]:
        class = "IntervalTier"
        name = "Phones"
        xmin = 0
        xmax = 1
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = "h#"
        intervals [2]:
            xmin = 0.25
            xmax = 5e-1
            text = "ay"
        intervals [3]:
            xmin = 0.5
            xmax = 0.75
            text = ""
        intervals [4]:
            xmin = 0.75
            xmax = 1
            text = "d"
"""
SHORT = """File type = "ooTextFile"
"TextGrid" ! written by hand

0
1
<exists>
2
"IntervalTier" "words" 0 1 1
0 1 "I'd"
"IntervalTier" "phones" 0 1 4
0 0.25 "h#"
0.25 0.5 "ay"
0.5 0.75 ""
0.75 1 "d"
"""
PHN = "0 4000 h#\n4000 8000 ay\n12000 16000 d\n"
CTM = ";; utterance channel start duration label\nu 1 0 0.25 h#\nv 1 0 1 x 0.9\nu 1 0.25 0.25 ay 1.0\nu 1 0.75 0.25 d\n"
TSV = "utterance\tstart\tend\tlabel\nu\t0\t0.25\th#\nv\t0\t1\tx\nu\t0.25\t0.5\tay\nu\t0.75\t1.0\td\n"


def _file(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("u.phn", PHN, "utf-8"),
        ("DR1/x/u.PHN", PHN.replace("\n", "\r\n"), "utf-8"),
        ("u.TextGrid", LONG, "utf-8"),
        ("a/u.TextGrid", LONG.replace("\n", "\r\n"), "utf-16"),
        ("u.TextGrid", SHORT, "utf-8-sig"),
        ("u.TextGrid", "\ufeff" + SHORT, "utf-16-be"),
        ("u.ctm", CTM, "utf-8"),
        ("u.tsv", TSV, "utf-8"),
        ("a/u.tsv", "start\tend\tphone\n0.0\t0.25\th#\n0.25\t0.5\tay\n0.75\t1\td\n", "utf-8"),
    ],
)
def test_every_format_gives_the_same_alignment(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    path = _file(tmp_path / name, text, encoding)
    many = path.suffix == ".ctm" or text == TSV
    assert find_alignments(path if many else tmp_path, ["u", "absent"]) == {"u": SEGMENTS}


def test_samples_become_seconds_by_the_rate(tmp_path: Path) -> None:
    path = _file(tmp_path / "u.phn", "0 4000 h#\n")
    assert read_phn(path, 8000) == [Segment(0.0, 0.5, "h#")]
    assert find_alignments(tmp_path, ["u"], sample_rate=8000) == {"u": read_phn(path, 8000)}


def test_a_tier_is_chosen_by_its_name(tmp_path: Path) -> None:
    path = _file(tmp_path / "u.TextGrid", LONG)
    assert read_textgrid(path, "words") == [Segment(0.0, 1.0, 'say "I\'d" 5 times')]
    assert find_alignments(tmp_path, ["u"], tier="words")["u"] == read_textgrid(path, "words")
    with pytest.raises(ValueError, match=r"u\.TextGrid has no interval tier segments; it has 'words', 'Phones'"):
        read_textgrid(path, "segments")
    other = _file(tmp_path / "o.TextGrid", SHORT.replace("phones", "sounds"))
    with pytest.raises(ValueError, match="no interval tier phones or phone or MAU; it has 'words', 'sounds'"):
        read_textgrid(other)


def test_folders_may_be_part_of_an_id(tmp_path: Path) -> None:
    for speaker in ("FCJF0", "MDAC0"):
        _file(tmp_path / "DR1" / speaker / "SA1.PHN", PHN)
    ids = ["FCJF0-SA1", "DR1-MDAC0-SA1", "MDAC0-SA2"]
    assert find_alignments(tmp_path, ids) == dict.fromkeys(ids[:2], SEGMENTS)
    with pytest.raises(ValueError, match=r"FCJF0.SA1\.PHN and .*MDAC0.SA1\.PHN are both alignments of 'SA1'"):
        find_alignments(tmp_path, ["SA1"])


def test_written_alignments_read_back_as_the_same(tmp_path: Path) -> None:
    alignments = {"a b": [Segment(0.1, 0.1 + 0.2, "+NOISE+"), Segment(1 / 3, 2 / 3, "ɔ")], "c": SEGMENTS}
    path = tmp_path / "phones.tsv"
    write_alignments(path, {**alignments, "silent": []})
    assert read_tsv(path) == alignments
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_alignments(path, alignments)
    with pytest.raises(ValueError, match=r"line 3: 'x' starts at 0\.5 s, before 'y' ends"):
        write_alignments(path, {"a": [Segment(0, 1, "y"), Segment(0.5, 2, "x")]}, overwrite=True)
    assert read_tsv(path) == alignments and list(tmp_path.iterdir()) == [path]


def test_a_table_contains_notes_about_its_origin(tmp_path: Path) -> None:
    path, alignments = tmp_path / "phones.tsv", {"#1": [Segment(0.0, 1.0, "#")]}
    write_alignments(path, alignments, notes=["made by\na machine", "2"])
    assert path.read_text().splitlines()[:2] == ["# made by a machine", "# 2"] and read_tsv(path) == alignments
    write_alignments(path, alignments, overwrite=True)
    assert not path.read_text().startswith("#") and read_tsv(path) == alignments


@pytest.mark.parametrize(
    ("segment", "id", "name"),
    [
        (Segment(0, 1, "a\tb"), "u", "out.tsv"),
        (Segment(0, 1, "a"), "", "out.tsv"),
        (Segment(0, 1, "a"), "u", "out.ctm"),
    ],
)
def test_what_a_table_cannot_hold_is_not_written(tmp_path: Path, segment: Segment, id: str, name: str) -> None:
    with pytest.raises(ValueError):
        write_alignments(tmp_path / name, {id: [segment]})
    assert not list(tmp_path.iterdir())


def test_what_overlaps_by_rounding_touches(tmp_path: Path) -> None:
    path = _file(tmp_path / "u.ctm", "u 1 0.1 0.2 a\nu 1 0.3 0.1 b\n")
    assert 0.1 + 0.2 > 0.3
    assert read_ctm(path)["u"] == [Segment(0.1, 0.3, "a"), Segment(0.3, 0.4, "b")]


@pytest.mark.parametrize("decimals", [2, 3])
def test_a_ctm_file_with_rounded_times_is_read(tmp_path: Path, decimals: int) -> None:
    """Start and duration are rounded each, as by NeMo and Kaldi: phones that lie end to end then overlap."""
    ends = np.random.default_rng(0).uniform(0.03, 0.2, 200).cumsum()
    spans = list(pairwise([0.0, *ends]))
    lines = [f"u 1 {start:.{decimals}f} {end - start:.{decimals}f} p{i}" for i, (start, end) in enumerate(spans)]
    path = _file(tmp_path / "u.ctm", "\n".join(lines) + "\n")
    with pytest.warns(AlignmentWarning, match=r"u\.ctm: 0 segments of length 0 .* and \d+ overlaps of at most 10 ms"):
        found = find_alignments(path, ["u"])["u"]
    assert [own.label for own in found] == [f"p{i}" for i in range(200)]
    assert all(first.end <= second.start < second.end for first, second in pairwise(found))
    np.testing.assert_allclose([own.start for own in found], [start for start, _ in spans], atol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.phn", "0 4000 a\n4000 4000 q\n4000 8000 b\n8000 8000 q\n"),
        ("u.ctm", "u 1 0 0.25 a\nu 1 0.25 0.00 q\nu 1 0.25 0.25 b\nu 1 0.5 0 q\n"),
        ("u.tsv", "utterance\tstart\tend\tlabel\nu\t0\t0.25\ta\nu\t0.25\t0.25\tq\nu\t0.25\t0.5\tb\nu\t0.5\t0.5\tq\n"),
    ],
)
def test_segments_of_length_0_are_left_out_and_counted(tmp_path: Path, name: str, text: str) -> None:
    path = _file(tmp_path / name, text)
    with pytest.warns(AlignmentWarning, match="2 segments of length 0 were left out"):
        found = find_alignments(tmp_path if name == "u.phn" else path, ["u"])
    assert found == {"u": [Segment(0, 0.25, "a"), Segment(0.25, 0.5, "b")]}


def test_of_a_short_segment_that_begins_where_the_next_does_something_is_left(tmp_path: Path) -> None:
    path = _file(tmp_path / "u.ctm", "u 1 0.10 0.01 a\nu 1 0.10 0.20 b\n")
    assert read_ctm(path)["u"] == [Segment(0.1, 0.11, "a"), Segment(0.11, 0.1 + 0.2, "b")]


def test_linked_folders_of_alignments_are_read_and_hidden_ones_are_not(tmp_path: Path) -> None:
    _file(tmp_path / "real/s2/u.phn", PHN)
    _file(tmp_path / "all/.old/u.phn", PHN)
    (tmp_path / "all/s2").symlink_to(tmp_path / "real/s2")
    assert find_alignments(tmp_path / "all", ["u"]) == {"u": SEGMENTS}


def test_a_segment_of_length_0_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="length above 0, got 'a' of 'u' at 1"):
        write_alignments(tmp_path / "x.tsv", {"u": [Segment(1.0, 1.0, "a")]})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("u.phn", "0 800 a\n480 990 b\n", r"u\.phn, line 2: 'b' starts at 0\.03 s, before 'a' ends at 0\.05 s"),
        ("u.phn", "0 1000 a\n\n500 2000 b\n", r"line 3: 'b' starts at 0\.03125 s, before 'a' ends"),
        ("u.ctm", "u 1 0.00 0.12 a\nu 1 0.10 0.10 b\n", r"line 2: 'b' starts at 0\.1 s, before 'a' ends at 0\.12 s"),
        ("u.phn", "100 50 a\n", r"line 1: 'a' must start at 0 or later and end after that, got 100 to 50"),
        ("u.phn", "-5 100 a\n", "got -5 to 100"),
        ("u.phn", "0 nan a\n", "line 1: a time must be a finite number, got 'nan'"),
        ("u.phn", "0 a\n", r"line 1: expected start, end, label, got '0 a'"),
        ("u.ctm", "u 1 0 0.5 a\nu 1 x 0.5 b\n", r"u\.ctm, line 2: a time must be a finite number, got 'x'"),
        ("u.ctm", "u 1 0 0.5 a\nu 1 0.4 0.5 b\n", r"line 2: 'b' starts at 0\.4 s"),
        ("u.ctm", "u 1 0 -0.5 a\n", "end after that"),
        ("u.ctm", "u 1 0 0.5\n", "expected utterance, channel, start, duration, label"),
        ("u.tsv", "u\t0\t1\ta\n", "must start with the header utterance start end label"),
        ("u.tsv", "", "must start with the header"),
        ("u.tsv", "utterance\tstart\tend\tlabel\nu\t0\t1\n", "line 2: expected utterance, start, end, label"),
        ("u.tsv", "utterance\tstart\tend\tlabel\nu\t0\t1\ta\nu\t0.5\t2\tb\n", r"line 3: 'b' starts at 0\.5 s"),
        ("u.TextGrid", LONG.replace("xmax = 5e-1", "xmax = 0.9"), r"line 47: 'd' starts at 0\.75 s, before 'ay' ends"),
        ("u.TextGrid", SHORT[:-8], r"line 14: expected a number, got the end of the file"),
        ("u.TextGrid", SHORT.replace('"ay"', "ay"), r"line 13: expected a quoted string, got 0\.5"),
        ("u.TextGrid", '"ooTextFile"\n"Sound"\n', "not a TextGrid in text format"),
        ("u.TextGrid", "ooBinaryFile", "line 1: expected a quoted string"),
    ],
)
def test_what_no_aligner_means_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = _file(tmp_path / name, text)
    with pytest.raises(ValueError, match=message):
        find_alignments(path if path.suffix in (".ctm", ".tsv") else tmp_path, ["u"])


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    for name in ("u.phn", "v.TextGrid"):
        path = _file(tmp_path / name, "0 1 é", "latin-1")
        with pytest.raises(ValueError, match="UTF-8"):
            find_alignments(tmp_path, [path.stem])


def test_missing_alignments_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        find_alignments(tmp_path / "nowhere", ["u"])
    with pytest.raises(ValueError, match=r"no alignment for any of the 1 utterances, such as w; searched files ID"):
        find_alignments(tmp_path, ["w"])
    with pytest.raises(ValueError, match="such as w; searched its 2 utterances, such as u"):
        find_alignments(_file(tmp_path / "u.ctm", CTM), ["w"])
    with pytest.raises(ValueError, match=r"must be \.ctm or \.tsv, got .*u\.lab"):
        find_alignments(_file(tmp_path / "u.lab", ""), ["u"])


def test_timit_and_the_embedded_corpus(real_data: Path) -> None:
    """The phones of every utterance lie end to end from 0."""
    embedded = Path(__file__).resolve().parents[2] / "egs" / "mini" / "phones"
    for folder, count in ((real_data / "timit8" / "phn", 80), (embedded, 4)):
        ids = [path.stem for path in folder.rglob("*_0*.*")]
        found = find_alignments(folder, ids)
        assert len(found) == len(ids) >= count
        for alignment in found.values():
            assert alignment[0].start == 0
            assert all(b.start == a.end for a, b in pairwise(alignment))


def test_a_table_may_be_sent_to_standard_output(tmp_path, capfdbinary) -> None:
    alignments = {"u": Alignment([Segment(0.0, 0.5, "a")])}
    write_alignments(tmp_path / "a.tsv", alignments)
    write_alignments("-", alignments)
    assert capfdbinary.readouterr().out == (tmp_path / "a.tsv").read_bytes()
