"""A training step that a GPU replays: recorded once as a CUDA graph, so that Python and launches cost nothing."""

from collections.abc import Callable, Sequence

import torch

WARM_UP = 3
"""Steps that run as they are before one is recorded: kernels are compiled and the optimizer's state is made there."""


class Replay:
    """Calls ``step``; from the fourth call on a GPU replays what the third one launched.

    ``step`` may read and write only tensors that stay where they are, and ``generators`` of random numbers on the
    device; what changes from call to call must be a tensor too. It returns a tensor, the same one at each replay.
    On a CPU every call runs ``step``. Source: vitq; torch.cuda.graphs' whole-network capture.
    """

    def __init__(
        self, step: Callable[[], torch.Tensor], device: torch.device, generators: Sequence[torch.Generator] = ()
    ) -> None:
        self.step, self.device, self.generators = step, device, generators
        self.again()

    def again(self) -> None:
        """Forget the recording: tensors that ``step`` reads were replaced."""
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        """Take one step and return what it returns."""
        if self.device.type != "cuda":
            return self.step()
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._aside()
        if self._graph is None:
            self._record()
        assert self._graph is not None and self._result is not None
        self._graph.replay()
        return self._result

    def _aside(self) -> torch.Tensor:
        """Run on a stream of its own, as a recording does: gradients remember the stream of their first use."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            result = self.step()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return result

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        with torch.cuda.device(self.device), torch.cuda.graph(graph):
            self._result = self.step()
        self._graph = graph
