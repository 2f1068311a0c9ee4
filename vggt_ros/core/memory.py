"""Memory of a program that handles images for hours: freed blocks stay, and what was loaded is not searched again."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

# Parameters of mallopt(3). Source: glibc, malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 256 * 2**20  # of freed memory, at most: several windows' worth of images and clouds
LARGEST_BYTES = 64 * 2**20  # a larger block still goes back at once


def keep_freed_memory(kept_bytes: int = KEPT_BYTES, largest_bytes: int = LARGEST_BYTES) -> bool:
    """Let malloc hand out freed blocks of image size again; whether that can be set (glibc only).

    By default glibc returns blocks of some 100 kB and more to the system when they are freed, and the next image's are
    paged in anew, page by page, zeroed: lifting a 640x480 depth image took 3.0 ms instead of 0.2, and a window of nano
    8 to 15 % longer (docs/benchmarks.md). It is for whole programs: a library does not change its host's malloc.

    Args:
        kept_bytes: of freed memory, at most, below 2 GiB.
        largest_bytes: a larger block goes back at once.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL('libc.so.6')
        was_set = (libc.mallopt(_M_MMAP_THRESHOLD, largest_bytes), libc.mallopt(_M_TRIM_THRESHOLD, kept_bytes))
        return all(was_set)
    return False


def leave_loaded_alone() -> None:
    """Let the garbage collector pass over what exists by now; whole programs call it when all modules are imported.

    Torch and rclpy bring 190,000 objects that live as long as the process. A full collection looks at each of them with
    every thread standing still, 0.1 s, and a live stream loses the images of that time.
    """
    gc.collect()
    gc.freeze()
