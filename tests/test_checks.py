"""What a response must be, and what is said when it is not."""

import pytest

from otel_url_monitor.checks import Verdict, judge
from otel_url_monitor.model import Expect, FailureReason, Hop


@pytest.mark.parametrize("status", [200, 204, 299])
def test_an_expected_status_passes(status: int) -> None:
    """Both ends of a range belong to it."""
    assert judge(Hop(url="u", status=status), Expect()) == (Verdict(check="status"),)


@pytest.mark.parametrize(
    ("status", "accepted", "detail"),
    [
        (199, ((200, 299),), "status 199, expected 200-299"),
        (300, ((200, 299),), "status 300, expected 200-299"),
        (200, ((404, 404), (500, 503)), "status 200, expected 404, 500-503"),
        (999, ((100, 599),), "status 999, expected 100-599"),
    ],
)
def test_an_unexpected_status_says_what_was_expected(
    status: int, accepted: tuple[tuple[int, int], ...], detail: str
) -> None:
    """The operator reads what came and what would have been right."""
    failed = Verdict(check="status", failure=FailureReason.UNEXPECTED_STATUS, detail=detail)
    assert judge(Hop(url="u", status=status), Expect(status=accepted)) == (failed,)
