"""What a check says."""

from __future__ import annotations

import enum

import msgspec


class Status(enum.Enum):
    """PROBLEM: something does not work. WARNING: something may not, or works badly."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True):
    """``text`` says how it is; ``advice`` what to do about it, empty if nothing is to be done."""

    check: str
    status: Status
    text: str
    advice: str = ""


def ok(check: str, text: str) -> Finding:
    return Finding(check, Status.OK, text)


def warning(check: str, text: str, advice: str) -> Finding:
    return Finding(check, Status.WARNING, text, advice)


def problem(check: str, text: str, advice: str) -> Finding:
    return Finding(check, Status.PROBLEM, text, advice)
