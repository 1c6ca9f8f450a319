import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.rows import KEYS, TokenRow, file_name, format_row, parse_row

ROW = {"id": "a", "speaker": "s", "codes": [3, 0, 511], "num_samples": 20, "sample_rate": 16000, "hop": 8, "model": "f"}

names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1)
codes = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20)


@given(names.filter(lambda name: name not in (".", "..")), st.none() | names, codes, st.integers(0, 7))
def test_a_row_comes_back_from_its_line(id, speaker, codes, missing) -> None:
    tokens = Tokens(torch.tensor(codes), len(codes) * 8 - missing, 16000, 8, "0123456789ab")
    line = format_row(TokenRow(id, speaker, tokens))
    assert "\n" not in line
    assert list(json.loads(line)) == list(KEYS)
    again = parse_row(line.encode())
    assert (again.id, again.speaker) == (id, speaker)
    assert again.tokens.codes.dtype == torch.int64
    assert again.tokens.codes.tolist() == codes
    assert format_row(again) == line


def test_codes_may_be_loaded_separately_as_any_integer_type() -> None:
    line = json.dumps({key: value for key, value in ROW.items() if key != "codes"}).encode()
    for kind in (np.uint8, np.int16, np.uint32, np.int64):
        row = parse_row(line, lambda key, id, kind=kind: np.array([3, 0, 200], dtype=kind))
        assert row.tokens.codes.dtype == torch.int64
        assert row.tokens.codes.tolist() == [3, 0, 200]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 3}, "id must be a non-empty string, got 3"),
        ({"id": "../a"}, "usable as a file name, got '../a'"),
        ({"id": "a\x00"}, "usable as a file name"),
        ({"id": ".."}, "usable as a file name"),
        ({"speaker": 3}, "speaker must be a string or null, got 3"),
        ({"speaker": ""}, "speaker of 'a' is empty"),
        ({"codes": "abc"}, "codes must be a list of integers"),
        ({"codes": [1, 2.0, 3]}, "codes must be a list of integers"),
        ({"codes": [1, True, 3]}, "codes must be a list of integers"),
        ({"codes": [1, -2, 3]}, r"codes must lie in 0..2147483647, got -2..3"),
        ({"codes": [1, 2, 10**30]}, "codes must lie in 0..2147483647"),
        ({"codes": [1, 2]}, "20 samples at 8 samples per code .* 3 codes, got 2"),
        ({"num_samples": 20.0}, "num_samples must be an integer, got 20.0"),
        ({"num_samples": True}, "num_samples must be an integer"),
        ({"hop": 0}, "must all be at least 1"),
        ({"model": None}, "model must be a non-empty string"),
        ({"model": "\ud800"}, "model must be Unicode text"),
        ({"speaker": "\ud800"}, "speaker must be Unicode text"),
    ],
)
def test_invalid_rows_are_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        parse_row(json.dumps(ROW | change).encode())


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key) -> None:
    line = json.dumps({name: value for name, value in ROW.items() if name != key}).encode()
    with pytest.raises(ValueError, match=f"missing {key}; a row needs id, speaker, codes"):
        parse_row(line)


@pytest.mark.parametrize(
    ("line", "message"),
    [(b"hello", "not JSON"), (b"[1]", "must be a JSON object, got list"), (b'{"id": "\xff"}', "not UTF-8")],
)
def test_lines_that_are_not_rows_are_refused(line, message) -> None:
    with pytest.raises(ValueError, match=message):
        parse_row(line)


@given(st.text())
def test_any_text_becomes_a_file_name(text) -> None:
    name = file_name(text)
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\\0\n")
    assert file_name(name) == name
