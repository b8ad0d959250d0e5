"""The nouns: masking, identity, outcomes, the closed list of reasons."""

import pickle
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from factories import make_hop, make_result, make_target
from otel_url_monitor.model import BasicAuth, FailureClass, FailureReason, MetricsLevel, Outcome, Request, mask_url

SECRET_KEYS = (
    "token",
    "key",
    "api_key",
    "apikey",
    "secret",
    "password",
    "passwd",
    "pwd",
    "sig",
    "signature",
    "auth",
    "access_token",
)
CANARY = "c4n4ry"


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_secret_values_are_masked(key: str) -> None:
    """The value of every secret query key is hidden: in any case, and behind a prefix that ends in _ or -."""
    variants = (key, key.upper(), key.title(), f"my_{key}", f"X-Amz-{key}", key.replace("e", "%65"))
    query = "&".join(f"{variant}={CANARY}" for variant in variants)
    masked = "&".join(f"{variant}=REDACTED" for variant in variants)
    assert mask_url(f"https://example.com/a?{query}&page=2") == f"https://example.com/a?{masked}&page=2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com/?monkey=1&tokens=2&author=me", "https://example.com/?monkey=1&tokens=2&author=me"),
        ("https://example.com/?token", "https://example.com/?token"),
        ("https://example.com/?token=", "https://example.com/?token="),
        ("https://example.com/?token=a=b", "https://example.com/?token=REDACTED"),
        ("https://example.com/?a=1&&b=%20x+y", "https://example.com/?a=1&&b=%20x+y"),
        ("https://user:pass@example.com:8443/a", "https://example.com:8443/a"),
        ("https://user:p@ss@example.com/", "https://example.com/"),
        ("https://example.com/a#access_token=x", "https://example.com/a"),
        ("http://[::1]:8080/a;b=c", "http://[::1]:8080/a;b=c"),
        ("https://example.com", "https://example.com"),
    ],
)
def test_masking_touches_nothing_else(url: str, shown: str) -> None:
    """Credentials and fragment are dropped; every other part of a URL is shown as it was written."""
    assert mask_url(url) == shown


@given(st.text(max_size=60).map(lambda rest: f"https://example.com/{rest}") | st.text(max_size=60))
def test_masking_takes_every_url(url: str) -> None:
    """Whatever can be split as a URL can be masked, and masking twice is masking once."""
    try:
        urlsplit(url)
    except ValueError:
        assume(False)
    masked = mask_url(url)
    assume("[" not in urlsplit(url).netloc)  # "[@[]" loses the half of its brackets that made it splittable
    assert mask_url(masked) == masked


@given(
    st.sampled_from(SECRET_KEYS),
    st.sampled_from(("", "a_", "x-", "%41_")),
    st.text("&?%= ./ab1", max_size=10),
    st.sampled_from((str.lower, str.upper, str.title)),
)
def test_no_secret_survives_masking(key: str, prefix: str, around: str, change_case) -> None:
    """A secret stays hidden whatever stands around it in the query."""
    query = f"{around}&{prefix}{change_case(key)}={CANARY}&{around}"
    assert CANARY not in mask_url(f"https://user:{CANARY}@example.com/?{query}#{CANARY}")


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}[0-9]", fullmatch=True), st.text("abc1 %", min_size=1), min_size=1))
def test_ordinary_values_stay(query: dict[str, str]) -> None:
    """What is no secret is still there after masking."""
    url = "https://example.com/?" + "&".join(f"{key}={value.replace('%', '%25')}" for key, value in query.items())
    assert parse_qsl(urlsplit(mask_url(url)).query, keep_blank_values=True) == parse_qsl(
        urlsplit(url).query, keep_blank_values=True
    )


def test_identity_is_stable() -> None:
    """A target's id depends on its shown URL and labels alone, and is the same in every process and release."""
    target = make_target("https://example.com/?token=x", display_url="https://example.com/?token=REDACTED", name="shop")
    assert target.id == "5bee7b8b4143a3e6"
    assert make_target("https://example.com/?token=y", display_url=target.display_url, name="shop").id == target.id
    assert pickle.loads(pickle.dumps(target)).id == target.id
    assert make_target(target.display_url).id != target.id


def test_secrets_are_not_printed() -> None:
    """The printed form of a target holds neither its full URL nor its headers and password."""
    request = Request(headers=(("X", CANARY),), body=CANARY.encode(), auth=BasicAuth(username="me", password=CANARY))
    assert CANARY not in repr(make_target(f"https://example.com/?token={CANARY}", display_url="-", request=request))


@pytest.mark.parametrize("reason", FailureReason)
def test_reasons_travel(reason: FailureReason) -> None:
    """A reason keeps its identity and class on the way from a prober process."""
    travelled = pickle.loads(pickle.dumps(reason))
    assert travelled is reason
    assert travelled.failure_class is reason.failure_class
    assert str(travelled) == reason.value


@pytest.mark.parametrize("reason", FailureReason)
def test_outcome_follows_from_the_reason(reason: FailureReason) -> None:
    """Failures of our own making are unknown, all others are the target's."""
    internal = reason.failure_class is FailureClass.INTERNAL
    result = make_result(make_target(), failure=reason)
    assert result.outcome is (Outcome.UNKNOWN if internal else Outcome.FAILURE)


def test_a_result_without_failure_is_a_success() -> None:
    """No reason means success."""
    assert make_result(make_target(), make_hop()).outcome is Outcome.SUCCESS


@pytest.mark.parametrize(("statuses", "status"), [((), 0), ((302, 200), 200), ((302, 0), 0)])
def test_status_is_the_final_one(statuses: tuple[int, ...], status: int) -> None:
    """The status of a probe is that of its last exchange, 0 when that had none."""
    assert make_result(make_target(), *map(make_hop, statuses)).status == status


def test_levels_include_the_ones_before() -> None:
    """Each level shows what the one before shows, and more."""
    included = {level: [other.value for other in MetricsLevel if level.includes(other)] for level in MetricsLevel}
    assert included == {
        MetricsLevel.MINIMAL: ["minimal"],
        MetricsLevel.STANDARD: ["minimal", "standard"],
        MetricsLevel.FULL: ["minimal", "standard", "full"],
    }
