"""The page as a file, and opened from disk in Chromium: played, sorted, clicked."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vqaudio.data.alignments import find_alignments
from vqaudio.data.audio import read_audio
from vqaudio.data.manifest import read_manifest
from vqaudio.metrics.confidence import Estimate, mean, ratio
from vqaudio.report.assets import clip, code_entries, runs, timeline
from vqaudio.report.page import write_page
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.tokens.rows import TokenRow

MINI = Path(__file__).resolve().parents[2] / "egs/mini"
SECONDS = 0.8  # of each utterance: the tiny model has 2,000 codes a second
NASTY = "</script><script>alert(1)</script> & \u2028 {{js}} \"'é"


def _metric(name: str, system: str, estimate: Estimate, **facts: Any) -> dict[str, Any]:
    common: dict[str, Any] = {
        "task": "codebook_usage",
        "set": "mini",
        "unit": "",
        "better": "higher",
        "meaning": f"Definition of {name}.",
    }
    return {**common, "metric": name, "system": system, **estimate._asdict(), **facts}


@pytest.fixture(scope="module")
def example(tiny_model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The report of the tiny model on four utterances of the embedded corpus, and the folder with its files."""
    folder, model = tmp_path_factory.mktemp("report") / "a report #1 %41", tiny_model
    folder.mkdir()
    chosen = [u for u in read_manifest(MINI / "test.jsonl") if u.id.startswith(("flite_awb", "espeak_rp"))]
    wavs = {u.id: read_audio(u.path, model.sample_rate)[: int(SECONDS * model.sample_rate)] for u in chosen}
    rows = [TokenRow(u.id, u.speaker, model.tokenize(wavs[u.id], model.sample_rate)) for u in chosen]
    aligned = find_alignments(MINI / "phones", [u.id for u in chosen])
    shown = {id: [s._replace(end=min(s.end, SECONDS)) for s in own if s.start < SECONDS] for id, own in aligned.items()}
    codes = [row.tokens.codes.numpy() for row in rows]
    usage = mean([len(np.unique(own)) / model.codebook_size for own in codes])
    rates = ratio([len(runs(own)) for own in codes], [row.tokens.seconds for row in rows])
    decoded = model.decode(rows[0].tokens, speaker="anna"), model.decode(rows[0].tokens, speaker="bert")
    original, again, bert = (
        clip(folder, name, np.asarray(wav), model.sample_rate)
        for name, wav in (("o #1", wavs[rows[0].id]), ("r", decoded[0]), ("c", decoded[1]))
    )
    report = {
        "title": "vqaudio report: tiny",
        "model": {"name": "tiny", "fingerprint": model.fingerprint, "frame_rate": model.frame_rate, "hop": model.hop,
                  "sample_rate": model.sample_rate, "codebook_size": model.codebook_size,
                  "speakers": list(model.speakers)},
        "sets": [{"name": "mini", "utterances": 4, "speakers": 2, "seconds": 4 * SECONDS,
                  "available": ["phones", "texts"]}],
        "intelligibility": {"level": "unintelligible", "sentence": "Decoded speech is unintelligible: 90 %."},
        "training_health": "posterior collapse: conditioning_gap 0.01, below 0.05: train longer",
        "summary": ["This model was never trained.", NASTY],
        "tasks": [{"key": "codebook_usage", "title": "Codebook usage", "description": "Which codes are used."},
                  {"key": "wer", "title": "Word error rate", "description": "Speech recognition."}],
        "metrics": [
            _metric("usage", "tokens", usage, unit="fraction"),
            _metric("usage", "random codes", Estimate(0.99, 0.985, 1.0, 4), unit="fraction"),
            _metric("runs_per_second", "tokens", rates, better="neither"),
            _metric("beaten", "tokens", Estimate(5.0, 4.0, 6.0, 4), better="lower"),
            _metric("beaten", "random codes", Estimate(5.5, 5.0, 7.0, 4), better="lower"),
            _metric("no_number", "tokens", Estimate(float("nan"), float("nan"), float("nan"), 4)),
            _metric("wer", "original", Estimate(0.1, 0.05, 0.2, 4), task="wer", better="lower"),
            _metric("wer", "reconstruction", Estimate(0.9, 0.8, 1.0, 4), task="wer", better="lower"),
        ],
        "missing": [{"task": "wer", "set": "so762", "reason": "no texts"}],
        "published": [{"task": "codebook_usage", "metric": "usage", "system": "peer", "value": 0.5, "unit": "fraction",
                       "source": "Nobody", "note": "never measured"}],
        "codes": code_entries(rows, model.codebook_size, folder, wavs=wavs, alignments=shown),
        "timelines": [timeline(row, folder, wav=wavs[row.id], segments=shown.get(row.id, ()), text=f"Text of {row.id}")
                      for row in rows],
        "audio": [{"id": rows[0].id, "speaker": rows[0].speaker, "text": "They enjoyed", "target": "bert",
                   "clips": {"original": original, "reconstruction (WaveNet)": again, "conversion (WaveNet)": bert}}],
        "pictures": [{"title": "a spectrogram", "path": f"pictures/{rows[0].id}.png"}],
    }  # fmt: skip
    write_page(report, folder)
    return report, folder


