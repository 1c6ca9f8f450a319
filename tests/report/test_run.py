"""The report of a speech model: every question, on real audio with phones and texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, load_model, save_model
from vqaudio.cli.main import main
from vqaudio.data.crops import validation_batches
from vqaudio.data.manifest import read_manifest, write_manifest
from vqaudio.data.packed import pack
from vqaudio.metrics.conditioning_gap import conditioning
from vqaudio.nn.context import ContextConfig
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.frontend import LogMelConfig
from vqaudio.nn.quantizer import VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.report.config import Key
from vqaudio.report.context import CHANCE, CONVERSION, ORIGINAL, OURS, RECONSTRUCTION, UNITS
from vqaudio.report.meanings import meanings
from vqaudio.report.tasks import QUESTIONS

EGS = Path(__file__).parents[2] / "egs/mini"
DOCS = Path(__file__).parents[2] / "docs/evaluation.md"


@pytest.fixture(scope="module")
def model(initialised: Callable[..., SpeechVQVAE]) -> SpeechVQVAE:
    """As small as the tiny model, with 50 codes per second, so that a report takes seconds."""
    cfg = SpeechVQVAEConfig(
        speakers=("anna", "bert", "carl"),
        encoder=EncoderConfig(strides=(16, 20), channels=(6, 8), dilations=(1, 2), dim=4, lookahead=64),
        quantizer=VectorQuantizerConfig(codebook_size=16, dim=4),
        decoder=WaveNetConfig(
            num_classes=16, layers=3, layers_per_stack=3, residual_channels=6, skip_channels=8, cond_hidden_channels=8
        ),
    )
    return initialised(cfg, samples=6400, peak=0.5)


@pytest.fixture(scope="module")
def model_dir(model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "quick"
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def data(model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder: real synthetic speech of voices that have their phones, under the tiny model's names."""
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
        *("--phone-classes", "labels", "--decoded-utterances", "4", "--seed", "2"),
    ]


