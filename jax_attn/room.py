"""Whether what is asked for can be held at all, known before a device runs out of memory."""

from __future__ import annotations

import os

from jax_attn.errors import InputError

SURELY_THERE = 1 << 28  # bytes that need no looking


def require_room(n_bytes: int, what: str) -> None:
    """InputError, with both sizes, for more than this machine or its accelerator has.

    `what` takes `n_bytes`. What just fits may still find that others have taken the room.
    """
    if n_bytes < SURELY_THERE:
        return
    room = max(_machine_memory(), _device_memory())
    if room and n_bytes > room:
        raise InputError(
            f"{what} would take {n_bytes / 1e9:,.0f} GB; there are {room / 1e9:,.0f} GB of memory"
        )


def _machine_memory() -> int:
    """Bytes; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def _device_memory() -> int:
    """Bytes of the default device; 0 where it does not tell, as a CPU."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 0)
