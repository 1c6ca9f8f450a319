"""Random numbers of a step's global batch, and its division among processes and accumulation steps."""

import numpy as np
import numpy.typing as npt


def uniform_draws(seed: int, step: int, shape: tuple[int, ...], stream: int = 0) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), a pure function of the arguments; rows do not depend on how many are drawn."""
    key = np.array([seed, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key).jumped(stream)).random(shape)


def part_slice(batch_size: int, part: int, parts: int) -> slice:
    """Slice `part` of `parts` contiguous slices of a batch, whose sizes differ by at most one.

    Raises ValueError if batch_size is smaller than `parts`, or `part` is out of range.
    """
    if parts > batch_size:
        raise ValueError(
            f"batch_size {batch_size} cannot be divided into {parts} slices (processes x accumulation steps); "
            f"choose at least {parts}"
        )
    if not 0 <= part < parts:
        raise ValueError(f"part must lie in 0 to {parts - 1}, got {part}")
    return slice(part * batch_size // parts, (part + 1) * batch_size // parts)
