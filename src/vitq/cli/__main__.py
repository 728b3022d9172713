"""``python -m vitq.cli`` is ``vitq``."""

from vitq.cli.app import main

if __name__ == "__main__":
    main()
