"""Many steps of an optimiser without the host: on a GPU one CUDA graph of a step, replayed.

A step reads its key and sizes from tables on the device, at a counter that it advances itself, so
that all replays are alike. What it works on stays in the same memory for as long as the loop
lives: a second run, on other parameters, replays the first one's graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from tinc_codec.forks import Lock

if TYPE_CHECKING:
    import torch

# (parameters, key) to (losses, gradient), and an optimiser's step.
Gradient: TypeAlias = "Callable[..., tuple[torch.Tensor, torch.Tensor]]"
Update: TypeAlias = Callable[..., None]

# Steps whose tables and losses are on the device at once.
WINDOW = 1024
# Steps before the capture: libraries set themselves up, kernels are compiled.
_WARM_UP = 3

# Torch captures one graph at a time in a process.
_capturing = Lock()


class Loop:
    """The steps of one optimiser on parameters of one size.

    Memory on the device: 20 bytes per parameter, and on a GPU what a step itself takes, which the
    graph keeps.

    Parameters
    ----------
    gradient : callable
        Given (parameters, key=key): losses (chunks,) and the gradient (size,).
    update : callable
        See :meth:`tinc_codec.engines.gpu.problem.Problem.run`.
    chunks, size : int
        Losses of a step, parameters in all.
    device : torch.device
        Where everything lies.
    """

    def __init__(
        self, gradient: Gradient, update: Update, chunks: int, size: int, device: torch.device
    ) -> None:
        import torch

        self.update = update
        self._gradient = gradient
        self._device = device
        self._state = torch.zeros((4, size), dtype=torch.float32, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._keys = torch.zeros(WINDOW, dtype=torch.int64, device=device)
        self._sizes = torch.zeros((WINDOW, 2), dtype=torch.float32, device=device)
        self._losses = torch.zeros((WINDOW, chunks), dtype=torch.float32, device=device)
        self._graph: Any = None

    def run(
        self,
        parameters: torch.Tensor,
        factors: torch.Tensor,
        sizes: torch.Tensor,
        keys: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Do as many steps as there are keys.

        Parameters
        ----------
        parameters, factors : (size,) float32 tensor
            Where to start; factor of each parameter's rate.
        sizes : (steps, 2) float32 tensor
            What the update is given.
        keys : (steps,) int64 tensor
            What the gradient is given.

        Returns
        -------
        parameters : (size,) float32 tensor
            The last ones; the next run overwrites them.
        losses : (steps, chunks) float32 tensor
        """
        import torch

        found = []
        self._state.zero_()
        self._state[0], self._state[1] = parameters, factors
        for done in range(0, len(keys), WINDOW):
            n = min(WINDOW, len(keys) - done)
            self._keys[:n], self._sizes[:n] = keys[done : done + n], sizes[done : done + n]
            self._at.zero_()
            self._advance(n)
            found.append(self._losses[:n].clone())
        return self._state[0], torch.cat(found)

    def _advance(self, steps: int) -> None:
        """Do some steps; on a GPU the first few of all are the graph's warm-up."""
        if self._device.type != "cuda":
            for _ in range(steps):
                self.step()
            return
        import torch

        with torch.cuda.device(self._device):
            if self._graph is None and steps > _WARM_UP:
                self._graph = _captured(self.step)
                steps -= _WARM_UP
            advance = self.step if self._graph is None else self._graph.replay
            for _ in range(steps):
                advance()

    def step(self) -> None:
        """Do the step at the counter; nothing waits for the device or depends on its values."""
        parameters, factors, first, second = self._state.unbind()
        key, sizes = self._keys.index_select(0, self._at), self._sizes.index_select(0, self._at)
        losses, gradient = self._gradient(parameters, key=key)
        self.update(parameters, gradient[None], factors, first, second, *sizes[0].unbind())
        self._losses.index_copy_(0, self._at, losses[None])
        self._at += 1


def _captured(step: Callable[[], None]) -> Any:
    """Call step() a few times on a stream of its own, then capture it there, not running it."""
    import torch

    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with _capturing:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        try:
            # Other threads may go on allocating memory.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                step()
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # a capture that fails at its end leaves its own in place
            if ran_out_of_memory(error):
                raise torch.cuda.OutOfMemoryError(f"while a step was captured: {error}") from error
            raise
    return graph


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether a failed capture is due to a full device.

    The end of a capture that an allocation has spoiled raises an error of its own, which hides
    the allocator's; the driver's has no type of its own.
    """
    import torch

    found: BaseException | None = error
    while found is not None:
        if isinstance(found, torch.cuda.OutOfMemoryError) or "out of memory" in str(found):
            return True
        found = found.__cause__ or found.__context__
    return False
