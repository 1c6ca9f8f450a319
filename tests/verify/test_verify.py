"""`vqaudio verify` passes where everything is in order, and names what is damaged."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from vqaudio.checkpoint import shipped_models
from vqaudio.kernels import library
from vqaudio.verify.checks import Check, NotCheckedError, run_checks

Verify = Callable[..., tuple[int, dict[str, str], str]]
PACKAGE = Path(library.__file__).parents[1]
EXAMPLE = Path(__file__).parents[2] / "egs/mini/wav16/flite_slt/flite_slt_012.flac"
needs_kernels = pytest.mark.skipif(library.kernels() is None, reason=library.why_missing())
OF_KERNELS = ("kernels load", "nearest-code kernel = reference", "WaveNet kernel = reference")


def _broken(marks: dict[str, str]) -> set[str]:
    return {title for title, mark in marks.items() if mark == "✗"}


# --- sound installations ---


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_models())
def test_the_shipped_models_pass(verify: Verify, name: str) -> None:
    code, marks, err = verify(name, "--audio", EXAMPLE)
    assert (code, err, _broken(marks)) == (0, "", set())
    assert marks["golden tokens"] == "✓"


def test_a_sound_installation_passes(verify: Verify, installed: Path) -> None:
    code, marks, err = verify(installed, "--audio", EXAMPLE)
    assert (code, err, _broken(marks)) == (0, "", set())
    assert {title for title, mark in marks.items() if mark == "-"} <= set(OF_KERNELS)
    assert len(marks) == 10


def test_a_model_without_golden_tokens_passes(verify: Verify, tiny_model_dir: Path) -> None:
    code, marks, _ = verify(tiny_model_dir)
    assert (code, marks["golden tokens"]) == (0, "-")


@pytest.mark.long
def test_a_model_with_a_context_network_and_a_spectrum_passes(verify: Verify, spectrum_model, tmp_path: Path) -> None:
    from vqaudio import save_model

    save_model(spectrum_model, tmp_path / "model")
    code, marks, err = verify(tmp_path / "model")
    assert (code, err, _broken(marks)) == (0, "", set())


def test_terminals_without_check_marks(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vqaudio.cli.verify import _row
    from vqaudio.verify.checks import Outcome

    class Latin1:
        encoding = "latin-1"

    monkeypatch.setattr("sys.stdout", Latin1())
    assert _row(Outcome("fingerprint", "failed", "why", 1.5)) == f"FAILED {'fingerprint':<32}   1.50 s"


# --- damaged installations ---


def test_a_changed_weight(verify: Verify, installed: Path) -> None:
    path = installed / "model.safetensors"
    weights = load_file(path)
    weights["encoder.out.weight"][0, 0] += 0.25
    save_file(weights, path)
    code, marks, err = verify(installed)
    assert (code, _broken(marks)) == (1, {"golden tokens"})
    assert err.startswith("error: golden tokens: ") and "the one that was shipped" in err


def test_a_changed_configuration(verify: Verify, installed: Path) -> None:
    path = installed / "config.json"
    facts = json.loads(path.read_text())
    facts["config"]["encoder"]["lookahead"] += 8
    path.write_text(json.dumps(facts))
    code, marks, _ = verify(installed)
    assert (code, _broken(marks)) == (1, {"golden tokens"})


def test_wrong_golden_tokens(verify: Verify, installed: Path) -> None:
    path = installed / "golden.jsonl"
    first, second = map(json.loads, path.read_text().splitlines())
    second["codes"][10:20] = [(code + 1) % 16 for code in second["codes"][10:20]]
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    code, marks, err = verify(installed)
    assert (code, _broken(marks)) == (1, {"golden tokens"})
    assert err == f"error: golden tokens: b: 10 of 226 codes are not those of {path}\n"


def test_another_recording_in_place_of_an_example(verify: Verify, installed: Path) -> None:
    soundfile.write(installed / "examples" / "a_original.flac", torch.zeros(4000).numpy(), 16000)
    code, marks, _ = verify(installed)
    assert (code, _broken(marks)) == (1, {"golden tokens"})


def test_an_example_that_is_no_audio(verify: Verify, installed: Path) -> None:
    (installed / "examples" / "b_original.flac").write_bytes(b"no audio")
    code, marks, err = verify(installed)
    assert (code, _broken(marks), len(marks)) == (1, {"golden tokens"}, 10)
    assert "b_original.flac" in err


def test_truncated_weights(verify: Verify, installed: Path) -> None:
    path = installed / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    code, marks, err = verify(installed)
    assert (code, marks) == (1, {})
    assert "is damaged" in err


def test_all_that_is_broken_is_named(verify: Verify, installed: Path, tmp_path: Path) -> None:
    (installed / "examples" / "a_original.flac").unlink()
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    code, marks, err = verify(installed, "--audio", bad, EXAMPLE)
    assert (code, _broken(marks)) == (1, {"golden tokens"})
    assert str(bad) in err.splitlines()[0] and "a_original.flac" in err.splitlines()[1]
    assert len(err.splitlines()) == 2


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The generic kernels are the only ones; a test may damage the file before they are used."""
    here = tmp_path / "kernels"
    here.mkdir()
    original = library._path("generic")
    shutil.copyfile(original, here / original.name)
    monkeypatch.setattr(library, "__file__", str(here / "library.py"))
    monkeypatch.delenv(library.VARIABLE, raising=False)
    cached = (library.kernels, library.runnable, library.load)
    for function in cached:
        function.cache_clear()
    yield here / original.name
    for function in cached:
        function.cache_clear()


