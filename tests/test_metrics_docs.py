"""docs/metrics.md says what the code does."""

import re
from pathlib import Path

from otel_url_monitor import catalogue
from otel_url_monitor.config.values import RESERVED_LABELS
from otel_url_monitor.instruments import ROWS
from otel_url_monitor.model import FailureReason, MetricsLevel, Outcome, Phases, SkipReason, mask_url

DOCUMENT = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text("utf-8")


def _between(name: str) -> str:
    _, _, rest = DOCUMENT.partition(f"<!-- {name}: begin -->\n")
    part, end, _ = rest.partition(f"<!-- {name}: end -->")
    assert end
    return part


def _words(begin: str, end: str) -> str:
    text = " ".join(DOCUMENT.split())
    return text[text.index(begin) : text.index(end)]


def _code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_catalogue_is_the_code_s() -> None:
    """The table of metrics is exactly what `otel-url-monitor metrics` prints."""
    assert _between("catalogue") == catalogue.as_markdown()


def test_every_failure_reason_is_explained() -> None:
    """The table of reasons has every reason there is, with its class and some words, and no other."""
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.+) \|$", _between("reasons"), re.MULTILINE)
    assert [row[:2] for row in rows] == [(reason.value, reason.failure_class.value) for reason in FailureReason]
    assert all(words.strip() for *_, words in rows)


def test_the_masked_keys_are_masked() -> None:
    """The query keys that are documented as secret are."""
    keys = _code(_words("the query keys ", "read `REDACTED`"))
    assert len(keys) == 12
    for key in (*keys, "X-Amz-Signature"):
        assert mask_url(f"https://example.com/?{key}=x") == f"https://example.com/?{key}=REDACTED"


def test_the_reserved_labels_are_listed() -> None:
    """The label names that users may not use are all named."""
    assert tuple(_code(_words("Your labels may not be named ", "nor begin with"))) == RESERVED_LABELS


def test_closed_sets_are_complete() -> None:
    """Every outcome, level, phase and reason to skip is named."""
    named = set(_code(DOCUMENT))
    for values in (Outcome, MetricsLevel, SkipReason, Phases.__dataclass_fields__):
        assert named >= set(values)


def test_every_metric_that_the_text_names_exists() -> None:
    """No sentence speaks of a metric that is not in the catalogue."""
    spoken = {word for word in _code(DOCUMENT) if re.fullmatch(r"(sample|probe|url_monitor)_\w+", word)}
    assert spoken <= {row.exposed for row in ROWS} | {row.name for row in ROWS}
