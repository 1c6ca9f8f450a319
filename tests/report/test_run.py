"""The report of a speech model: every task, on real audio with phones and texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, load_model, save_model
from vqaudio.cli.main import main
from vqaudio.data.crops import validation_batches
from vqaudio.data.manifest import read_manifest
from vqaudio.data.packed import pack
from vqaudio.metrics.conditioning_gap import conditioning_metrics
from vqaudio.nn.context import ContextConfig
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.frontend import LogMelConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.report import run
from vqaudio.report.systems import INVERTED, KMEANS, MODEL, ORIGINAL, RANDOM, conversion, reconstruction
from vqaudio.report.tasks import TASKS
from vqaudio.speech.vocoders import Vocoder
from vqaudio.training.health import VerdictName

EGS = Path(__file__).parents[2] / "egs/mini"
VOCODERS: tuple[Vocoder, ...] = ("griffin-lim", "wavenet")  # of the model below
DECODED = {kind(vocoder) for kind in (reconstruction, conversion) for vocoder in VOCODERS}


@pytest.fixture(scope="module")
def model(initialised: Callable[..., SpeechVQVAE]) -> SpeechVQVAE:
    """As small as the tiny model, with 50 codes per second and a spectrum head, so that a report takes seconds."""
    cfg = SpeechVQVAEConfig(
        speakers=("anna", "bert", "carl"),
        encoder=EncoderConfig(strides=(16, 20), channels=(6, 8), dilations=(1, 2), dim=4, lookahead=64),
        quantizer=VectorQuantizerConfig(codebook_size=16, dim=4),
        decoder=WaveNetConfig(
            num_classes=16, layers=3, layers_per_stack=3, residual_channels=6, skip_channels=8, cond_hidden_channels=8
        ),
        context=ContextConfig(dilations=(1,), channels=6),
        spectrum=LogMelConfig(n_mels=10, hop_length=160),
    )
    return initialised(cfg, samples=6400, peak=0.5)


@pytest.fixture(scope="module")
def model_dir(model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "quick"
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def data(model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory, write_manifest: Callable[..., None]) -> Path:
    """A prepared folder: synthetic speech with phone alignments, under the tiny model's speaker names."""
    folder, names = tmp_path_factory.mktemp("prepared") / "data", model.speakers
    folder.mkdir()
    for part, most in (("test", 6), ("train", 9)):
        own = [u for u in read_manifest(EGS / f"{part}.jsonl") if u.speaker.startswith("flite")]
        write_manifest(folder / f"{part}.jsonl", [replace(u, speaker=names[i % 3]) for i, u in enumerate(own[:most])])
    return folder


@pytest.fixture(scope="module")
def arguments(data: Path, model_dir: Path) -> list[str]:
    return [
        *("evaluate", "--model", str(model_dir), "--data", str(data), "--phones", str(EGS / "phones")),
        *("--phone-classes", "labels", "--decoded-utterances", "2", "--seed", "2"),
    ]


