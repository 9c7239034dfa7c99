"""Whether an error says that memory ran out."""

import re

import torch

REFUSED = ("not enough memory", "can't allocate memory", "out of memory", "std::bad_alloc", "ALLOC_FAILED")
"""Words of the errors that a failed allocation comes as."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or on the CPU, where torch has no error of its own for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in REFUSED)


def shortage(error: BaseException) -> str:
    """Say what was asked for in vain, without a full stop."""
    asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
    return "there is not enough memory" + (f" ({asked[1]} more were asked for)" if asked else "")
