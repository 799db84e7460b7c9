"""The one line of an error that was raised in a worker process."""

from __future__ import annotations

import re

# What torch makes of it (``torch._utils.ExceptionWrapper``): the whole traceback is the message.
_CAUGHT = re.compile(r"Caught (\w+) in [^\n]+\.\nOriginal ")


def without_worker_traceback(error: BaseException) -> str:
    """Return the message that an exception had before torch raised it again out of a ``DataLoader``'s worker.

    Args:
        error: Any exception.

    Returns:
        Its own message; that of ``error`` as it is if it comes from no worker.
    """
    text = str(error)
    if not (caught := _CAUGHT.match(text)):
        return text
    # the last one in the traceback: those before it are its causes
    message = re.split(rf"^(?:\w+\.)*{caught[1]}: ", text, flags=re.MULTILINE)[-1]
    return message.strip()
