"""The command line, as the benchmark scripts call it."""

import json
import subprocess
import sys
from typing import Any


def vitq(*arguments: str) -> dict[str, Any]:
    """Run the command line in a fresh process and return what it printed as JSON."""
    command = [sys.executable, "-m", "vitq.cli", *arguments, "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)
