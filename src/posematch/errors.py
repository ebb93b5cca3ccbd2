"""The one exception that scripts turn into a sentence and exit code 1."""

from __future__ import annotations

import re

# What torch makes of an exception of a loader's worker: it raises the class anew, with this
# heading and the whole traceback for its text.
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback ")


# PyTorch's allocators; the CUDA runtime; NVIDIA's libraries, whose handles take memory of the GPU
# that PyTorch's cache has left nothing of. They say so in a RuntimeError's text alone.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|out of memory|_ALLOC_FAILED|_ERROR, when calling `cu\w+Create"
    r"|_NOT_INITIALIZED when calling `cu\w+Create"
)


class PosematchError(Exception):
    """A bad input, told in one sentence: what is wrong, where, and what to do about it.

    Raised in a worker of a data loader, it arrives with the same sentence.
    """

    def __init__(self, *arguments: object) -> None:
        if len(arguments) == 1 and isinstance(arguments[0], str):
            arguments = (_sentence_alone(arguments[0], type(self).__name__),)
        super().__init__(*arguments)


def _sentence_alone(text: str, kind: str) -> str:
    """The text without the traceback that a loader's worker puts before it."""
    if not _IN_WORKER.match(text):
        return text
    # The last one: those before are causes.
    *_, sentence = re.split(rf"^(?:\w+\.)*{kind}: ", text, flags=re.MULTILINE)
    return sentence.strip()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, PyTorch's allocator or a GPU has run out of memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error))))
    )
