"""What the benchmark scripts share: vitq's command line, and their own."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def vitq(*arguments: str) -> dict[str, Any]:
    """Run the command line in a fresh process and return what it printed as JSON."""
    command = [sys.executable, "-m", "vitq.cli", *arguments, "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


Verb = Callable[[argparse.Namespace], None]


def run_or_table(about: str | None, options: Callable[[argparse.ArgumentParser], None], run: Verb, table: Verb) -> None:
    """Read a command line of two verbs and call one: ``run``, which takes ``options``, or ``table``."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    runner = verbs.add_parser("run", help="measure")
    options(runner)
    runner.set_defaults(call=run)
    verbs.add_parser("table", help="print the tables").set_defaults(call=table)
    chosen = parser.parse_args()
    chosen.call(chosen)
