"""The memory of this process that nothing uses: what Python takes for garbage, what the C library keeps back."""

import ctypes
import gc


def tidy() -> None:
    """Free what is garbage, and spare the collector what is not: libraries and models are a million objects.

    Looking through them again and again cost a third of a small model's answers (0.23 ms against 0.17 at 32 clients).
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def trim() -> None:
    """Give freed memory back to the system where the C library keeps it, as glibc does between what is in use."""
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):
        give_back(0)
