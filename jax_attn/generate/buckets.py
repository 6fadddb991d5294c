"""The lengths that programs are made for: a new prompt is padded to one of them, not compiled."""

ALIGNED = 128  # attention kernels of accelerators like multiples of it
BUCKETS_AN_OCTAVE = 4  # of long texts, so that less than a fifth of a bucket is padding


def bucket(length: int) -> int:
    """The next power of two up to 128, then of the multiples of 128, fewer the longer.

    0 1 2 4 8 … 64 128 256 384 … 1024 1280 …
    """
    if length == 0:
        return 0
    power = 1 << (length - 1).bit_length()
    step = max(ALIGNED, power // (2 * BUCKETS_AN_OCTAVE))
    return min(power, -(-length // step) * step)


def cached_positions(prompt_length: int, block_size: int) -> int:
    """How many positions of a padded prompt are computed at once: all but its last, at least."""
    return min(bucket(prompt_length - 1), block_size)


def text_length(total: int, block_size: int) -> int:
    """The room for `total` tokens.

    A text that never outgrows the window, which takes block_size tokens and the one they predict,
    gets no more than that: its program has no part for sliding.
    """
    longest = block_size + 1
    return min(bucket(total), longest) if total <= longest else bucket(total)
