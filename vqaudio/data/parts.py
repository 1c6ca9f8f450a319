"""How the joint batch of a step is shared by processes and accumulation steps, whatever it holds."""


def part_of(batch_size: int, part: int, parts: int) -> slice:
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
