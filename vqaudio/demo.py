"""A web page to speak into: waveform, spectrogram and codes, resynthesis by every speaker, and the tokens as a file.

Letters: T samples, N codes.
"""

# annotations are evaluated, because gradio finds the request by its class
import errno
import math
import os
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from vqaudio.data.audio import AudioError, num_frames, read_audio, to_int16
from vqaudio.speech.describe import bits_per_second
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.files import write_tokens
from vqaudio.tokens.rows import TokenRow

if TYPE_CHECKING:
    import gradio as gr

MIN_RATE = 8000  # Hz: of telephones; speech of a lower rate lacks the frequencies that codes are about
PERIOD = 60.0  # seconds in which the requests of a client are counted
KEPT = 600  # seconds after which recordings and tokens are deleted
WINDOW, STEP, RANGE = 0.025, 0.01, 80  # of the spectrogram: seconds, seconds, dB below its maximum
FLOOR = 1e-5  # smallest amplitude of the spectrogram
INTRODUCTION = """# Speech as tokens

Record yourself or upload a file, and press Tokenize. The model turns it into a short sequence of numbers, the codes or
tokens; from these alone it makes speech again. Choose another speaker to hear the same codes in another voice.
"""


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for."""

    seconds: float = 30.0
    """longest utterance"""
    requests: int = 30
    """largest number of requests of one address in a minute"""
    megabytes: int = 20
    """largest upload"""

    def __post_init__(self) -> None:
        for name in ("seconds", "requests", "megabytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


class RateLimit:
    """Counts the requests of every client within the last PERIOD seconds."""

    def __init__(self, requests: int, clock: Callable[[], float] = time.monotonic):
        self.requests, self.clock = requests, clock
        self.times: dict[str, deque[float]] = {}
        self.lock = threading.Lock()

    def check(self, client: str) -> None:
        """Counts a request. Raises ValueError, and does not count it, if it is one too many."""
        with self.lock:
            now = self.clock()
            self.times = {name: times for name, times in self.times.items() if times[-1] > now - PERIOD}
            times = self.times.setdefault(client, deque())
            while times and times[0] <= now - PERIOD:
                times.popleft()
            if len(times) >= self.requests:
                raise ValueError(f"more than {self.requests} requests in a minute; wait a moment")
            times.append(now)


def check_gradio() -> None:
    """Raises ModuleNotFoundError, with the package to install, if gradio or matplotlib is missing."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when it is imported
    try:
        import gradio  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"vqaudio demo needs {error.name}: pip install 'vqaudio[demo]'") from error


def read_utterance(path: Path, sample_rate: int, limits: Limits) -> torch.Tensor:
    """An uploaded file -> (T,) at `sample_rate`, in Hz. Raises AudioError, which names it without its folder."""
    try:
        frames, rate = num_frames(path)
        if rate < MIN_RATE:
            raise AudioError(f"{path} has {rate} samples per second; at least {MIN_RATE} are needed")
        if frames > limits.seconds * rate:
            raise AudioError(f"{path} lasts {frames / rate:.1f} s; at most {limits.seconds:g} s are accepted")
        return torch.from_numpy(read_audio(path, sample_rate))
    except AudioError as error:
        raise AudioError(str(error).replace(str(path), path.name)) from error