# The file


def _written(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def _held(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_the_report_whatever_is_in_it(example: tuple[dict[str, Any], Path]) -> None:
    report, folder = example
    page, expected = _written(folder), copy.deepcopy(report)
    no_number = next(own for own in expected["metrics"] if own["metric"] == "no_number")
    no_number |= {"value": None, "low": None, "high": None}  # JSON has no NaN
    assert _held(page) == expected and NASTY in expected["summary"]
    assert page.count("</script") == 2 and "\u2028" not in page and "<title>vqaudio report: tiny</title>" in page


def test_a_title_is_text_not_markup(tmp_path: Path) -> None:
    write_page({"title": NASTY}, tmp_path)
    page = _written(tmp_path)
    assert "<title>&lt;/script&gt;&lt;script&gt;alert(1)" in page and page.count("</script") == 2
    assert _held(page) == {"title": NASTY}


def test_nothing_is_loaded_from_elsewhere_and_all_that_is_named_is_there(example: tuple[dict[str, Any], Path]) -> None:
    report, folder = example
    page = _written(folder)
    assert not re.search(r"https?:|@import|url\(|<script[^>]+src|<link[^>]+href=\"(?!data:)|\bfetch\(", page)
    named = set(re.findall(r'"((?:audio|pictures)/[^"]+?)(?:#t=[\d.]+,[\d.]+)?"', json.dumps(report)))
    assert len(named) == 11  # 4 utterances and their spectrograms, 3 clips
    assert all((folder / path).is_file() for path in named)
    assert {f"{path.parent.name}/{path.name}" for path in folder.glob("*/*")} == named


def test_the_same_report_gives_the_same_bytes(example: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    report, folder = example
    write_page(copy.deepcopy(report), tmp_path)
    assert (tmp_path / "index.html").read_bytes() == (folder / "index.html").read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        write_page(report, tmp_path)
    write_page({"title": "another"}, tmp_path, overwrite=True)
    assert "another" in _written(tmp_path)


# In Chromium


@contextmanager
def _opened(chromium: Any, folder: Path, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """The page in a new window; on exit checks that there were no errors and no network requests."""
    problems: list[str] = []
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda r: None if r.url.startswith(("file:", "data:")) else problems.append(f"requested {r.url}")
    )
    aborted = "net::ERR_ABORTED"  # a player that is given another file drops the first
    page.on("requestfailed", lambda r: None if r.failure == aborted else problems.append(f"{r.url}: {r.failure}"))
    page.goto((folder / "index.html").as_uri())
    yield page
    context.close()
    assert problems == []


def _names(page: Any) -> list[str]:
    return page.locator("#metrics-table tbody th summary").evaluate_all("all => all.map(e => e.firstChild.data.trim())")


def test_it_opens_without_errors_and_shows_its_sections(chromium: Any, example: tuple[dict[str, Any], Path]) -> None:
    with _opened(chromium, example[1]) as page:
        assert page.locator("h1").inner_text() == "vqaudio report: tiny"
        assert page.locator(".verdict").all_inner_texts() == [
            "Decoded speech: unintelligible",
            "Health of training: posterior collapse conditioning_gap 0.01, below 0.05: train longer",
        ]
        assert page.locator(".verdict .bad").count() == 2
        assert page.locator("#summary .lead").inner_text() == "Decoded speech is unintelligible: 90 %."
        assert page.locator("#listen-table thead th").all_inner_texts()[2:] == [
            "reconstruction (WaveNet)", "conversion (WaveNet)",
        ]  # fmt: skip
        assert page.locator("#listen-table .conversion").inner_text() == "→ bert"
        assert page.locator("#summary li").last.inner_text().startswith("</script><script>alert(1)")
        assert page.locator(".absent:visible").count() == 0
        assert page.locator("#codes-grid .cell").count() == 16
        assert page.locator("#links a").all_inner_texts() == [
            "Metrics", "Published", "Codes", "Timeline", "Listen", "Pictures",
        ]  # fmt: skip
        page.locator("#pictures img").scroll_into_view_if_needed()
        page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert page.evaluate("document.images.length") == 2


def test_every_audio_element_loads_what_its_file_holds(chromium: Any, example: tuple[dict[str, Any], Path]) -> None:
    load = """all => Promise.all(all.map(audio => new Promise((done, fail) => {
        audio.onloadedmetadata = () => done([decodeURIComponent(audio.src).split('/').at(-1), audio.duration]);
        audio.onerror = () => fail(new Error(audio.src + audio.error.message));
        audio.preload = 'metadata'; audio.load();
    })))"""
    with _opened(chromium, example[1]) as page:
        assert page.locator("audio[src]").evaluate_all("all => all.every(a => a.preload === 'none')")
        loaded = page.locator("audio[src]").evaluate_all(load)
    assert len(loaded) == 4  # of the timeline, original, reconstruction, conversion
    for name, seconds in loaded:
        assert seconds == pytest.approx(soundfile.info(example[1] / "audio" / name).duration, abs=1e-3)


def test_the_table_is_sorted_and_filtered(chromium: Any, example: tuple[dict[str, Any], Path]) -> None:
    with _opened(chromium, example[1]) as page:
        assert _names(page) == ["usage", "runs per second", "beaten", "no number"]
        tokens = page.locator("#metrics-table thead th", has_text="tokens")
        tokens.locator("button").click()
        assert _names(page) == ["usage", "beaten", "runs per second", "no number"]
        assert tokens.get_attribute("aria-sort") == "ascending"
        tokens.locator("button").click()
        assert _names(page) == ["runs per second", "beaten", "usage", "no number"]  # undefined values stay last
        assert tokens.get_attribute("aria-sort") == "descending"
        page.locator("#metrics-table thead th", has_text="Metric").locator("button").click()
        assert _names(page) == ["beaten", "no number", "runs per second", "usage"]
        assert tokens.get_attribute("aria-sort") == "none"
        assert "no texts" not in page.locator("#missing").inner_text()
        page.get_by_role("button", name="Word error rate", exact=True).click()
        assert _names(page) == ["wer"] and "no texts" in page.locator("#missing").inner_text()
        assert page.locator("#description").inner_text() == "Speech recognition."
        page.get_by_role("button", name="all tasks").click()
        assert len(_names(page)) == 5


def test_a_row_shows_the_best_system_the_definition_and_published_results(chromium: Any, example: Any) -> None:
    with _opened(chromium, example[1]) as page:
        cells = page.locator("#metrics-table tbody tr", has_text="usage").locator("td")
        assert "●" in cells.nth(1).inner_text() and "●" not in cells.nth(0).inner_text()  # intervals lie apart
        assert re.search(r"99\.0 % ●\s+98\.5 . 100\.0 · n = 4", cells.nth(1).inner_text())
        assert re.search(r"50\.0 %\s+peer", cells.nth(2).inner_text())
        beaten = page.locator("#metrics-table tbody tr", has_text="beaten").locator("td")
        assert "○" in beaten.nth(0).inner_text() and "○" not in beaten.nth(1).inner_text()  # they overlap
        row = page.locator("#metrics-table tbody tr", has_text="no number")
        assert row.locator("td").first.inner_text() == "not defined"
        assert not page.get_by_text("Definition of usage.").is_visible()
        page.locator("summary", has_text="usage").click()
        assert page.get_by_text("Definition of usage.").is_visible()
        page.get_by_role("button", name="Word error rate", exact=True).click()
        assert page.locator("#metrics-table tbody .best").count() == 0  # the original does not compete


def test_a_single_item_is_not_significant_and_a_missing_verdict_is_no_failure(chromium: Any, tmp_path: Path) -> None:
    ours = _metric("usage", "tokens", Estimate(0.9, 0.9, 0.9, 1))
    other = _metric("usage", "random codes", Estimate(0.2, 0.2, 0.2, 1))
    facts = {"title": "one", "training_health": "not measured", "metrics": [ours, other]}
    write_page(facts, tmp_path)
    with _opened(chromium, tmp_path) as page:
        assert page.locator("#metrics-table tbody .best").inner_text().strip() == "○"
        assert page.locator(".verdict b").get_attribute("class") is None


def test_a_code_can_be_selected_and_played(chromium: Any, example: tuple[dict[str, Any], Path]) -> None:
    report, folder = example
    code = max(report["codes"], key=lambda own: own["count"])
    with _opened(chromium, folder) as page:
        panel = page.locator("#code-panel")
        assert not panel.is_visible()
        page.locator(f'#codes-grid [data-code="{code["code"]}"]').click()
        panel_text = panel.inner_text()
        assert f"Code {code['code']}" in panel_text and f"{code['count']:,}" in panel_text and "1st of 16" in panel_text
        assert panel.locator(".bars").nth(1).locator("span").first.inner_text() in ("flite_awb", "espeak_rp_f3")
        start, end = map(float, code["snippets"][0].split("#t=")[1].split(","))
        page.evaluate("""() => { window.played = []; const player = document.getElementById('snippet-player');
            player.addEventListener('playing', () => played.push(player.currentTime)); }""")
        panel.locator(".snippet").first.click()
        stopped = "() => { const p = document.getElementById('snippet-player'); return played.length && p.paused }"
        page.wait_for_function(stopped)
        assert page.evaluate("played[0]") == pytest.approx(start, abs=0.1)
        assert end - 0.02 <= page.evaluate("document.getElementById('snippet-player').currentTime") < end + 0.15
        page.get_by_role("button", name="next code").click()
        assert f"Code {code['code']}\n" not in panel.inner_text()
        page.keyboard.press("Escape")
        assert not panel.is_visible()


def test_codes_are_sorted_and_walked_by_keys(chromium: Any, example: tuple[dict[str, Any], Path]) -> None:
    report, folder = example
    by_usage = sorted(report["codes"], key=lambda own: (-own["count"], own["code"]))
    numbers = "all => all.map(cell => Number(cell.dataset.code))"
    with _opened(chromium, folder) as page:
        page.locator("#codes-order").select_option("usage")
        assert page.locator("#codes-grid .cell").evaluate_all(numbers) == [own["code"] for own in by_usage]
        page.locator("#codes-order").select_option("number")
        assert page.locator("#codes-grid .cell").evaluate_all(numbers) == list(range(16))
        page.locator("#codes-grid .cell").first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert page.locator("#code-panel h2").inner_text() == "Code 1"


def test_a_timeline_is_chosen_played_and_clicked(chromium: Any, example: tuple[dict[str, Any], Path]) -> None:
    report, folder = example
    with _opened(chromium, folder) as page:
        for i in (0, 3, 1):
            shown = report["timelines"][i]
            page.locator("#timeline-choice").select_option(str(i))
            assert page.locator("#timeline-text").inner_text() == f"Text of {shown['id']}"
            assert page.locator("#timeline-player audio").get_attribute("src") == shown["audio"]
            assert page.locator("#lanes .fine .run").count() == len(runs(np.array(shown["codes"])))
            assert page.locator("#lanes .lane:not(.fine) .run").count() == len(shown["segments"])
        first = page.locator("#lanes .fine .run").first
        first.click(position={"x": 0, "y": 5}, force=True)
        assert page.locator("#code-panel h2").inner_text() == f"Code {first.get_attribute('data-code')}"
        page.keyboard.press("Escape")
        assert not page.locator(".playhead").is_visible()
        page.locator("#lanes .wave .track").click()  # its middle
        page.wait_for_function("parseFloat(document.querySelector('.playhead').style.left) > 55")
        page.wait_for_function("document.querySelector('#timeline-player audio').ended")
        assert "code" in page.locator(".now").inner_text()


def test_a_phone_shows_it_without_sideways_scrolling(chromium: Any, example: tuple[dict[str, Any], Path]) -> None:
    with _opened(chromium, example[1], width=360) as page:
        page.get_by_role("button", name="all tasks").click()
        page.locator("#codes-grid .cell").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        box = page.locator("#code-panel").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_it_has_a_light_and_a_dark_theme(chromium: Any, example: tuple[dict[str, Any], Path]) -> None:
    paper = """() => { const c = document.createElement('canvas').getContext('2d');
        c.fillStyle = getComputedStyle(document.body).backgroundColor; c.fillRect(0, 0, 1, 1);
        return c.getImageData(0, 0, 1, 1).data[0]; }"""
    for scheme, other in (("light", "dark"), ("dark", "light")):
        with _opened(chromium, example[1], scheme=scheme) as page:
            shades = {scheme: page.evaluate(paper)}
            page.locator("#theme").click()
            shades[other] = page.evaluate(paper)
            assert shades["dark"] < 60 and shades["light"] > 200


@pytest.mark.parametrize(
    ("report", "sentences"),
    [
        ({"title": "bare"}, ["has no metrics", "has no data on single codes", "has no timelines", "has no audio"]),
        ({"title": "a", "codes": [{"code": 0, "fraction": 1.0, "count": 3, "phones": {}, "speakers": {},
                                   "mean_run_ms": 4.0, "snippets": []}]}, ["There are no phone alignments"]),
        ({"title": "a", "timelines": [{"id": "x", "speaker": None, "text": None, "audio": None, "waveform": [],
                                       "picture": None, "frame_rate": 10, "codes": [0, 0, 1], "segments": [],
                                       "seconds": 0.3}]}, ["The audio of this utterance is not in the report."]),
        ({"title": "a", "missing": [{"task": "wer", "set": "x", "reason": "no texts"}]}, ["wer, x: no texts"]),
    ],
)  # fmt: skip
def test_a_section_without_data_shows_a_message(
    chromium: Any, tmp_path: Path, report: dict[str, Any], sentences: list[str]
) -> None:
    write_page(report, tmp_path)
    with _opened(chromium, tmp_path) as page:
        text = page.locator("main").inner_text()
        assert all(sentence in text for sentence in sentences)
        for clickable in page.locator("#codes-grid .cell, #lanes .run").all():
            clickable.click()
            assert page.locator("#code-panel h2").is_visible()
