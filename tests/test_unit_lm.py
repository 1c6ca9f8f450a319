"""The commands and the program of docs/tutorials/unit_lm.md work as they are printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vqaudio.cli.main import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/tutorials/unit_lm.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- run by tests/test_unit_lm.py -->\n```(bash|python)\n(.*?)```", PAGE, re.DOTALL))


def test_a_unit_language_model_learns_and_speaks(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "egs").symlink_to(ROOT / "egs")
    monkeypatch.chdir(tmp_path)
    for command in BLOCKS["bash"].replace("egs/mini/wav16 ", "egs/mini/wav16/flite_slt ").splitlines():
        verb, *arguments = shlex.split(command)
        assert verb == "vqaudio" and main(arguments) == 0
    assert "codes         " in capsys.readouterr().out
    names: dict = {}
    exec(compile(BLOCKS["python"], "unit_lm.md", "exec"), names)
    first, last = names["losses"][0], names["losses"][-1]
    assert 7.2 < first < 7.9 and last < first - 0.5  # ln 2049 = 7.63
    assert len(names["wav"]) == 50 * names["model"].hop