@pytest.fixture(scope="module")
def report(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All questions, asked once."""
    out = tmp_path_factory.mktemp("reports") / "report"
    assert main([*arguments, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def figures(report: Path) -> dict:
    return json.loads((report / "figures.json").read_text())


@pytest.mark.slow
def test_every_question_is_answered_for_every_system(figures: dict) -> None:
    answered = {(f["question"], f["system"]) for f in figures["figures"]}
    codes = {OURS, CHANCE, *UNITS}
    expected = {(key, system) for key in ("phones", "abx", "codes") for system in codes}
    expected |= {(key, system) for key in ("speaker", "stability") for system in codes - {CHANCE}} | {
        ("listening", OURS),
        ("bits", OURS),
    }
    expected |= {(key, audio) for key in ("conversion", "words") for audio in (ORIGINAL, RECONSTRUCTION, CONVERSION)}
    assert answered == expected | {("signal", RECONSTRUCTION)}
    assert {lack["question"] for lack in figures["missing"]} <= {"signal"}  # noise, of which PESQ may have no opinion
    assert figures["sets"] == [
        {"name": "data", "utterances": 6, "speakers": 3, "seconds": pytest.approx(figures["sets"][0]["seconds"])}
        | {"has": ["texts", "phones", "training"]}
    ]


@pytest.mark.slow
def test_every_figure_has_its_interval_and_its_meaning(figures: dict) -> None:
    for figure in figures["figures"]:
        low, value, high = (figure[name] for name in ("low", "value", "high"))
        assert figure["count"] >= 1 and figure["meaning"]
        assert value is None or (low <= high and low - 1e-9 <= value <= high + 1e-9), figure
    assert set(meanings()) >= {f["name"] for f in figures["figures"]}


@pytest.mark.slow
def test_the_page_shows_what_was_measured(report: Path, figures: dict) -> None:
    page = (report / "index.html").read_text()
    embedded = json.loads(page.split('<script type="application/json" id="report">')[1].split("</script>")[0])
    assert embedded["figures"] == figures["figures"] and embedded["verdict"] == figures["verdict"]
    assert len(embedded["codes"]) == 16 and len(embedded["timelines"]) == 6 and len(embedded["audio"]) == 4
    for shown in embedded["audio"]:
        assert (report / shown["original"]).is_file() and (report / shown["reconstruction"]).is_file()
        assert all(
            name != shown["speaker"] and (report / path).is_file() for name, path in shown["conversions"].items()
        )


@pytest.mark.slow
def test_the_same_input_gives_the_same_report(report: Path, arguments: list[str], tmp_path: Path) -> None:
    assert main([*arguments, "--out", str(tmp_path / "again")]) == 0
    for file in ("figures.json", "index.html"):
        assert (tmp_path / "again" / file).read_bytes() == (report / file).read_bytes()


def test_it_holds_what_the_decoder_loses_and_the_verdict(
    data: Path, arguments: list[str], model_dir: Path, tmp_path: Path
) -> None:
    asked = [*arguments, "--out", str(tmp_path / "report"), "--only", "listening", "--no-html"]
    assert main(asked) == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"figures.json"}
    found = json.loads((tmp_path / "report/figures.json").read_text())
    model = load_model(model_dir)
    speech = pack(read_manifest(data / "test.jsonl"), tmp_path / "packed", model.sample_rate, model.speakers)
    crops = validation_batches(speech, 8192, 16, 2, 2, num_classes=16)
    expected = conditioning(model, crops)
    values = {figure["name"]: figure["value"] for figure in found["figures"]}
    assert values == pytest.approx({name: expected[name] for name in values}, abs=1e-5) and len(values) == 4
    assert found["model"]["fingerprint"] == model.fingerprint
    assert found["verdict"].split(":")[0] in ("healthy", "posterior collapse", "speaker ignored", "diverged")
    assert main(asked) == 2  # it is there already
    for stale in ("index.html", "audio/a.wav", "audio/notes.txt"):
        (tmp_path / "report" / stale).parent.mkdir(exist_ok=True)
        (tmp_path / "report" / stale).touch()
    assert main([*asked, "--overwrite"]) == 0
    left = {str(path.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("*.*")}
    assert left == {"figures.json", "audio/notes.txt"}


def test_a_model_that_knows_nobody_is_asked_of_its_codes_alone(model_dir: Path, tmp_path: Path) -> None:
    only = [
        "--only",
        "listening",
        "conversion",
        "words",
        "signal",
        "phones",
        "bits",
        "--no-html",
        "--max-utterances",
        "2",
    ]
    arguments = ["evaluate", "--model", str(model_dir), "--data", str(EGS), "--out", str(tmp_path / "report")]
    assert main([*arguments, *only]) == 0
    found = json.loads((tmp_path / "report/figures.json").read_text())
    why = {lack["question"]: lack["why"] for lack in found["missing"]}
    assert set(why) == {"listening", "conversion", "words", "signal", "phones"}
    assert "knows none of the speakers" in why["words"] and "--phones" in why["phones"]
    assert {f["question"] for f in found["figures"]} == {"bits"}


def test_a_model_that_has_learned_codes_alone_is_judged_by_them(
    model: SpeechVQVAE, initialised: Callable[..., SpeechVQVAE], data: Path, tmp_path: Path
) -> None:
    spectrum = LogMelConfig(n_mels=10, hop_length=160)
    cfg = replace(model.cfg, stage="codes", context=ContextConfig(dilations=(1,), channels=6), spectrum=spectrum)
    save_model(initialised(cfg, samples=6400, peak=0.5), tmp_path / "codes")
    arguments = ["evaluate", "--model", str(tmp_path / "codes"), "--data", str(data), "--phones", str(EGS / "phones")]
    arguments += ["--phone-classes", "labels", "--max-utterances", "4", "--out", str(tmp_path / "report")]
    arguments += ["--temperature", "0.5"]
    assert main([*arguments, "--only", "phones", "listening", "conversion", "words"]) == 0
    found = json.loads((tmp_path / "report/figures.json").read_text())
    assert found["spoken_with"] == {"temperature": 0.5, "top_k": None, "precision": "float32", "seed": 0}
    assert found["verdict"].startswith("not told: the model has learned codes alone")
    why = {lack["question"]: lack["why"] for lack in found["missing"]}
    assert set(why) == {"listening", "conversion", "words"} and "codes alone" in why["words"]
    assert (tmp_path / "report/index.html").stat().st_size > 1000


def test_what_cannot_be_answered_is_told_and_the_rest_goes_on(data: Path, arguments: list[str], tmp_path: Path) -> None:
    """Texts without a word of English, and no training utterances, so that there is no voice to convert to."""
    strange = [replace(u, text="zzyzx qwrtp") for u in read_manifest(data / "test.jsonl")]
    write_manifest(tmp_path / "strange.jsonl", strange)
    asked = [
        *arguments,
        "--data",
        str(tmp_path / "strange.jsonl"),
        "--only",
        "words",
        "conversion",
        "signal",
        "--no-html",
    ]
    assert main([*asked, "--out", str(tmp_path / "report")]) == 0
    found = json.loads((tmp_path / "report/figures.json").read_text())
    why = {lack["question"]: lack["why"] for lack in found["missing"]}
    assert "no word of the" in why["words"] and "no other voice" in why["conversion"]
    assert {f["question"] for f in found["figures"]} == {"signal"}


def test_what_cannot_be_evaluated_is_explained(
    data: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = ["--model", str(model_dir)], ["--out", str(tmp_path / "report")]
    assert main(["evaluate", *model, "--data", str(tmp_path), *out]) == 2
    assert f"there is no manifest {tmp_path}/test.jsonl" in capsys.readouterr().err
    assert main(["evaluate", *model, "--data", str(data), *out, "--first", "x"]) == 2
    assert "--first is for a second level over images" in capsys.readouterr().err
    assert main(["evaluate", *model, "--data", str(data), *out, "--phones", str(tmp_path / "none")]) == 2
    assert f"{tmp_path}/none does not exist" in capsys.readouterr().err
    for wrong in (["--temperature", "-1"], ["--top-k", "0"]):
        assert main(["evaluate", *model, "--data", str(data), *out, *wrong]) == 2
        assert "temperature must be 0 or more and top_k at least 1, got" in capsys.readouterr().err
    phones = ["--phones", str(EGS / "phones")]
    assert main(["evaluate", *model, "--data", str(data), *out, *phones, "--features", str(tmp_path)]) == 2
    assert f"{tmp_path} has no features of the 6 utterances" in capsys.readouterr().err


def test_questions_are_those_of_the_command_line_and_the_docs_tell_of_each_figure() -> None:
    assert [question.key for question in QUESTIONS] == list(Key.__args__)  # pyright: ignore[reportAttributeAccessIssue]
    told = DOCS.read_text(encoding="utf-8")
    assert not [name for name in meanings() if f"`{name}`" not in told]
