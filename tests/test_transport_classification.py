"""From libcurl's words to a reason: every row of the table, and nothing outside of it."""

import errno

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_url_monitor.model import FailureReason
from otel_url_monitor.transport.classification import Evidence, classify

TEXTS = (
    "",
    "Resolving timed out after 1000 milliseconds",
    "Recv failure: Connection reset by peer",
    "OpenSSL SSL_read: error:0A00045C:SSL routines::tlsv13 alert certificate required, errno 0",
    "OpenSSL SSL_read: error:0A000126:SSL routines::unexpected eof while reading, errno 0",
    "Too large response headers: 307201 > 307200",
    "chunk hex-length char not a hex digit: 0x7a",
    "nghttp2 recv error -904: Flooding was detected in this HTTP/2 session",
    "SSL: no alternative certificate subject name matches target host name 'localhost'",
    "Unsupported transfer encoding type 'frobnicate'",
    "Unrecognized content encoding type. libcurl understands gzip",
)

ROWS = (
    ("dns_error", Evidence(code=6, has_resolved=False, has_connected=False)),
    ("dns_timeout", Evidence(code=28, has_resolved=False, has_connected=False)),
    ("dns_timeout", Evidence(code=28, text=TEXTS[1], has_connected=False)),
    ("connection_refused", Evidence(code=7, os_errno=errno.ECONNREFUSED)),
    ("connect_timeout", Evidence(code=28, has_connected=False)),
    ("connect_timeout", Evidence(code=7, os_errno=errno.ETIMEDOUT)),
    ("network_unreachable", Evidence(code=7, os_errno=errno.ENETDOWN)),
    ("network_unreachable", Evidence(code=7, os_errno=errno.ENETUNREACH)),
    ("network_unreachable", Evidence(code=7, os_errno=errno.EHOSTDOWN)),
    ("network_unreachable", Evidence(code=7, os_errno=errno.EHOSTUNREACH)),
    ("connect_error", Evidence(code=7, os_errno=errno.EACCES)),
    ("proxy_error", Evidence(code=5)),
    ("proxy_error", Evidence(code=97)),
    ("connection_reset", Evidence(code=7, os_errno=errno.ECONNRESET)),
    ("connection_reset", Evidence(code=56, os_errno=errno.ECONNRESET)),
    ("connection_reset", Evidence(code=56, text=TEXTS[2])),
    ("connection_reset", Evidence(code=56, text="Recv failure", os_errno=errno.ECONNREFUSED)),
    ("connection_reset", Evidence(code=55)),
    ("tls_expired", Evidence(code=60, verify_result=10)),
    ("tls_not_yet_valid", Evidence(code=60, verify_result=9)),
    ("tls_hostname_mismatch", Evidence(code=60, verify_result=1, text=TEXTS[8])),
    ("tls_hostname_mismatch", Evidence(code=60, verify_result=0, text=TEXTS[8])),
    ("tls_hostname_mismatch", Evidence(code=60, verify_result=62)),
    ("tls_hostname_mismatch", Evidence(code=60, verify_result=64)),
    ("tls_self_signed", Evidence(code=60, verify_result=18)),
    ("tls_self_signed", Evidence(code=60, verify_result=19)),
    *(("tls_untrusted", Evidence(code=60, verify_result=number)) for number in (2, 20, 21, 22, 24, 25, 26, 27, 28)),
    ("tls_revoked", Evidence(code=60, verify_result=23)),
    ("tls_revoked", Evidence(code=91)),
    *(("tls_weak_certificate", Evidence(code=60, verify_result=number)) for number in (66, 67, 68)),
    ("tls_verify_error", Evidence(code=60, verify_result=7)),
    ("tls_verify_error", Evidence(code=90)),
    ("tls_client_cert_required", Evidence(code=98)),
    ("tls_client_cert_required", Evidence(code=35, text="sslv3 alert bad certificate", has_handshake=False)),
    ("tls_client_cert_required", Evidence(code=56, text=TEXTS[3])),
    *(("tls_handshake_error", Evidence(code=code)) for code in (35, 59, 64, 80, 83)),
    ("tls_timeout", Evidence(code=28, is_tls=True, has_handshake=False)),
    ("response_timeout", Evidence(code=28, is_tls=True)),
    ("response_timeout", Evidence(code=28, has_handshake=False)),
    ("body_timeout", Evidence(code=28, has_headers=True)),
    ("empty_response", Evidence(code=52)),
    ("empty_response", Evidence(code=56, text=TEXTS[4], has_begun=False)),
    ("truncated_response", Evidence(code=18)),
    ("truncated_response", Evidence(code=56, text=TEXTS[4])),
    ("truncated_response", Evidence(code=55, text=TEXTS[4])),
    *(("protocol_error", Evidence(code=code)) for code in (1, 8, 16, 92, 95, 96)),
    ("protocol_error", Evidence(code=56, text=TEXTS[6])),
    ("protocol_error", Evidence(code=56, text=TEXTS[6], os_errno=errno.ECONNREFUSED)),
    ("protocol_error", Evidence(code=56, text=TEXTS[7])),
    ("protocol_error", Evidence(code=61, text=TEXTS[9])),
    ("header_too_large", Evidence(code=100)),
    ("header_too_large", Evidence(code=56, text=TEXTS[5])),
    ("body_too_large", Evidence(code=63)),
    ("decode_error", Evidence(code=61, text=TEXTS[10])),
    ("local_resource", Evidence(code=27)),
    *(("local_resource", Evidence(code=7, os_errno=number)) for number in (0, 12, 23, 24, 99, 105)),
    *(("local_resource", Evidence(code=code, is_short=True)) for code in (6, 28, 77)),
    *(("config_error", Evidence(code=code)) for code in (3, 4, 43, 48, 53, 54, 58, 66, 77, 82)),
    ("canceled", Evidence(code=42)),
    *(("_OTHER", Evidence(code=code)) for code in (2, 23, 93, 94, 99, 101, 120)),
)

