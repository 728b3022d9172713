"""Try damaged and hostile files and arguments on vitq until a time limit, and print every case that breaks.

    PYTHONPATH=src python scripts/fuzz.py --seconds 600
    PYTHONPATH=src python scripts/fuzz.py --kind recipe --seed 17 --cases 1    # one case again

The cases are those of ``tests/corpus``, with other seeds. A case breaks where it ends in anything but a VitqError that
names the file or argument and is short, or a right result; where it takes longer than ``--slow`` seconds; or where
damage is not noticed. Ends with 1 where one broke.
"""

import argparse
import sys
import tempfile
import time
import warnings
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "corpus"))

from cases import KINDS, broken, case_of
from world import World


def main() -> int:
    """Run the cases; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="only these; default: all")
    parser.add_argument("--seed", type=int, default=10_000, help="the first seed; the tests use those below 1,000")
    parser.add_argument("--cases", type=int, help="so many seeds; default: until the time limit")
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit")
    parser.add_argument("--slow", type=float, default=20.0, help="seconds that one case may take")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    until, tried, failed = time.monotonic() + options.seconds, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for seed in count(options.seed) if options.cases is None else range(options.seed, options.seed + options.cases):
            for kind in options.kind or KINDS:
                if time.monotonic() > until:
                    print(f"{tried:,} cases, {failed} broke; the last seed was {seed}")
                    return int(failed > 0)
                began, case = time.monotonic(), case_of(kind, seed, world)
                wrong = broken(case)
                if wrong is None and (took := time.monotonic() - began) > options.slow:
                    wrong = f"it took {took:.0f} s"
                tried += 1
                if wrong is not None:
                    failed += 1
                    print(f"--kind '{kind}' --seed {seed} --cases 1\n    {case.what}\n    {wrong}", flush=True)
    print(f"{tried:,} cases, {failed} broke")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
