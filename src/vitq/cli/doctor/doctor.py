"""``vitq doctor``: is everything here that vitq needs, and how to get what is not."""

import dataclasses

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from vitq.cli.console import print_json, show
from vitq.cli.errors import UNEXPECTED, guarded
from vitq.cli.options import AsJson

STYLES = {"ok": "green", "missing": "yellow", "broken": "bold red"}


@guarded
def doctor(as_json: AsJson = False) -> None:
    """Check packages, devices, compiler and disk; ends with exit code 1 if vitq cannot work here."""
    from vitq.cli.doctor.check import Status
    from vitq.cli.doctor.environment import all_checks

    checks = list(all_checks())
    broken = any(check.status is Status.BROKEN for check in checks)
    if as_json:
        print_json({"ok": not broken, "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        table = Table(box=box.SIMPLE_HEAD)
        for header in ("", "", "found"):
            table.add_column(header, overflow="fold")
        for check in checks:
            remedy = f"\nto do: {check.remedy}" if check.remedy else ""
            status = f"[{STYLES[check.status]}]{check.status}[/]"
            table.add_row(check.name, status, escape(check.value + remedy))
        show(table)
        show("vitq cannot work here; see 'broken' above" if broken else "vitq can work here")
    if broken:
        raise typer.Exit(UNEXPECTED)
