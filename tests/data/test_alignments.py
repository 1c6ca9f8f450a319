"""One utterance in every format is the same alignment; what no aligner means is refused with file and line."""

from itertools import pairwise
from pathlib import Path

import pytest

from vqaudio.data.alignments import (
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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("u.phn", "0 80 a\n48 99 b\n", r"u\.phn, line 2: 'b' starts at 0\.003 s, before 'a' ends at 0\.005 s"),
        ("u.phn", "0 100 a\n\n50 200 b\n", r"line 3: 'b' starts at 0\.003125 s, before 'a' ends"),
        ("u.phn", "100 50 a\n", r"line 1: 'a' must start at 0 or later and end after that, got 100 to 50"),
        ("u.phn", "100 100 a\n", "end after that"),
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
