"""egs/gpu/run.sh: every stage with tiny settings on a CPU, with nothing installed but what it says that it needs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from vqaudio import load_model
from vqaudio.data.manifest import read_manifest
from vqaudio.data.packed import pack
from vqaudio.training import checkpoint
from vqaudio.training.metrics_file import read_metrics

ROOT = Path(__file__).parents[1]
RUN = ROOT / "egs/gpu/run.sh"
NEEDED = ["torch", "accelerate", "einops", "safetensors", "tqdm", "pyyaml", "numpy", "scipy", "librosa", "soundfile"]
NEEDED += ["soxr", "tyro", "filelock", "pytest"]
LAZY = {"scikit-learn"}  # librosa names it and imports it in functions that are not called here
BLOCKER = '''
"""All distributions but some are absent, as if they had not been installed."""
import sys
from importlib.machinery import PathFinder
from importlib.metadata import DistributionFinder

ABSENT, DISTRIBUTIONS = {absent!r}, {distributions!r}


class Present(PathFinder):
    @staticmethod
    def find_distributions(context=DistributionFinder.Context()):
        return (each for each in PathFinder.find_distributions(context) if each.name not in DISTRIBUTIONS)

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] in ABSENT:
            return None
        return PathFinder.find_spec(fullname, path, target)


sys.meta_path[:] = [Present if finder is PathFinder else finder for finder in sys.meta_path]
'''


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", ROOT / f"egs/gpu/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as --data expects it: 12 utterances of two speakers in Opus, 60 images."""
    folder = tmp_path_factory.mktemp("data")
    corpus = folder / "speech_opus"
    for name, source, count in (("few", "train", 6), ("more", "test", 2), ("valid", "valid", 4)):
        rows = []
        for number, utterance in enumerate(read_manifest(ROOT / f"egs/mini/{source}.jsonl")[:count]):
            wav, rate = soundfile.read(utterance.path)
            path = corpus / name / f"{number}.ogg"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wav, rate, format="OGG", subtype="OPUS")
            rows.append({"id": f"{source}{number}", "speaker": "ab"[number % 2], "seconds": utterance.seconds})
            rows[-1]["path"] = str(path.relative_to(corpus))
        (corpus / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}_{what}": values
        for part, count in (("train", 40), ("test", 20))
        for what, values in (
            ("images", rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)),
            ("labels", np.arange(count, dtype=np.uint8) % 2),
        )
    }
    np.savez(folder / "cifar10_lossless.npz", allow_pickle=False, **arrays, class_names=np.array(["cat", "dog"]))
    return folder


# --- nothing installed but what is needed ---


