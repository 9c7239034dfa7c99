"""SIGINT and SIGTERM as a request to finish the step and save."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from caviar.train.loop import StopRequest


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield a StopRequest that the first SIGINT or SIGTERM sets; a second one interrupts at once.

    Outside the main thread signals cannot be caught, and the request stays unset.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
