"""What went wrong in sending."""

from dataclasses import dataclass


@dataclass(slots=True)
class Losses:
    """Counts so far. Written by the thread that sends, read by any.

    Attributes:
        failures: requests that were not answered by success, repetitions included.
        spans: spans that will not be sent any more.
    """

    failures: int = 0
    spans: int = 0
