"""``python -m vitq`` is ``vitq``."""

import sys


def main() -> None:
    """Run the command line; stopped while it is still being imported, it ends with the exit code of a stopped verb."""
    try:
        from vitq.cli.app import main as run

        run()
    except KeyboardInterrupt:
        print("Interrupted: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