def draw(wav: torch.Tensor, tokens: Tokens, codebook_size: int) -> npt.NDArray[np.uint8]:
    """Waveform (T,), its spectrogram and the codes over time, one above the other -> RGB image (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rate, seconds = tokens.sample_rate, tokens.seconds
    figure = Figure(figsize=(4.6, 5.4), dpi=200, layout="constrained")  # text is readable on a phone's width
    canvas = FigureCanvasAgg(figure)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1, 2, 2))
    top.plot(np.arange(len(wav)) / rate, wav, linewidth=0.4, color="#1f5fa8")
    top.set(title="the utterance and its codes", ylabel="amplitude", ylim=(-1, 1), xlim=(0, seconds))
    window = torch.hann_window(round(WINDOW * rate))
    step = round(STEP * rate)
    spectra = torch.stft(wav, len(window), step, window=window, pad_mode="constant", return_complex=True)
    levels = 20 * spectra.abs().clamp_min(FLOOR).log10()  # (bins, frames) dB
    loudest = max(float(levels.max()), RANGE + 20 * math.log10(FLOOR))  # so that silence is dark
    middle.imshow(
        levels,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, rate / 2000),
        vmin=loudest - RANGE,
        vmax=loudest,
        cmap="magma",
    )
    middle.set(ylabel="frequency (kHz)")
    middles = (np.arange(len(tokens.codes)) + 0.5) * tokens.hop / rate
    bottom.scatter(middles, tokens.codes, s=4, color="#b03a2e", linewidths=0, clip_on=False)
    bottom.set(ylabel="code", xlabel="time (s)", ylim=(-codebook_size * 0.02, codebook_size * 1.02))
    figure.align_ylabels()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def build_page(model: SpeechVQVAE, limits: Limits = Limits()) -> "gr.Blocks":
    """The page; its functions are also called over HTTP, as /tokenize and /resynthesize. See `launch`."""
    import gradio as gr

    rate_limit = RateLimit(limits.requests)

    def checked(work: Callable[[], Any], request: gr.Request) -> Any:
        """The result of `work`; errors that the visitor can do something about are shown on the page."""
        try:
            rate_limit.check(request.client.host if request.client else "")
            return work()
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def tokenize(path: str | None, speaker: str, request: gr.Request):
        def work():
            if path is None:
                raise ValueError("record or upload an utterance first")
            file = Path(path)
            wav = read_utterance(file, model.sample_rate, limits)
            tokens = model.tokenize(wav)
            saved = Path(tempfile.mkdtemp(dir=file.parent)) / f"{file.stem}.jsonl"
            write_tokens(saved, [TokenRow(file.stem, None, tokens)])
            facts = (
                f"{tokens.seconds:.2f} s of speech are **{len(tokens.codes)} codes**, {model.frame_rate:g} per second: "
                f"{bits_per_second(model)}; as 16-bit audio, {16 * model.sample_rate:,}. "
                f"{len(tokens.codes.unique())} different ones of {model.codebook_size} codes occur."
            )
            image = draw(wav, tokens, model.codebook_size)
            button = gr.DownloadButton(value=str(saved), interactive=True)
            return tokens, True, facts, image, spoken(tokens, speaker), button

        return checked(work, request)

    def resynthesize(tokens: Tokens | None, tokenized: bool, speaker: str, request: gr.Request):
        def work():
            if tokens is None and tokenized:
                raise ValueError("the tokens were deleted after a while; press Tokenize again")
            return spoken(tokens, speaker)

        return checked(work, request)

    def spoken(tokens: Tokens | None, speaker: str) -> tuple[int, npt.NDArray[np.int16]] | None:
        speaks = speaker if model.speakers else None
        return tokens and (model.sample_rate, to_int16(model.decode(tokens, speaks).numpy()))

    with gr.Blocks(title="vqaudio", delete_cache=(KEPT, KEPT), analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        utterance = gr.Audio(
            sources=["microphone", "upload"],
            type="filepath",
            label=f"Utterance (at most {limits.seconds:g} s)",
            buttons=["download"],  # none that shares it with another host
        )
        names = list(model.speakers) or ["none"]
        speaker = gr.Dropdown(names, label="Speaker of the resynthesis", visible=bool(model.speakers))
        button = gr.Button("Tokenize", variant="primary")
        facts = gr.Markdown()
        audio = gr.Audio(label="Resynthesis", interactive=False, buttons=["download"])
        figure = gr.Image(
            show_label=False,  # it would cover the figure
            alt_text="waveform, spectrogram and codes over time",
            format="png",
            buttons=[],
        )
        download = gr.DownloadButton("Download tokens (JSON Lines)", interactive=False)
        tokens, tokenized = gr.State(time_to_live=KEPT), gr.State(False)
        outputs = [tokens, tokenized, facts, figure, audio, download]
        button.click(tokenize, [utterance, speaker], outputs, api_name="tokenize")
        speaker.change(resynthesize, [tokens, tokenized, speaker], audio, api_name="resynthesize")
    return page


def launch(page: "gr.Blocks", host: str, port: int, limits: Limits = Limits()) -> str:
    """Serves the page in a thread, one request at a time -> its address.

    Nothing is loaded from other hosts or sent to them. Raises OSError if the port is taken or `host` is no IPv4 address
    of this machine.
    """
    from gradio import themes

    fonts = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    page.queue(max_size=16, default_concurrency_limit=1)
    with socket.socket() as tried:  # gradio's own message is about its environment variables
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a page may just have ended
        try:
            tried.bind((host, port))
        except OSError as error:
            other = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host (IPv4)"
            raise OSError(f"cannot listen on port {port} of {host}: {error.strerror}; give another {other}") from error
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=limits.megabytes * 2**20,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        theme=themes.Default(font=fonts[0], font_mono=fonts[1]),
        css=".gradio-container {max-width: 44rem !important; margin: auto}",
    )
    return url
