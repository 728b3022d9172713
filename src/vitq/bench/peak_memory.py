"""Peak memory of one compiled model, measured in a process of its own."""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from vitq.devices import peak_memory
from vitq.errors import ExportError
from vitq.export.runtimes import Content, compile_content, require


def added_peak_memory(runtime: str, content: Content, x_BCHW: torch.Tensor, threads: int, bfloat16: bool) -> int:
    """Return by how many bytes compiling ``content`` and one batch raise the peak memory of a fresh process.

    The process holds Python, torch and the runtime before; what they take is not counted. Raises ExportError where
    the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content"
        path.write_bytes(pickle.dumps(content))
        given = pickle.dumps((runtime, path, x_BCHW, threads, bfloat16))
        done = subprocess.run([sys.executable, "-m", __name__], input=given, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ExportError(f"{runtime} failed in a process of its own, where memory is measured: {' '.join(reason)}")
    return int(done.stdout.split()[-1])


def main() -> None:
    """Do what standard input says and print the bytes."""
    runtime, path, x_BCHW, threads, bfloat16 = pickle.load(sys.stdin.buffer)
    require(runtime)
    before = peak_memory(torch.device("cpu"))
    session = compile_content(runtime, pickle.loads(path.read_bytes()), threads, bfloat16)
    session(x_BCHW)
    print(peak_memory(torch.device("cpu")) - before)


if __name__ == "__main__":
    main()
