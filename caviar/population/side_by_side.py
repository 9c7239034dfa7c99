"""Parts of a cohort on threads of their own, each with one intra-op thread."""

import ctypes
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from caviar.population.cohort import Blocks, Executor, Step, Task
from caviar.population.views import Shared, slice_of

AHEAD = 8
"""Steps that may wait for a thread: enough that none runs dry, few enough that batches do not fill memory."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
MALLOC: Final = ((M_ARENA_MAX, 1), (M_TRIM_THRESHOLD, 1 << 28), (M_MMAP_THRESHOLD, 1 << 25))
"""What glibc's malloc is told: see `share_freed_memory`."""


@cache
def share_freed_memory() -> bool:
    """Have the process keep the memory that threads free, in one place for all of them; return whether that worked.

    By itself glibc keeps an arena for each thread, and gives large blocks back to the system, which must clear them
    again for the next step. For two conv nets side by side this took 1.8 times the memory, and 1.1 times the time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return False
    return all(mallopt(name, value) for name, value in MALLOC)


class _Worker:
    """One thread that does what it is given, in order, and holds back the first error until somebody asks."""

    def __init__(self, number: int) -> None:
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue(AHEAD)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"caviar-members-{number}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        torch.set_num_threads(1)  # of this thread: teams of OpenMP threads on more cores than there are all crawl
        while (task := self._tasks.get()) is not None:
            try:
                if self.error is None:
                    task()
            except BaseException as error:  # kept for the thread that waits
                self.error = error
            finally:
                del task

    def put(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)

    def ask(self, task: Callable[[], Any]) -> "_Answer":
        """Do a task after all before it, and return where its result will be."""
        answer = _Answer(self)
        self._tasks.put(lambda: answer.give(task()))
        self._tasks.put(answer.done.set)
        return answer

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join()


class _Answer:
    def __init__(self, worker: _Worker) -> None:
        self._worker, self._value = worker, None
        self.done = threading.Event()

    def give(self, value: Any) -> None:
        self._value = value

    def wait(self) -> Any:
        while not self.done.wait(0.1):
            if self._worker.error is not None:
                break
        if self._worker.error is not None:
            raise self._worker.error
        return self._value


class SideBySide:
    """Trains consecutive parts of a cohort at once: steps are handed out and not waited for."""

    kind = "side by side"
    draws_globally = False

    def __init__(self, parts: Sequence[Executor]) -> None:
        share_freed_memory()
        self._parts = list(parts)
        self.num_members = sum(part.num_members for part in self._parts)
        ends = torch.tensor([part.num_members for part in self._parts]).cumsum(0).tolist()
        self._bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        self._workers = [_Worker(number) for number in range(len(self._parts))]

    def step(self, step: Step) -> None:
        for part, worker, (start, end) in self._all():
            if worker.error is not None:
                raise worker.error
            own = step.slice(start, end)
            worker.put(lambda part=part, own=own: part.step(own))  # type: ignore[misc]

    def visit(self, task: Task) -> None:
        for part, worker, (start, _) in self._all():
            worker.put(lambda part=part, start=start: task(part, start))  # type: ignore[misc]

    def live(self) -> Blocks:
        for part, _, (start, _) in self._all():
            for first, tensors in part.live():
                yield start + first, tensors

    def losses(self) -> Tensor:
        return torch.cat(self._gather(lambda part: part.losses()), dim=1)

    def outputs(self, inputs: Shared) -> Tensor:
        shares = {
            part: slice_of(inputs, start, end) for part, (start, end) in zip(self._parts, self._bounds, strict=True)
        }
        return torch.cat(self._gather(lambda part: part.outputs(shares[part])))

    def state(self) -> dict[str, Tensor]:
        parts = self._gather(lambda part: part.state())
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for part, worker, (start, end) in self._all():
            own = {name: tensor[start:end] for name, tensor in state.items()}
            worker.ask(lambda part=part, own=own: part.load(own)).wait()  # type: ignore[misc]

    def close(self) -> None:
        """End the threads, after the steps that still wait."""
        for worker in self._workers:
            worker.close()
        for part in self._parts:
            part.close()

    def _all(self) -> list[tuple[Executor, _Worker, tuple[int, int]]]:
        return list(zip(self._parts, self._workers, self._bounds, strict=True))

    def _gather(self, task: Callable[[Executor], Any]) -> list[Any]:
        """Have every part do something, at once, and return what came of it."""
        answers = [worker.ask(lambda part=part: task(part)) for part, worker, _ in self._all()]  # type: ignore[misc]
        return [answer.wait() for answer in answers]
