"""Which losses of earlier steps are still held with their graphs: looked at directly, not guessed from memory."""

from weakref import WeakSet

from torch import Tensor

MARK = "caviar kept losses"


class _Mark:
    """Lives as long as the node of the graph that it is put on."""

    __slots__ = ("__weakref__",)


class KeptLosses:
    """Counts the losses whose graph somebody still holds, in a list or in a running sum.

    Each loss's last node gets a mark, which goes when the node does. Nothing is kept alive by it, and what backward
    has freed stays free.
    """

    def __init__(self) -> None:
        self._alive: WeakSet[_Mark] = WeakSet()

    def add(self, loss: Tensor) -> None:
        """Take in the loss of a step, as it comes out of the loop; one without a graph is passed over."""
        metadata = getattr(loss.grad_fn, "metadata", None)
        if metadata is not None:
            mark = _Mark()
            metadata[MARK] = mark
            self._alive.add(mark)

    def count(self) -> int:
        """How many are held besides the last one, which the loop has at hand anyway."""
        return max(0, len(self._alive) - 1)
