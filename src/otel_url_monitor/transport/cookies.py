"""The cookies that a response sets, as requests' cookie jar wants them."""

import re
from collections.abc import Iterable
from email.message import Message
from types import SimpleNamespace

_MAX_COOKIES = 100
"""Taken of one response (RFC 6265 section 6.1 asks for 50): 5,000 of them cost 160 ms of CPU."""

# What RFC 6265 knows, when well-formed; the rest is ignored as browsers do. The jar of the standard library
# knows more (RFC 2965), and answers what it cannot read with a warning that quotes it.
_ATTRIBUTE = re.compile(
    r"\s*(?:path=/.*|domain=.+|secure|httponly|max-age=-?\d{1,10}"
    r"|expires=\w{3}, \d\d[ -](?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[ -]\d{4} \d\d:\d\d:\d\d gmt)\s*",
    re.IGNORECASE | re.ASCII,
)


def cookie_message(fields: Iterable[tuple[str, str]]) -> SimpleNamespace:
    """The shape in which the jar expects a response: `.msg.get_all("Set-Cookie")`."""
    message = Message()
    cookies = [value for name, value in fields if name.lower() == "set-cookie"]
    for cookie in cookies[:_MAX_COOKIES]:
        pair, *attributes = cookie.split(";")
        message["Set-Cookie"] = ";".join((pair, *filter(_ATTRIBUTE.fullmatch, attributes)))
    return SimpleNamespace(msg=message)
