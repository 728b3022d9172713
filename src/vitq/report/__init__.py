"""What people read about a run: tables on the console."""

from vitq.report.tables import closing_table, comparison_table, scope_table

__all__ = ["closing_table", "comparison_table", "scope_table"]