NOT_FROM_LIBCURL = {
    *("tls_version_too_old", "tls_required", "tls_forbidden", "certificate_expires_soon"),
    *("too_many_redirects", "redirect_blocked", "redirect_invalid"),
    *("unexpected_status", "body_mismatch", "header_mismatch", "json_mismatch", "http_version_mismatch"),
    *("response_too_small", "too_slow", "blocked_address", "internal_error"),
}


@pytest.mark.parametrize(("reason", "evidence"), ROWS, ids=[f"{number}-{row[0]}" for number, row in enumerate(ROWS)])
def test_each_failure_has_its_reason(reason: str, evidence: Evidence) -> None:
    """Every row of the documented table holds."""
    assert classify(evidence) == reason


def test_every_reason_has_a_row() -> None:
    """No reason that libcurl can give a cause for is left without a test."""
    assert {reason for reason, _ in ROWS} == set(FailureReason) - NOT_FROM_LIBCURL


@given(
    st.builds(
        Evidence,
        code=st.integers(0, 130),
        text=st.one_of(st.text(), st.sampled_from(TEXTS)),
        os_errno=st.integers(0, 140),
        verify_result=st.integers(0, 110),
    )
)
@example(Evidence(code=2**31))
def test_nothing_leaves_the_list(evidence: Evidence) -> None:
    """Whatever libcurl says, now or in a later version, the reason is one of the closed list."""
    assert isinstance(classify(evidence), FailureReason)


@given(st.integers(0, 140), st.sampled_from(TEXTS))
def test_errno_counts_only_where_it_is_fresh(number: int, text: str) -> None:
    """The errno that another attempt left behind changes no verdict but a refused or reset connection's."""
    for code in {*range(131)} - {7, 55, 56}:
        left_behind, clean = Evidence(code=code, text=text, os_errno=number), Evidence(code=code, text=text)
        assert classify(left_behind) == classify(clean)
