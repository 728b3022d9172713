"""``vitq compare``: a suite of models, recipes, bits, budgets and seeds, measured once and set out in one table."""

from typing import Annotated

import typer

from vitq.cli.console import note, print_json, write
from vitq.cli.errors import guarded
from vitq.cli.options import AsJson, Device, Quiet


@guarded
def compare(
    suite: Annotated[str, typer.Argument(metavar="SUITE.yaml", help="The suite; docs/compare.md says what is in it.")],
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of its images and weights. Default: what the suite says.")
    ] = None,
    store: Annotated[
        str, typer.Option(metavar="DIR", help="Where runs and results are kept; suites may share it.")
    ] = "runs/store",
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of the leaderboard. Default: compare-SUITE beside the store."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Only cells whose name matches, or holds these words.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, max=1024, help="Cells at a time, each in a process of its own; 1 is this process.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Measure on a Ray cluster: its address, auto, or local to start one."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads of each cell. Default: torch's own, 1 with --ray.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="How often a cell is begun again whose worker has died.")
    ] = 2,
    known: Annotated[
        bool, typer.Option("--known", help="Measure nothing: set out what the store has, and name what is missing.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="End with exit code 3 where a golden score is not met, or no cell has one.")
    ] = False,
    renew_golden: Annotated[
        bool, typer.Option("--renew-golden", help="Write the scores into the suite's golden file; tolerances stay.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Measure anew what the store already has.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure a suite and write its leaderboard: Markdown, CSV, and HTML with Pareto plots.

    Example: vitq compare suites/local.yaml --data ../shared/data --jobs 2

    What is measured is never measured again: a stopped comparison goes on when it is called again.
    """
    from vitq import api

    found = api.compare(
        suite,
        data=data,
        store=store,
        out=out,
        only=only,
        jobs=jobs,
        ray=ray,
        threads=threads,
        device=device,
        retries=retries,
        measure=not known,
        overwrite=overwrite,
        renew_golden=renew_golden,
        progress=not quiet,
    )
    from vitq.suites.compare import as_plain
    from vitq.suites.leaderboard import markdown

    if as_json:
        print_json(as_plain(found))
    else:
        write(markdown(found.board, found.golden))
        for cell in found.board.missing:
            note(f"not measured: {cell.name}")
        done = len(found.board.cells)
        note(
            f"{found.measured} cells measured, {done - found.measured} known; saved {', '.join(map(str, found.files))}"
        )
    found.require_all()
    if check:
        found.require_golden()
