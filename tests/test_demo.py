"""`vqaudio demo` over HTTP: the codes and the audio are the model's, and limits hold."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import vqaudio
from vqaudio.cli.main import main
from vqaudio.data.audio import AudioError
from vqaudio.demo import PERIOD, Limits, RateLimit, build_page, draw, launch, read_utterance

SPEECH = Path(__file__).parents[1] / "egs/mini/wav16/flite_slt/flite_slt_012.flac"


def test_a_client_waits_after_too_many_requests() -> None:
    now = 0.0
    limit = RateLimit(2, clock=lambda: now)
    for client in "aab":
        limit.check(client)
    with pytest.raises(ValueError, match="more than 2 requests in a minute"):
        limit.check("a")
    limit.check("b")
    now = PERIOD
    limit.check("a")
    assert list(limit.times) == ["a"]


@pytest.mark.parametrize(
    ("seconds", "rate", "said"),
    [
        (2.1, 16000, "long.wav lasts 2.1 s; at most 2 s"),
        (1, 4000, "long.wav has 4000 samples per second; at least 8000"),
    ],
)
def test_files_beyond_the_limits_are_refused(tmp_path, seconds, rate, said) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(round(seconds * rate)), rate)
    with pytest.raises(AudioError, match=said) as error:
        read_utterance(tmp_path / "long.wav", 16000, Limits(seconds=2))
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("samples", [1, 150, 200, 201, 16000])
def test_short_and_silent_utterances_are_drawn_dark(model, samples) -> None:
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib: pip install 'vqaudio[demo]'")
    image = draw(torch.zeros(samples), model.tokenize(torch.zeros(samples)), model.codebook_size)
    height, width, _ = image.shape
    assert image[height * 2 // 5, width * 3 // 5].max() < 10  # within the spectrogram


def test_without_gradio_the_extra_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "error: vqaudio demo needs gradio: pip install 'vqaudio[demo]'\n"


def test_ports_that_cannot_be_used_are_named(capsys) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'vqaudio[demo]'")
    assert main(["demo", "--port", "99999"]) == 2
    assert "--port must lie in 1 to 65535, got 99999" in capsys.readouterr().err


def test_a_host_that_is_not_of_this_machine_is_named() -> None:
    class Page:
        def queue(self, **options: object) -> None: ...

    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'vqaudio[demo]'")
    for host in ("192.0.2.7", "::1"):  # reserved for documentation; IPv6
        with pytest.raises(OSError, match=rf"cannot listen on port 7860 of {host}: .*; give another --host \(IPv4\)"):
            launch(Page(), host, 7860)  # pyright: ignore[reportArgumentType]


@pytest.mark.long
def test_a_port_that_is_taken_and_a_model_without_speakers(tiny_config, initialised) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'vqaudio[demo]'")
    page = build_page(initialised(replace(tiny_config, speakers=())))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match=r"cannot listen on port .* give another --port"):
            launch(page, "127.0.0.1", taken.getsockname()[1])


@pytest.fixture(scope="module")
def model() -> Any:
    return vqaudio.load_model("mini", device="cpu")


@pytest.fixture(scope="module")
def url(model) -> Iterator[str]:
    """Of the page, on a free port."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'vqaudio[demo]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = Limits(seconds=5)
    page = build_page(model, limits)
    yield launch(page, "127.0.0.1", port, limits)
    page.close()


@pytest.mark.long
def test_the_page_gives_what_the_model_gives(tmp_path, model, url) -> None:
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False, download_files=str(tmp_path))
    speaker = model.speakers[-1]
    facts, figure, audio, tokens = client.predict(handle_file(SPEECH), model.speakers[0], api_name="/tokenize")
    expected = model.tokenize(SPEECH)
    row = json.loads(Path(tokens["value"] if isinstance(tokens, dict) else tokens).read_text())
    assert row["codes"] == expected.codes.tolist() and row["model"] == model.fingerprint
    assert f"**{len(expected.codes)} codes**" in facts
    assert Path(figure["path"] if isinstance(figure, dict) else figure).stat().st_size > 10_000
    wav, rate = soundfile.read(audio, dtype="float32")
    assert rate == model.sample_rate
    np.testing.assert_allclose(wav, model.decode(expected, model.speakers[0]).numpy(), atol=1e-4)
    wav, _ = soundfile.read(client.predict(speaker, api_name="/resynthesize"), dtype="float32")
    np.testing.assert_allclose(wav, model.decode(expected, speaker).numpy(), atol=1e-4)


@pytest.mark.long
def test_errors_are_shown_in_words(tmp_path, model, url) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(url, verbose=False, download_files=str(tmp_path))
    soundfile.write(tmp_path / "long.wav", np.zeros(16000 * 6), 16000)
    (tmp_path / "text.wav").write_text("hello")
    for name, said in (("long.wav", "long.wav lasts 6.0 s; at most 5 s"), ("text.wav", "text.wav is not audio")):
        with pytest.raises(AppError, match=said):
            client.predict(handle_file(tmp_path / name), model.speakers[0], api_name="/tokenize")
    with pytest.raises(AppError, match="record or upload an utterance first"):
        client.predict(None, model.speakers[0], api_name="/tokenize")


@pytest.mark.long
def test_expired_tokens_are_said_only_where_there_were_some(tmp_path, monkeypatch, model) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'vqaudio[demo]'")
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    monkeypatch.setattr("vqaudio.demo.KEPT", 3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = build_page(model)
    try:
        client = Client(launch(page, "127.0.0.1", port), verbose=False, download_files=str(tmp_path))
        assert client.predict(model.speakers[0], api_name="/resynthesize") is None
        client.predict(handle_file(SPEECH), model.speakers[0], api_name="/tokenize")
        time.sleep(6)
        with pytest.raises(AppError, match="press Tokenize again"):
            client.predict(model.speakers[0], api_name="/resynthesize")
    finally:
        page.close()


@pytest.mark.long
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
def test_a_visitor_in_a_browser(tmp_path, chromium, model, url, width) -> None:
    """Upload, tokenize, download, another speaker; nothing is wider than the screen, or asked of other hosts."""
    problems: list[str] = []
    context = chromium.new_context(viewport={"width": width, "height": 844}, accept_downloads=True)
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((url, "blob:", "data:")) else problems.append(r.url))
    page.goto(url)
    page.get_by_label("Upload file").click()
    page.set_input_files("input[type=file]", SPEECH)
    tokenize = page.get_by_role("button", name="Tokenize")
    tokenize.click()
    page.get_by_text("codes occur").wait_for()
    page.get_by_alt_text("waveform, spectrogram and codes over time").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    with page.expect_download() as download:
        page.get_by_role("button", name="Download tokens").click()
    download.value.save_as(tmp_path / "tokens.jsonl")
    assert json.loads((tmp_path / "tokens.jsonl").read_text())["codes"] == model.tokenize(SPEECH).codes.tolist()
    speaker = page.get_by_label("Speaker of the resynthesis")
    speaker.click()
    with page.expect_response(lambda response: response.url.endswith(".wav")):
        page.get_by_role("option", name=model.speakers[-1]).click()
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    context.close()
    assert problems == []
