"""``vitq report``: the page of a run anew, or several runs on one page."""

from typing import Annotated

import typer

from vitq.cli.console import print_json, show
from vitq.cli.errors import guarded
from vitq.cli.options import AsJson


@guarded
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders that 'vitq quantize' wrote.")],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="The page. Default: report.html in the run's folder; comparison.html for several."
        ),
    ] = None,
    within: Annotated[float, typer.Option(help="Points of top-1 that may be lost and still be accepted.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run anew, with what 'vitq bench' measured since; of several runs, compare them.

    Example: vitq report runs/deit-w8a8 runs/deit-w4a4 --out compared.html
    """
    import vitq

    path = vitq.report(runs, out=out, within=within)
    if as_json:
        print_json({"page": path})
        return
    show(f"wrote {path}")
