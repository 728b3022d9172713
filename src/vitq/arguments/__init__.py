"""The arguments of the verbs: what each may be, and how it is read."""

from vitq.arguments.rules import BITS_OR_TABLE, FLAG, MODEL, PATH, RULES, TEXT, check, checked, leave_out, whole

__all__ = ["BITS_OR_TABLE", "FLAG", "MODEL", "PATH", "RULES", "TEXT", "check", "checked", "leave_out", "whole"]
