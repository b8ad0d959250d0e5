"""Cookies between the hops of one probe, whatever the server writes into them."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests import PreparedRequest
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar

from otel_url_monitor.transport.cookies import cookie_message


def jar_after(*cookies: str) -> RequestsCookieJar:
    """The jar after a response of http://www.example.com/a/b that sets these cookies."""
    jar, request = RequestsCookieJar(), PreparedRequest()
    request.prepare(method="GET", url="http://www.example.com/a/b")
    raw = type("Raw", (), {"_original_response": cookie_message(("Set-Cookie", cookie) for cookie in cookies)})
    extract_cookies_to_jar(jar, request, raw)
    return jar


@pytest.mark.parametrize(
    ("cookie", "kept"),
    [
        ("a=b", ["a=b"]),
        ("a=b; Path=/; Domain=example.com; HttpOnly; SameSite=Lax; Max-Age=60", ["a=b"]),
        ("a=b; Expires=Wed, 01 Jan 2200 00:00:00 GMT", ["a=b"]),
        ("a=b; Expires=Wed, 01-Jan-2020 00:00:00 GMT", []),
        ("a=b; Max-Age=0", []),
        ("a=b; Domain=other.example", []),
        ("a=b; Expires=Thu, 99 Foo 2020 99:99:99 GMT", ["a=b"]),
        ("a=b; Max-Age", ["a=b"]),
        ("a=b; Max-Age=" + "9" * 4000, ["a=b"]),
        ("a=b; Version=99; Port=x; Comment", ["a=b"]),
        ("a=b; Path; Domain", ["a=b"]),
    ],
)
def test_cookies_are_read_as_browsers_read_them(cookie: str, kept: list[str]) -> None:
    """What RFC 6265 knows is obeyed; anything else in a cookie is ignored."""
    assert [f"{one.name}={one.value}" for one in jar_after(cookie)] == kept


def test_one_bad_cookie_spoils_no_other() -> None:
    """The cookies beside a malformed one are kept."""
    assert dict(jar_after("a=b; Max-Age", "c=d; Expires=never; Path=/")) == {"a": "b", "c": "d"}


def test_a_flood_of_cookies_is_cut() -> None:
    """A server that sets thousands of cookies costs no more than one that sets a hundred."""
    assert len(jar_after(*(f"n{number}=v" for number in range(5000)))) == 100


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")))
def test_no_cookie_raises_or_warns(cookie: str) -> None:
    """The standard library prints a warning with the cookie's text for what it cannot read: it never gets to."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jar_after(cookie, "a=b;" + cookie, "a=b; expires=" + cookie, "a=b; path=" + cookie, "a=b; max-age=" + cookie)
