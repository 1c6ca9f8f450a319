"""Properties of video priors, for `vqaudio info`."""

from __future__ import annotations

from vqaudio.video.prior import VideoPrior


def video_facts(prior: VideoPrior) -> dict[str, str]:
    """Name -> property: class, parameters, codes of a frame, context, actions."""
    height, width = prior.cfg.map_shape
    parameters = sum(parameter.numel() for parameter in prior.parameters())
    return {
        "model": type(prior).__name__,
        "parameters": f"{parameters / 1e6:.3f} million",
        "codes": f"{height} x {width} of {prior.cfg.net.codebook_size} a frame, by model {prior.cfg.model}",
        "context": f"{prior.cfg.context} frames",
        "actions": ", ".join(prior.cfg.actions),
    }
