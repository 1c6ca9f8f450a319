"""vqaudio demo: a page to speak into."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import Device, Model, Threads, load


def demo(
    model: Positional[Model] = "mini",
    host: Annotated[
        str,
        arg(help="address to listen on; 0.0.0.0: every visitor of the network, without a password or encryption"),
    ] = "127.0.0.1",
    port: Annotated[int, arg(help="port to listen on")] = 7860,
    max_seconds: Annotated[float, arg(help="longest utterance, in seconds")] = 30.0,
    max_requests: Annotated[int, arg(help="largest number of requests of one address in a minute")] = 30,
    device: Device = "auto",
    threads: Threads = None,
) -> int:
    """Serve a page to record or upload speech: waveform, spectrogram and codes, and the resynthesis by every speaker.

    It needs the extra [demo]. Browsers allow recording only on this machine (localhost) and over HTTPS.
    """
    from vqaudio.demo import Limits, build_page, check_gradio, launch

    check_gradio()
    limits = Limits(max_seconds, max_requests)
    if not 1 <= port <= 65535:
        raise ValueError(f"--port must lie in 1 to 65535, got {port}")
    page = build_page(load(model, device, threads), limits)
    url = launch(page, host, port, limits)
    print(f"{url}  (Ctrl-C ends it)", flush=True)
    page.block_thread()
    return 0
