"""``vitq seal``: accept an edited artifact."""

from typing import Annotated

import typer

from vitq.cli.console import print_json, show
from vitq.cli.errors import guarded
from vitq.cli.options import AsJson


@guarded
def seal(
    run: Annotated[str, typer.Argument(metavar="RUN", help="An artifact's folder whose files you have edited.")],
    as_json: AsJson = False,
) -> None:
    """Check an artifact whose files were edited, and seal it anew.

    Example: vitq seal runs/deit
    """
    import vitq

    changed = vitq.seal(run)
    if as_json:
        print_json({"path": run, "changed": changed})
        return
    show(f"sealed {run}; changed: {', '.join(changed) or 'nothing'}")
