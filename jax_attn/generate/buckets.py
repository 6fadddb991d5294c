"""The lengths that programs are made for: a new prompt is padded to one of them, not compiled."""

ALIGNED = 128  # attention kernels of accelerators take multiples of it
BUCKETS_AN_OCTAVE = 4  # so that less than a fifth of a long text is padding


def bucket(length: int) -> int:
    """The next power of two up to 16, multiple of 16 up to 128, then of 128, fewer the longer.

    0 1 2 4 8 16 32 48 64 80 96 112 128 256 384 … 1024 1280 …

    Short ones are not far apart, for every step reads all of a text's slots in the cache.
    """
    if length == 0:
        return 0
    power = 1 << (length - 1).bit_length()
    step = 16 if length <= ALIGNED else max(ALIGNED, power // (2 * BUCKETS_AN_OCTAVE))
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
