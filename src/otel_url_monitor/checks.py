"""Judge a complete response against what the target expects."""

from dataclasses import dataclass

from otel_url_monitor.model import Expect, FailureReason, Hop


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One check's judgement.

    Attributes:
        check: its name, the `check` label.
        failure: `None` when it passed.
        detail: what was expected and what came, for log and page.
    """

    check: str
    failure: FailureReason | None = None
    detail: str = ""


def judge(hop: Hop, expect: Expect) -> tuple[Verdict, ...]:
    """Every configured check's verdict on the final response, in a fixed order."""
    return (_status(hop, expect.status),)


def _status(hop: Hop, accepted: tuple[tuple[int, int], ...]) -> Verdict:
    if any(low <= hop.status <= high for low, high in accepted):
        return Verdict(check="status")
    wanted = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in accepted)
    detail = f"status {hop.status}, expected {wanted}"
    return Verdict(check="status", failure=FailureReason.UNEXPECTED_STATUS, detail=detail)
