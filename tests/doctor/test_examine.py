from __future__ import annotations

from quince.doctor.examine import guarded
from quince.doctor.finding import Finding, Status


def test_a_check_that_fails_is_a_finding() -> None:
    def check() -> Finding:
        raise RuntimeError("no\nsuch file")

    finding = guarded("disk", check)
    assert (finding.check, finding.status) == ("disk", Status.PROBLEM)
    assert finding.text == "it cannot be checked: RuntimeError: no such file"
