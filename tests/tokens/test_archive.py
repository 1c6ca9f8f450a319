"""Packed rows are restored exactly, or the archive is refused with an explanation."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from vqaudio.kernels.library import kernels, runnable, why_missing
from vqaudio.kernels.wavenet import CompiledState
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.prior import CodePrior, CodePriorConfig
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens import archive
from vqaudio.tokens.archive import archive_facts, pack, unpack
from vqaudio.tokens.archive_format import read_archive, write_archive
from vqaudio.tokens.rows import TokenRow, format_row

K, HOP, MODEL = 24, 8, "0123456789ab"
NET = WaveNetConfig(
    num_classes=K, layers=4, layers_per_stack=3, residual_channels=6, skip_channels=8, cond_hidden_channels=4
)
needs_kernels = pytest.mark.skipif(kernels() is None, reason=why_missing())


@pytest.fixture(scope="module")
def make_prior(randomise: Callable[..., nn.Module]) -> Callable[..., CodePrior]:
    """(seed, speakers) -> a prior with very unequal probabilities."""

    def make(seed: int = 0, speakers: tuple[str, ...] = ("anna", "bert")) -> CodePrior:
        made = CodePrior(CodePriorConfig(speakers=speakers, model=MODEL, net=NET))
        cast(CodePrior, randomise(made, seed)).net.out.weight.data *= 8
        return made.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="module")
def prior(make_prior: Callable[..., CodePrior]) -> CodePrior:
    return make_prior()


def _row(id: str, speaker: str | None, codes: list[int] | torch.Tensor, hop: int = HOP) -> TokenRow:
    tensor = torch.as_tensor(codes)
    return TokenRow(id, speaker, Tokens(tensor, len(tensor) * hop - 3, 16000, hop, MODEL))


@pytest.fixture
def rows() -> list[TokenRow]:
    """Rows of several speakers and lengths, including length 1."""
    rng = np.random.default_rng(0)
    speakers = ["anna", None, "bert", "zoe", "anna", "bert"]
    sizes = (40, 1, 77, 3, 40, 12)
    return [
        _row(f"u{i} ü", s, rng.integers(K, size=n).tolist())
        for i, (s, n) in enumerate(zip(speakers, sizes, strict=True))
    ]


def _lines(rows) -> list[str]:
    return [format_row(row) for row in rows]


def _entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def packed(tmp_path: Path, rows, prior) -> Path:
    pack(rows, tmp_path / "t.vqa", prior)
    return tmp_path / "t.vqa"


# unpacked rows


SEQUENCES = st.lists(
    st.tuples(st.sampled_from(["anna", "bert", "zoe", None]), st.lists(st.integers(0, K - 1), min_size=1, max_size=90)),
    min_size=1,
    max_size=9,
)


@needs_kernels
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequences=SEQUENCES, streams=st.integers(1, 5), at_once=st.sampled_from([1, 5000, 2**21]), known=st.booleans())
def test_any_rows_come_back(tmp_path, make_prior, monkeypatch, sequences, streams, at_once, known) -> None:
    monkeypatch.setattr(archive, "STREAMS", streams)
    monkeypatch.setattr("vqaudio.tokens.archive_coding.LOGITS_AT_ONCE", at_once)
    prior = make_prior(speakers=("anna", "bert") if known else ())
    given_rows = [_row(f"u{i}", speaker, codes) for i, (speaker, codes) in enumerate(sequences)]
    progress: list[int] = []
    facts = pack(given_rows, tmp_path / "t.vqa", prior, overwrite=True, advance=progress.append)
    assert _lines(unpack(read_archive(tmp_path / "t.vqa"), prior, advance=progress.append)) == _lines(given_rows)
    assert facts == archive_facts(read_archive(tmp_path / "t.vqa"))
    assert facts.num_codes == sum(len(codes) for _, codes in sequences) == sum(progress) / 2
    assert facts.header_bytes + facts.payload_bytes == (tmp_path / "t.vqa").stat().st_size
    assert facts.fixed_bits == 5 * facts.num_codes


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequences=SEQUENCES, largest=st.sampled_from([0, 1, 2, 23, 511, 2**31 - 1]))
def test_any_rows_come_back_without_a_prior(tmp_path, sequences, largest) -> None:
    given_rows = [_row(f"u{i}", s, [min(c, largest) for c in codes]) for i, (s, codes) in enumerate(sequences)]
    given_rows.append(_row("the largest", None, [largest]))
    facts = pack(given_rows, tmp_path / "t.vqa", overwrite=True)
    assert _lines(unpack(read_archive(tmp_path / "t.vqa"))) == _lines(given_rows)
    assert facts.payload_bytes == math.ceil(largest.bit_length() * facts.num_codes / 8)
    assert facts.fixed_bits == facts.ideal_bits == largest.bit_length() * facts.num_codes


@needs_kernels
def test_threads_change_nothing(tmp_path, rows, prior) -> None:
    pack(rows, tmp_path / "1.vqa", prior, threads=1)
    pack(rows, tmp_path / "2.vqa", prior, threads=2)
    assert (tmp_path / "1.vqa").read_bytes() == (tmp_path / "2.vqa").read_bytes()
    for threads in (1, 2):
        assert _lines(unpack(read_archive(tmp_path / "2.vqa"), prior, threads=threads)) == _lines(rows)


@needs_kernels
def test_the_order_of_rows_is_kept_and_does_not_change_the_size(tmp_path, rows, prior) -> None:
    for name, ordered in (("a", rows), ("b", rows[::-1])):
        pack(ordered, tmp_path / f"{name}.vqa", prior)
        assert _lines(unpack(read_archive(tmp_path / f"{name}.vqa"), prior)) == _lines(ordered)
    assert read_archive(tmp_path / "a.vqa").payload == read_archive(tmp_path / "b.vqa").payload


@needs_kernels
@pytest.mark.parametrize("variant", runnable())
def test_an_archive_is_unpacked_with_the_kernels_that_packed_it(tmp_path, rows, prior, monkeypatch, variant) -> None:
    monkeypatch.setattr(archive, "kernels", lambda: archive.load(variant))
    pack(rows, tmp_path / "t.vqa", prior)
    monkeypatch.undo()
    coding = read_archive(tmp_path / "t.vqa").header.coding
    assert coding is not None and coding.kernels == variant
    assert _lines(unpack(read_archive(tmp_path / "t.vqa"), prior)) == _lines(rows)


# size


@needs_kernels
def test_the_size_is_the_likelihood(tmp_path, prior) -> None:
    sampled = prior.sample(1500, ["anna", None, "bert"], generator=torch.Generator().manual_seed(0))
    rows = [_row(f"u{i}", s, codes) for i, (s, codes) in enumerate(zip(("anna", "zoe", "bert"), sampled, strict=True))]
    facts = pack(rows, tmp_path / "t.vqa", prior)
    nats = prior.nll(sampled, prior.speaker_ids(["anna", None, "bert"]), torch.full((3,), 1500)).double().sum()
    bits = nats.item() / math.log(2)
    assert facts.ideal_bits == pytest.approx(bits, rel=1e-4)
    assert bits < 0.8 * facts.fixed_bits  # the distribution is skewed, so the comparison is meaningful
    assert 0.999 * bits < 8 * facts.payload_bytes < 1.01 * bits
    assert facts.header_bytes < 400
    assert facts.payload_rate == pytest.approx(8 * facts.payload_bytes / facts.seconds)
    assert facts.total_rate == pytest.approx(8 * (tmp_path / "t.vqa").stat().st_size / facts.seconds)


# refused archives and rows


@needs_kernels
def test_another_prior_is_refused(tmp_path, rows, packed, prior, make_prior) -> None:
    other = make_prior(seed=1)
    names = f"{prior.fingerprint}, but {other.fingerprint} is given"
    with pytest.raises(ValueError, match=f"cannot unpack .* packed with the prior {names}"):
        unpack(read_archive(packed), other)
    with pytest.raises(ValueError, match=f"the prior {prior.fingerprint}, and none is given; pass --prior"):
        unpack(read_archive(packed))
    pack(rows, tmp_path / "fixed.vqa")
    with pytest.raises(ValueError, match="packed without a prior; omit --prior"):
        unpack(read_archive(tmp_path / "fixed.vqa"), prior)


@needs_kernels
@pytest.mark.parametrize("change", [{"kernels": "neon"}, {"machine": "aarch64"}])
def test_kernels_of_another_machine_are_refused(tmp_path, packed, prior, change) -> None:
    original = read_archive(packed)
    assert original.header.coding is not None
    header = replace(original.header, coding=replace(original.header.coding, **change))
    write_archive(tmp_path / "other.vqa", header, original.payload, overwrite=False)
    with pytest.raises(ValueError, match=r"kernels (neon|\w+ for aarch64).* unpack it on a machine of the kind"):
        unpack(read_archive(tmp_path / "other.vqa"), prior)


@needs_kernels
def test_kernels_that_compute_other_logits_are_detected(packed, prior, monkeypatch) -> None:
    """Another compiler could cause this; it is detected at the end, when all codes have been decoded."""
    honest = CompiledState.extend

    def other(self: CompiledState, *args: Any, logits: torch.Tensor, **options: Any) -> torch.Tensor:
        chosen = honest(self, *args, logits=logits, **options)
        logits[..., 0] += 0.01
        return chosen

    monkeypatch.setattr(CompiledState, "extend", other)
    with pytest.raises(ValueError, match="the decoded codes differ from the packed ones: the compiled kernels"):
        unpack(read_archive(packed), prior)


@needs_kernels
def test_an_impossible_payload_is_refused(tmp_path, packed, prior) -> None:
    original = read_archive(packed)
    write_archive(tmp_path / "full.vqa", original.header, b"\xff" * 40, overwrite=False)
    with pytest.raises(ValueError, match="the payload is not valid under the prior's probabilities"):
        unpack(read_archive(tmp_path / "full.vqa"), prior)


def test_without_compiled_kernels_a_prior_is_refused(tmp_path, rows, prior, monkeypatch) -> None:
    monkeypatch.setattr(archive, "kernels", lambda: None)
    with pytest.raises(
        ValueError, match=r"need bit-exact probabilities from the compiled kernels, and .* pack without a prior"
    ):
        pack(rows, tmp_path / "t.vqa", prior)
    assert _entries(tmp_path) == []
    pack(rows, tmp_path / "t.vqa")
    assert _lines(unpack(read_archive(tmp_path / "t.vqa"))) == _lines(rows)


@needs_kernels
def test_without_constriction_a_prior_is_refused(tmp_path, rows, packed, prior, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vqaudio\[archive\]'"):
        unpack(read_archive(packed), prior)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vqaudio\[archive\]'"):
        pack(rows, tmp_path / "u.vqa", prior)
    pack(rows, tmp_path / "fixed.vqa")
    assert _lines(unpack(read_archive(tmp_path / "fixed.vqa"))) == _lines(rows)
    assert _entries(tmp_path) == ["fixed.vqa", "t.vqa"]


def test_rows_that_cannot_be_packed_leave_no_file(tmp_path, rows, prior) -> None:
    def refused(
        message: str,
        given_rows,
        name: str = "t.vqa",
        over: CodePrior | None = None,
        error: type[Exception] = ValueError,
    ) -> None:
        with pytest.raises(error, match=message):
            pack(given_rows, tmp_path / name, over)
        assert _entries(tmp_path) == []

    def failing():
        yield from rows
        raise RuntimeError("the 7th cannot be made")

    refused("no utterances", [])
    refused("id 'u0 ü' occurs twice", [*rows, rows[0]])
    refused("'x' has hop 16, but 'u0 ü' has 8", [*rows, _row("x", None, [1], hop=16)])
    refused(r"must be named NAME\.vqa", rows, name="t.jsonl")
    refused("the 7th", failing(), error=RuntimeError)
    refused("does not exist; make it first", rows, name="missing/t.vqa", error=FileNotFoundError)
    if kernels() is not None:
        refused(r"'x' has code 24, but the prior's codes are 0\.\.23", [*rows, _row("x", None, [K])], over=prior)
    refused("archives need a float32 prior on the CPU, but it is torch.float64", rows, over=_double(prior))
    foreign = replace(rows[0], tokens=replace(rows[0].tokens, model="other"))
    refused(
        "the prior was trained on codes of model 0123456789ab, but these are codes of model other",
        [foreign],
        over=prior,
    )


def _double(prior: CodePrior) -> CodePrior:
    return CodePrior(prior.cfg).double()


def test_an_existing_archive_is_replaced_only_on_request(tmp_path, rows) -> None:
    pack(rows, tmp_path / "t.vqa")
    before = (tmp_path / "t.vqa").read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        pack(rows[:1], tmp_path / "t.vqa")
    assert (tmp_path / "t.vqa").read_bytes() == before
    pack(rows[:1], tmp_path / "t.vqa", overwrite=True)
    assert _lines(unpack(read_archive(tmp_path / "t.vqa"))) == _lines(rows[:1])
    assert _entries(tmp_path) == ["t.vqa"]