def _return_at_once(path: Path, function: str) -> None:
    """Overwrites the machine code of a function of a library: it returns 0 and does nothing."""
    intact = ctypes.CDLL(str(shutil.copyfile(path, path.with_suffix(".intact"))))
    address = ctypes.cast(getattr(intact, function), ctypes.c_void_p).value
    assert address
    code, content = ctypes.string_at(address, 64), path.read_bytes()
    assert content.count(code) == 1
    path.write_bytes(content.replace(code, b"\x31\xc0\xc3" + code[3:]))  # xor eax, eax; ret


on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="writes x86-64 machine code")


@needs_kernels
@on_x86
@pytest.mark.parametrize(
    ("function", "title"),
    [("vq_nearest", "nearest-code kernel = reference"), ("vq_streams_extend", "WaveNet kernel = reference")],
)
def test_a_kernel_that_computes_something_else(
    verify: Verify, installed: Path, kernels: Path, function: str, title: str
) -> None:
    _return_at_once(kernels, function)
    code, marks, err = verify(installed)
    assert (code, marks["kernels load"]) == (1, "✓")
    assert title in _broken(marks)
    assert f"error: {title}: " in err and "install vqaudio again" in err


@needs_kernels
def test_a_kernel_library_that_cannot_be_loaded(verify: Verify, installed: Path, kernels: Path) -> None:
    (kernels.parent / kernels.name.replace("generic", "avx2")).write_bytes(b"not a library")
    code, marks, err = verify(installed)
    if library.load("generic").functions.vq_best_variant() == b"generic":
        assert code == 0  # this machine would not use it
        return
    assert (code, _broken(marks)) == (1, {"kernels load"})
    assert "avx2 cannot be loaded" in err


def _change_weight(package: Path) -> None:
    path = package / "pretrained/mini/model.safetensors"
    weights = load_file(path)
    weights["quantizer.codebook"][7] += 0.01
    save_file(weights, path)


def _change_golden_tokens(package: Path) -> None:
    path = package / "pretrained/mini/golden.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["codes"] = rows[1]["codes"][::-1]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _change_front_end(package: Path) -> None:
    path = package / "nn/log_mel.py"
    text = path.read_text()
    assert "FLOOR = 1e-10" in text
    path.write_text(text.replace("FLOOR = 1e-10", "FLOOR = 1e-6"))


def _damage_kernels(package: Path, function: str) -> None:
    for path in package.glob("kernels/_kernels_*.so"):
        _return_at_once(path, function)


def _truncate_kernels(package: Path) -> None:
    for path in package.glob("kernels/_kernels_*.so"):
        path.write_bytes(b"not a library")


@pytest.mark.long
@needs_kernels
@on_x86
@pytest.mark.parametrize(
    ("damage", "title"),
    [
        (_change_weight, "golden tokens"),
        (_change_golden_tokens, "golden tokens"),
        (_change_front_end, "golden tokens"),
        (partial(_damage_kernels, function="vq_nearest"), "nearest-code kernel = reference"),
        (partial(_damage_kernels, function="vq_streams_extend"), "WaveNet kernel = reference"),
        (_truncate_kernels, "kernels load"),
    ],
    ids=["weight", "golden", "front-end", "nearest", "wavenet", "library"],
)
def test_a_damaged_copy_of_the_package(tmp_path: Path, damage: Callable[[Path], None], title: str) -> None:
    package = shutil.copytree(PACKAGE, tmp_path / "vqaudio", ignore=shutil.ignore_patterns("__pycache__"))
    damage(package)
    done = subprocess.run(
        [sys.executable, "-m", "vqaudio", "verify", "mini", "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"error: {title}: " in done.stderr
    assert "Traceback" not in done.stderr


# --- wrong usage, and the checks themselves ---


def test_wrong_usage(verify: Verify, tmp_path: Path, installed: Path) -> None:
    for arguments in (["no_such_model"], [tmp_path], [installed, "--threads", 0]):
        code, marks, err = verify(*arguments)
        assert (code, marks) == (2, {}), arguments
        assert err


def test_one_failure_does_not_stop_the_others() -> None:
    def fails() -> str:
        raise RuntimeError("broken")

    def misses() -> str:
        raise ModuleNotFoundError("pip install it")

    def skips() -> str:
        raise NotCheckedError("not here")

    outcomes = list(run_checks([Check("a", fails), Check("b", skips), Check("c", lambda: "fine"), Check("d", misses)]))
    assert [(each.title, each.status, each.detail) for each in outcomes] == [
        ("a", "failed", "broken"),
        ("b", "skipped", "not here"),
        ("c", "passed", "fine"),
        ("d", "failed", "pip install it"),
    ]