def _required(names: list[str]) -> set[str]:
    """Distributions and all that they require, extras aside, by normalised names."""
    found: set[str] = set()
    waiting = [_normal(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found or name in LAZY:
            continue
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system
            continue
        found.add(name)
        plain = [line for line in requirements if "extra ==" not in line]
        waiting += [_normal(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in plain]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment of processes in which all other distributions are absent, and the compiled kernels too."""
    allowed = _required(NEEDED)
    absent = {
        top
        for top, distributions in metadata.packages_distributions().items()
        if not {_normal(name) for name in distributions} & allowed
    } - {*sys.stdlib_module_names, "vqaudio"}
    assert {"sklearn", "torchaudio"} <= absent
    others = {each.name for each in metadata.distributions() if _normal(each.name) not in allowed}
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(BLOCKER.format(absent=absent, distributions=others))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "ACCELERATE_"))}
    settings = {"PYTHONPATH": str(folder), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "VQAUDIO_KERNELS": "off"}
    return {**kept, **settings}


def _run(
    stage: str, data: Path, out: Path, tmp_path: Path, environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """The script, from an empty folder, with an empty home."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir(exist_ok=True)
    command = ["bash", str(RUN), "--stage", stage, "--stop-stage", stage, "--data", str(data), "--out", str(out)]
    command += ["--device", "cpu", "--tiny", "--seconds", "900", *arguments]
    environment = {**environment, "HOME": str(tmp_path / "home")}
    return subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)


STAGES = {
    "test": ["test.txt"],
    "bench": ["bench.json", "bench.md"],
    "speech": ["speech/model/config.json", "speech/model/model.safetensors", "speech/wavenet.metrics.jsonl"],
    "images": ["images/figures.json", "images/figures.md", "images/prior.metrics.jsonl"],
}


@pytest.mark.long
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_with_what_it_needs_and_writes_to_its_folder_alone(
    stage: str, data: Path, bare: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = _run(stage, data, out, tmp_path, bare)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all((out / name).exists() for name in STAGES[stage]), done.stdout + done.stderr
    assert not [*(tmp_path / "here").iterdir(), *(tmp_path / "home").iterdir()]
    written = {path.relative_to(out).parts[0] for path in out.rglob("*")}
    assert written == {Path(name).parts[0] for name in STAGES[stage]} | {"work"}
    again = _run(stage, data, out, tmp_path, bare)  # finished: nothing is trained or measured again
    assert again.returncode == 0, again.stdout + again.stderr
    assert "training on" not in again.stdout + again.stderr
    if stage == "bench":
        rows = [row for group in json.loads((out / "bench.json").read_text())["groups"].values() for row in group]
        missing = [row["note"] for row in rows if row["rtf"] is None]
        assert missing == ["transformers is not installed"], rows
    elif stage == "speech":
        model = load_model(out / "speech/model")
        assert set(model.vocoders) == {"istft", "wavenet", "griffin-lim"}
        codes = load_model(out / "work/speech/codes")
        assert codes.fingerprint == model.fingerprint, "half precision is for the other parts"
    elif stage == "images":
        figures = json.loads((out / "images/figures.json").read_text())
        assert set(figures) == {"vae", "vqvae", "vimco", "prior"}
        assert all(5 < of["bits_per_dim"] < 12 for of in figures.values())


@pytest.mark.long
def test_a_stage_whose_time_is_over_says_how_to_continue(data: Path, bare: dict[str, str], tmp_path: Path) -> None:
    done = _run("images", data, tmp_path / "out", tmp_path, bare, "--seconds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the time of stage images is over; the same command continues it" in done.stdout
    assert json.loads((tmp_path / "out/images/figures.json").read_text()) == {}


def test_other_distributions_are_absent_in_these_tests(bare: dict[str, str]) -> None:
    code = "import importlib.util as u, sys; print([u.find_spec(n) is None for n in sys.argv[1:]])"
    names = ["sklearn", "torchaudio", "torch", "yaml"]
    done = subprocess.run([sys.executable, "-c", code, *names], env=bare, capture_output=True, text=True)
    assert done.stdout.strip() == "[True, True, False, False]", done.stderr


# --- the parts ---


def test_decoded_speech_is_packed_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    decode = _script("decode")
    decode.decode_corpus(data / "speech_opus", tmp_path / "audio", 2)
    for split in ("train", "valid"):
        names = ["few", "more"] if split == "train" else ["valid"]
        sources = [u for name in names for u in read_manifest(data / f"speech_opus/{name}.jsonl")]
        decoded = read_manifest(tmp_path / f"audio/{split}.jsonl")
        assert [u.path.parent for u in decoded] == [tmp_path / "audio"] * len(sources)
        before, after = (pack(us, tmp_path / f"packed-{i}", 16000) for i, us in enumerate((sources, decoded)))
        assert before.content_hash() == after.content_hash()
    (tmp_path / "audio/mark").touch()
    decode.decode_corpus(data / "speech_opus", tmp_path / "audio", 2)
    assert (tmp_path / "audio/mark").exists(), "it was decoded twice"


def test_a_file_that_cannot_be_decoded_is_named_and_nothing_is_left(data: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "broken.ogg").write_bytes(b"OggS and no more")
    for name in ("train", "valid"):
        (corpus / f"{name}.jsonl").write_text('{"id": "a", "path": "broken.ogg", "speaker": "b", "seconds": 1}\n')
    with pytest.raises(ValueError, match=r"broken\.ogg"):
        _script("decode").decode_corpus(corpus, tmp_path / "audio", 1)
    assert not (tmp_path / "audio").exists()


def test_the_number_of_steps_is_what_the_budget_holds() -> None:
    steps_for = _script("timed").steps_for
    speeds = [(1, 0.1), (25, 3.0), (50, 9.0), (75, 10.0), (100, 20.0)]
    rows = [{"kind": "train", "step": step, "steps_per_second": speed} for step, speed in speeds]
    assert steps_for([*rows, {"kind": "valid", "step": 100}], 100, 30.0) == 300
    assert steps_for(rows, 100, 0.1) > 100, "the learning rate decays in a short run too"
    with pytest.raises(ValueError, match="no speed was logged in 100 steps"):
        steps_for(rows[:2], 100, 30.0)


@pytest.mark.long
def test_a_run_ends_in_time_with_a_checkpoint_and_the_same_command_continues_it(tmp_path: Path) -> None:
    """The deadline is SIGTERM to itself, which comes from outside here, once it trains."""
    flags = ["--crops.samples", "1024", "--crops.batch_size", "2", "--model.encoder.dim", "8", "--model.quantizer.dim"]
    flags += ["8", "--model.decoder.layers", "2", "--model.decoder.layers_per_stack", "2", "--fit.log_every", "1"]
    command = [sys.executable, str(ROOT / "egs/gpu/timed.py"), str(ROOT / "recipes/train.py")]
    command += [str(ROOT / "egs/mini/conf/mini.yaml"), "--out", str(tmp_path / "run"), "--first", "4"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}

    def started(budget: str) -> subprocess.Popen[str]:
        arguments = [*command, "--budget", budget, "--deadline", "600", "--", *flags]
        return subprocess.Popen(arguments, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    process, log = started("100000"), tmp_path / "run/metrics.jsonl"
    while not (log.exists() and any(row["step"] > 4 for row in read_metrics(log))):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3, output
    stopped = int(checkpoint.complete(tmp_path / "run/checkpoints")[-1].name)
    assert stopped > 4 and not (tmp_path / "run/finished").exists()
    steps = json.loads((tmp_path / "run/steps.json").read_text())
    (tmp_path / "run/steps.json").write_text(json.dumps({**steps, "steps": stopped + 3}))
    process = started("100000")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "resuming from" in output, output
    assert checkpoint.complete(tmp_path / "run/checkpoints")[-1].name == f"{stopped + 3:08d}"
    process = started("100000")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "resuming" not in output, "it is finished"


def test_no_time_is_no_run(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "egs/gpu/timed.py"), "recipes/train.py", "none.yaml", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--budget", "1", "--deadline", "0"], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 3


def test_results_have_their_limits(tmp_path: Path) -> None:
    results = _script("results")
    for name, size in (("work/checkpoint", 10**4), ("speech/model", 100), ("bench.json", 50)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    results.check(tmp_path, 100, 150)
    with pytest.raises(ValueError, match=r"speech/model has 100 bytes, more than 99"):
        results.check(tmp_path, 99, 150)
    with pytest.raises(ValueError, match="have 150 bytes, more than 149"):
        results.check(tmp_path, 100, 149)


def test_the_table_relates_each_figure_to_the_first_of_its_kind() -> None:
    bench = _script("bench")
    groups = {
        "decoding-ring": [bench.Row("decoding-ring", 1, 0.5), bench.Row("decoding-ring", 64, 8.0)],
        "decoding-graph": [bench.Row("decoding-graph", 1, 2.0), bench.Row("decoding-graph", 64, 20.0)],
        "decoding-fused": [bench.Row("decoding-fused", 0, None, "no a|b")],
    }
    rows = {name: [row._asdict() for row in found] for name, found in groups.items()}
    facts = {"name": "some GPU", "device": "cuda", "torch": "2.11"}
    lines = bench.table({"machine": facts, "sizes": {"tiny": False}, "groups": rows}).splitlines()
    assert lines[0] == "some GPU (cuda), torch 2.11"
    assert lines[-3:] == [
        "| decoding with `base`, CUDA graph | 1 | 2 | 4 | |",
        "| decoding with `base`, CUDA graph | 64 | 20 | 2.5 | |",
        "| decoding with `base`, fused kernel, float32 | | | | no a/b |",
    ]


@pytest.mark.parametrize("group", ["tokenizing", "tokenizing-many", "tokenizing-files"])
def test_tokenizing_is_measured_with_and_without_files(group: str) -> None:
    bench = _script("bench")
    (row,), complete = bench.run_group(group, bench.TINY, "cpu", 600.0)
    assert complete and row.rtf > 0 and (row.group, row.size) == (group, 1 if group == "tokenizing" else 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a failure for want of a GPU")
def test_a_measurement_that_fails_is_a_row_with_the_reason_and_one_without_time_is_not_done() -> None:
    bench = _script("bench")
    (row,), complete = bench.run_group("decoding-ring", bench.TINY, "cuda", 600.0)
    assert complete and row.rtf is None and re.search("NVIDIA|CUDA", row.note)
    assert bench.run_group("decoding-ring", bench.TINY, "cpu", 0.01) == ([], False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "sing"], "stages must lie in 0 to 3"),
        (["--stage", "images", "--stop-stage", "test"], "--stage at most --stop-stage; got --stage 3 --stop-stage 0"),
        (["--seconds", "1h"], "--seconds must be a whole number above 0, got 1h"),
        (["--tiny", "--device", "tpu"], "--device must be auto, cuda or cpu, got tpu"),
        (["--minutes", "7"], "unknown option --minutes"),
    ],
)
def test_wrong_options_are_explained(arguments: list[str], message: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", str(RUN), "--out", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert message in done.stderr
