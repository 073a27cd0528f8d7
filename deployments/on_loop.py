"""When the event loop computes a batch itself: where batches are short, and for whom it waits before it does.

Waking a thread would take longer than such a batch. Knows nothing of threads: its user guards it.
"""

SHORT_S = 0.001
"""How long a batch may take on the event loop."""
HICCUP_S = 0.02
"""How long one may take between short ones, because others use the cores too."""
SHORT_RUNS = 32
"""Batches in a row that must have been short before."""


class Shortness:
    """What a batch may cost to be short, known from the time that batches take.

    That is as much as the dearest since one was not short, after so many; 0 before.
    """

    def __init__(self) -> None:
        self.cost = 0
        self._runs, self._hiccup = 0, False

    def learn(self, cost: int, took_s: float) -> None:
        """A batch of that cost took so long."""
        if took_s < SHORT_S:
            self._runs, self._hiccup = self._runs + 1, False
            if self._runs >= SHORT_RUNS:
                self.cost = max(self.cost, cost)
        elif took_s < HICCUP_S and not self._hiccup:
            self._hiccup = True
        else:
            self._runs, self.cost, self._hiccup = 0, 0, False


class Patience:
    """Whether the event loop lets requests that are on their way join a batch before it computes that.

    Over gRPC they come one in several turns of the loop, and each would be computed alone. Whether any are on their way
    is not to be seen; so a batch is held back until none has come for `LONGEST_S`, or the loop has had nothing else to
    do for `IDLE_S`. After one held back in vain as many are not held back as twice those after the last time, up
    to `MOST_PASSED`. `ENOUGH` requests never are.
    """

    IDLE_S = 0.00008
    TURN_S = 0.00002
    """A turn of the loop that takes longer had something else to do."""
    LONGEST_S = 0.001
    MOST_PASSED = 32
    ENOUGH = 16

    def __init__(self) -> None:
        self._first = self._came = 0
        self._came_s = self._busy_s = self._turn_s = 0.0
        self._passing = self._passed = 0
        self._lone = False

    def alone(self) -> bool:
        """Whether requests have come alone for so long that the next does not wait for those of its own turn either."""
        return self._lone and self._passing > 0 and self._passed == self.MOST_PASSED

    def let_by(self) -> None:
        """Such a one is computed now."""
        self._passing -= 1

    def holds(self, waiting: int, now_s: float) -> bool:
        """Whether to wait for another turn of the loop, with so many requests waiting at that time in seconds."""
        if self._passing:
            self._passing -= 1
            return False
        if not self._first:
            self._first, self._turn_s = waiting, now_s
        if waiting != self._came:
            self._came, self._came_s = waiting, now_s
        if self._came_s == now_s or now_s - self._turn_s > self.TURN_S:
            self._busy_s = now_s
        self._turn_s = now_s
        if waiting < self.ENOUGH and now_s - self._came_s < self.LONGEST_S and now_s - self._busy_s < self.IDLE_S:
            return True
        vain = waiting == self._first < self.ENOUGH
        self._passing = self._passed = min(2 * self._passed or 1, self.MOST_PASSED) if vain else 0
        self._lone = waiting == 1
        self._first = self._came = 0
        return False
