"""How the joint batch of a step is drawn, and shared by processes and accumulation steps, whatever it holds."""

import numpy as np
import numpy.typing as npt


def uniform_draws(seed: int, step: int, shape: tuple[int, ...], stream: int = 0) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that depend on these arguments alone; the first rows do not depend on how many there are."""
    key = np.array([seed, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key).jumped(stream)).random(shape)


def part_slice(batch_size: int, part: int, parts: int) -> slice:
    """The `part`-th of `parts` slices of a batch: they follow each other, and their sizes differ by at most one.

    Raises ValueError where batch_size is smaller than `parts`, or `part` is none of them.
    """
    if parts > batch_size:
        raise ValueError(
            f"batch_size {batch_size} cannot be shared by {parts} parts (processes x accumulation steps): "
            f"choose at least {parts}"
        )
    if not 0 <= part < parts:
        raise ValueError(f"part must lie in 0 to {parts - 1}, got {part}")
    return slice(part * batch_size // parts, (part + 1) * batch_size // parts)