@pytest.fixture(scope="module")
def report(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks, computed once."""
    out = tmp_path_factory.mktemp("reports") / "report"
    assert main([*arguments, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def found(report: Path) -> dict:
    return json.loads((report / "report.json").read_text())


@pytest.mark.slow
def test_every_task_is_computed_for_every_system(found: dict) -> None:
    computed = {(row["task"], row["system"]) for row in found["metrics"]}
    codes = {MODEL, RANDOM, *KMEANS}
    of_codes = ("phones", "abx", *(task.key for task in TASKS if task.inputs == "codes"))
    expected = {(key, system) for key in of_codes for system in codes}
    expected |= {(key, system) for key in ("speaker_probe", "robustness") for system in codes - {RANDOM}} | {
        ("conditioning_gap", MODEL),
        ("bitrate", MODEL),
    }
    expected |= {("voice_conversion", audio) for audio in (ORIGINAL, *DECODED)}
    expected |= {(key, audio) for key in ("wer", "naturalness") for audio in (ORIGINAL, INVERTED, *DECODED)}
    assert computed == expected | {("signal", audio) for audio in (INVERTED, *map(reconstruction, VOCODERS))}
    increases = {(row["system"], row["metric"]): row["value"] for row in found["metrics"] if row["task"] == "wer"}
    for kind in (reconstruction, conversion):
        for system, name, less in (
            (kind("griffin-lim"), "wer_lost_by_codes", INVERTED),
            (kind("wavenet"), "wer_lost_by_wavenet", kind("griffin-lim")),
        ):
            assert increases[system, name] == pytest.approx(increases[system, "wer"] - increases[less, "wer"])
    assert found["intelligibility"]["level"] == "unintelligible"  # the model is not trained
    assert {own["task"] for own in found["missing"]} <= {"signal"}  # PESQ may be undefined for noise
    assert found["sets"] == [
        {"name": "data", "utterances": 6, "speakers": 3, "seconds": pytest.approx(found["sets"][0]["seconds"])}
        | {"available": ["texts", "phones", "training"], "unlabelled": {}}
    ]


@pytest.mark.slow
def test_every_metric_has_an_interval_that_holds_its_value(found: dict) -> None:
    for row in found["metrics"]:
        low, value, high = (row[name] for name in ("low", "value", "high"))
        assert row["count"] >= 1 and row["meaning"]
        assert value is None or (low <= high and low - 1e-9 <= value <= high + 1e-9), row


@pytest.mark.slow
def test_the_page_holds_the_results(report: Path, found: dict) -> None:
    page = (report / "index.html").read_text()
    embedded = json.loads(page.split('<script type="application/json" id="report">')[1].split("</script>")[0])
    assert embedded["metrics"] == found["metrics"] and embedded["training_health"] == found["training_health"]
    assert len(embedded["codes"]) == 16 and len(embedded["timelines"]) == 6 and len(embedded["audio"]) == 2
    for shown in embedded["audio"]:
        assert shown["clips"].keys() == {ORIGINAL, INVERTED, *DECODED}
        assert all((report / path).is_file() for path in shown["clips"].values())
        assert shown["target"] in {"anna", "bert", "carl"} - {shown["speaker"]}
    (picture,) = embedded["pictures"]
    assert (report / picture["path"]).stat().st_size > 1000


@pytest.mark.long
def test_the_same_input_gives_the_same_report(report: Path, arguments: list[str], tmp_path: Path) -> None:
    assert main([*arguments, "--out", str(tmp_path / "again")]) == 0
    for file in ("report.json", "index.html"):
        assert (tmp_path / "again" / file).read_bytes() == (report / file).read_bytes()


def test_it_holds_the_conditioning_gap_and_the_verdict(
    data: Path, arguments: list[str], model_dir: Path, tmp_path: Path
) -> None:
    options = [*arguments, "--out", str(tmp_path / "report"), "--only", "conditioning_gap", "--no-html"]
    assert main(options) == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.json"}
    found = json.loads((tmp_path / "report/report.json").read_text())
    model = load_model(model_dir)
    speech = pack(read_manifest(data / "test.jsonl"), tmp_path / "packed", model.sample_rate, model.speakers)
    crops = validation_batches(speech, 8192, 16, 2, 2, num_classes=16)
    expected = conditioning_metrics(model, crops)
    values = {row["metric"]: row["value"] for row in found["metrics"]}
    assert values == pytest.approx({name: expected[name] for name in values}, abs=1e-5) and len(values) == 4
    assert found["model"]["fingerprint"] == model.fingerprint
    assert found["training_health"].split(":")[0] in get_args(VerdictName)
    assert main(options) == 2  # it is there already
    for stale in ("index.html", "audio/a.wav", "audio/notes.txt"):
        (tmp_path / "report" / stale).parent.mkdir(exist_ok=True)
        (tmp_path / "report" / stale).touch()
    assert main([*options, "--overwrite"]) == 0
    left = {str(path.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("*.*")}
    assert left == {"report.json", "audio/notes.txt"}


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory, write_manifest: Callable[..., None]) -> Path:
    """A manifest of two speakers whom the model does not know, with two utterances each."""
    manifest = tmp_path_factory.mktemp("strangers") / "strangers.jsonl"
    write_manifest(manifest, [u for u in read_manifest(EGS / "test.jsonl") if u.speaker.startswith("espeak")][:4])
    return manifest


@pytest.mark.slow
def test_speakers_that_the_model_does_not_know_are_converted(
    model_dir: Path, data: Path, strangers: Path, tmp_path: Path
) -> None:
    """By similarity too, if training utterances of the targets are in the run."""
    arguments = ["evaluate", "--model", str(model_dir), "--decoded-utterances", "2", "--no-html"]
    converted, alone = set(map(conversion, VOCODERS)), ["--data", str(strangers), "--out", str(tmp_path / "alone")]
    only = ["--only", "conditioning_gap", "voice_conversion", "naturalness", "signal", "phones", "bitrate"]
    assert main([*arguments, *alone, *only]) == 0
    found = json.loads((tmp_path / "alone/report.json").read_text())
    why = {own["task"]: own["reason"] for own in found["missing"]}
    assert set(why) == {"conditioning_gap", "voice_conversion", "signal", "phones"}
    assert "cannot reconstruct their speech" in why["signal"] and "in this run" in why["voice_conversion"]
    systems = {(row["task"], row["system"]) for row in found["metrics"]}
    assert systems == {("bitrate", MODEL)} | {("naturalness", name) for name in (ORIGINAL, INVERTED, *converted)}

    together = ["--data", str(strangers), str(data), "--out", str(tmp_path / "together")]
    assert main([*arguments, *together, "--only", "voice_conversion"]) == 0
    found = json.loads((tmp_path / "together/report.json").read_text())
    rows = [row for row in found["metrics"] if row["task"] == "voice_conversion" and row["set"] == "strangers"]
    assert {row["system"] for row in rows} == {ORIGINAL, *converted}
    assert {row["metric"] for row in rows if row["system"] in converted} == {
        "similarity_target",
        "similarity_source",
        "closer_to_target",
        "target_identified",
    }


@pytest.mark.slow
def test_a_model_without_spectrum_head_is_judged_by_a_probe(
    model: SpeechVQVAE, initialised: Callable[..., SpeechVQVAE], data: Path, tmp_path: Path
) -> None:
    save_model(initialised(replace(model.cfg, spectrum=LogMelConfig()), samples=6400, peak=0.5), tmp_path / "headless")
    arguments = ["evaluate", "--model", str(tmp_path / "headless"), "--decoded-utterances", "2", "--no-html"]
    arguments += ["--only", "naturalness"]
    wavenet = {ORIGINAL, reconstruction("wavenet"), conversion("wavenet")}
    for place, expected in (
        (data, wavenet | {INVERTED, reconstruction("griffin-lim")}),
        (data / "test.jsonl", wavenet),  # nothing to fit a probe to; targets are any speakers of the model
    ):
        out = tmp_path / place.stem
        assert main([*arguments, "--data", str(place), "--out", str(out)]) == 0
        found = json.loads((out / "report.json").read_text())
        assert {row["system"] for row in found["metrics"]} == expected


@pytest.mark.parametrize("stage", ["codes", "context"])
def test_a_model_without_a_trained_wavenet_is_decoded_by_griffin_lim(
    model: SpeechVQVAE, initialised: Callable[..., SpeechVQVAE], data: Path, tmp_path: Path, stage: Any
) -> None:
    save_model(initialised(replace(model.cfg, stage=stage), samples=6400, peak=0.5), tmp_path / "codes")
    arguments = ["evaluate", "--model", str(tmp_path / "codes"), "--data", str(data), "--phones", str(EGS / "phones")]
    arguments += ["--phone-classes", "labels", "--max-utterances", "4", "--out", str(tmp_path / "report")]
    arguments += ["--temperature", "0.5", "--top-p", "0.9"]
    arguments += ["--decoded-utterances", "2"]
    assert main([*arguments, "--only", "phones", "conditioning_gap", "naturalness"]) == 0
    found = json.loads((tmp_path / "report/report.json").read_text())
    assert found["sampling"] == {
        "temperature": 0.5,
        "top_k": None,
        "top_p": 0.9,
        "precision": "float32",
        "seed": 0,
    }
    assert found["training_health"].startswith(
        f"not available: the WaveNet of the model is not trained (stage: {stage})"
    )
    why = {own["task"]: own["reason"] for own in found["missing"]}
    assert set(why) == {"conditioning_gap"}
    decoded = {row["system"] for row in found["metrics"] if row["task"] == "naturalness"} - {ORIGINAL, INVERTED}
    assert decoded == {reconstruction("griffin-lim"), conversion("griffin-lim")}
    assert found["model"]["vocoder"] == "griffin-lim"
    assert (tmp_path / "report/index.html").stat().st_size > 1000


def test_the_reason_of_a_missing_task_is_given_and_the_others_are_computed(
    data: Path, arguments: list[str], tmp_path: Path, write_manifest: Callable[..., None]
) -> None:
    """Texts without a word, and no training utterances by which to know the target speakers."""
    strange = [replace(u, text="...") for u in read_manifest(data / "test.jsonl")]
    write_manifest(tmp_path / "strange.jsonl", strange)
    options = [
        *arguments,
        "--data",
        str(tmp_path / "strange.jsonl"),
        "--only",
        "wer",
        "voice_conversion",
        "signal",
        "--no-html",
    ]
    assert main([*options, "--out", str(tmp_path / "report")]) == 0
    found = json.loads((tmp_path / "report/report.json").read_text())
    why = {own["task"]: own["reason"] for own in found["missing"]}
    assert "has a text" in why["wer"] and "needs 2 or more training utterances" in why["voice_conversion"]
    assert {row["task"] for row in found["metrics"]} == {"signal"}


def _interrupt(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def test_the_recogniser_is_recorded_and_loaded_before_all_work(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown one ends the evaluation at once; a missing package only costs the task."""
    options = [*arguments, "--only", "wer", "--no-html", "--out", str(tmp_path / "report")]
    assert main([*options, "--asr", "smal.en"]) == 2
    assert "the speech recogniser 'smal.en' cannot be loaded" in capsys.readouterr().err
    assert not list((tmp_path / "report").iterdir())
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    monkeypatch.setattr(run, "save_json", _interrupt)
    assert main([*options, "--resume"]) == 130
    journal = (tmp_path / "report/report.resume.jsonl").read_text()
    assert journal.count("\n") == 1  # not the missing package: it may be installed before the evaluation continues
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    assert main([*options, "--resume"]) == 0
    found = json.loads((tmp_path / "report/report.json").read_text())
    assert found["asr"] == "tiny.en" and found["metrics"] == []
    assert found["missing"][0]["reason"] == "speech recognition needs faster-whisper: pip install 'vqaudio[metrics]'"


def test_what_cannot_be_evaluated_is_explained(
    data: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = ["--model", str(model_dir)], ["--out", str(tmp_path / "report")]
    assert main(["evaluate", *model, "--data", str(tmp_path), *out]) == 2
    assert f"there is no manifest {tmp_path}/test.jsonl" in capsys.readouterr().err
    assert main(["evaluate", *model, "--data", str(data), *out, "--bottom-model", "x"]) == 2
    assert "--bottom-model is for a hierarchical image model" in capsys.readouterr().err
    assert main(["evaluate", *model, "--data", str(data), *out, "--phones", str(tmp_path / "none")]) == 2
    assert f"{tmp_path}/none does not exist" in capsys.readouterr().err
    for option, value in (("temperature", "-1"), ("top-k", "0"), ("top-p", "0")):
        assert main(["evaluate", *model, "--data", str(data), *out, f"--{option}", value]) == 2
        assert f"{option.replace('-', '_')} must be" in capsys.readouterr().err
    phones = ["--phones", str(EGS / "phones")]
    assert main(["evaluate", *model, "--data", str(data), *out, *phones, "--features", str(tmp_path)]) == 2
    assert f"{tmp_path} has no features of the 6 utterances" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_evaluation_continues_to_the_same_report(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [*arguments, "--only", "codebook_usage", "bitrate", "conditioning_gap", "--no-html"]
    assert main([*short, "--out", str(tmp_path / "whole")]) == 0
    original, computed = run._found, []

    def interrupted(task: Any, context: Any) -> tuple[dict[str, Any], bool]:
        computed.append(task.key)
        if len(computed) == 3:
            raise KeyboardInterrupt
        return original(task, context)

    monkeypatch.setattr(run, "_found", interrupted)
    assert main([*short, "--out", str(tmp_path / "r"), "--resume"]) == 130
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["report.resume.jsonl"]
    with (tmp_path / "r" / "report.resume.jsonl").open("a") as journal:
        journal.write('{"task": "half')  # as a killed process may leave it
    capsys.readouterr()
    assert main([*short, "--out", str(tmp_path / "r"), "--resume"]) == 0
    assert len(computed) == 4 and len(set(computed)) == 3
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["report.json"]
    assert (tmp_path / "r" / "report.json").read_bytes() == (tmp_path / "whole" / "report.json").read_bytes()
    printed = capsys.readouterr().out
    computed.clear()
    assert main([*short, "--out", str(tmp_path / "r"), "--resume"]) == 0  # killed after the last step: nothing is left
    assert (computed, capsys.readouterr().out) == ([], printed)
    for other in (["--seed", "3"], ["--max-utterances", "4"]):
        assert main([*short, *other, "--out", str(tmp_path / "r"), "--resume"]) == 2
        assert "is not the report that this evaluation would write" in capsys.readouterr().err
    (tmp_path / "r" / "report.json").write_text("{}")
    assert main([*short, "--out", str(tmp_path / "r"), "--resume"]) == 2
    assert computed == []


@pytest.mark.slow
def test_an_evaluation_of_something_else_does_not_continue(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its results are kept, and an existing report is not replaced."""
    short = [*arguments, "--only", "codebook_usage", "--no-html", "--out", str(tmp_path), "--resume"]
    (tmp_path / "report.json").write_text("a report")
    for content, message in (
        (
            '{"identity": "another"}\n{"task": "codebook_usage", "set": "data", "results": [], "reason": null}\n',
            "has results of an evaluation of another model, other data or other options; delete it",
        ),
        ("]\n", "report.resume.jsonl is damaged"),
    ):
        (tmp_path / "report.resume.jsonl").write_text(content)
        assert main(short) == 2
        assert message in capsys.readouterr().err
        assert (tmp_path / "report.resume.jsonl").read_text() == content
        assert (tmp_path / "report.json").read_text() == "a report"
