"""The vitq command: one verb per file, nothing heavy imported before a verb runs."""

import sys
from contextlib import suppress
from typing import Annotated, TextIO, cast

import typer

from vitq._version import __version__
from vitq.cli.allocate import allocate
from vitq.cli.bench import bench
from vitq.cli.compare import compare
from vitq.cli.console import note
from vitq.cli.demo import demo
from vitq.cli.diagnose import diagnose
from vitq.cli.doctor.doctor import doctor
from vitq.cli.errors import RUN_FAILED
from vitq.cli.evaluate import evaluate
from vitq.cli.export import export
from vitq.cli.granularity import granularity
from vitq.cli.models import models
from vitq.cli.quantize import quantize
from vitq.cli.recipes import recipes_app
from vitq.cli.report import report
from vitq.cli.seal import seal
from vitq.run.streams import Lasting, open_missing, silence

HELP = """Quantize vision transformers to 2-8 bits after training, from a few hundred unlabeled images.

First use:  vitq demo   ·   What is installed:  vitq doctor

Exit codes: 0 done, 1 unexpected error, 2 bad input, 3 the run failed, 4 artifact or resume, 130 stopped.
"""

app = typer.Typer(
    name="vitq",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    typer.echo(f"vitq {__version__}")
    raise typer.Exit


@app.callback()
def _vitq(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(quantize)
app.command()(evaluate)
app.command()(export)
app.command()(seal)
app.command()(bench)
app.command()(compare)
app.command()(report)
app.command()(diagnose)
app.command()(granularity)
app.command()(allocate)
app.command()(models)
app.add_typer(recipes_app, name="recipes")
app.command()(demo)
app.command()(doctor)


def main() -> None:
    """Run the command line; the process ends with the verb's exit code."""
    open_missing()
    stderr = sys.stderr
    sys.stderr = cast(TextIO, Lasting(lambda: stderr))  # warnings and tracebacks of libraries too
    with suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="vitq")
    except OSError as error:  # of a help text or a version, which no verb prints
        silence(sys.stdout)
        note(f"OutputError: cannot write to stdout: {error.strerror}", style="bold red")
        sys.exit(RUN_FAILED)
    finally:
        for stream in (sys.stdout, stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                silence(stream)
