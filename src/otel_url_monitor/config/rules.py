"""What spans several keys, and the complete targets that come of a file without faults.

pydantic stops judging a section once a key of it failed, so these rules have a pass of their own over whatever was
sound: all faults are found at once. A rule is silent about what follows from a fault that is already known.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from otel_url_monitor.config.document import ConfigError, Document, KeyPath
from otel_url_monitor.config.files import FileJudge
from otel_url_monitor.config.schema import (
    BasicAuthSection,
    FileSection,
    LimitsSection,
    RequestSection,
    TargetSection,
    TlsSection,
)
from otel_url_monitor.config.values import format_duration
from otel_url_monitor.model import (
    DEFAULT_TIMEOUT,
    BasicAuth,
    BearerToken,
    Expect,
    Limits,
    Request,
    Target,
    Tls,
    mask_url,
)

MAX_LABELS = 16
_LEAST_TIMEOUT = 0.001  # libcurl counts in milliseconds, and 0 means no limit at all

_Identity = tuple[str, tuple[tuple[str, str], ...]]


def build_targets(document: Document, section: FileSection, folder: Path) -> tuple[Target, ...]:
    """Judge the sections as a whole and make the targets of them.

    Relative paths start from the folder.

    Raises:
        ConfigError: the document has faults, these or earlier ones.
    """
    _judge_common(document, section)
    files = FileJudge(document, folder)
    identities: dict[_Identity, KeyPath] = {}
    for path, target in _numbered(section):
        _judge_target(document, path, section, target)
        files.judge(path, target)
        _judge_identity(document, path, section, target, identities)
    if document.faults:
        raise ConfigError(tuple(document.faults))
    return tuple(_target(document, path, section, target, folder) for path, target in _numbered(section))


def _numbered(section: FileSection) -> list[tuple[KeyPath, TargetSection]]:
    return [(("targets", index), target) for index, target in enumerate(section.targets or ())]


def _is_known(document: Document, path: KeyPath) -> bool:
    """Whether the file gives the key, or may have meant to."""
    return document.has(path) or document.is_broken(path)


def _judge_common(document: Document, section: FileSection) -> None:
    interval, timeout = ("interval",), ("timeout",)
    is_sound = not document.is_broken(interval) and not document.is_broken(timeout)
    if is_sound and document.has(timeout) and section.timeout > section.interval:
        shown = (
            document.written(interval)
            if document.has(interval)
            else f"{format_duration(section.interval)}, the default"
        )
        document.refuse(timeout, f"must be at most the interval ({shown}), got {document.written(timeout)}")
    count = len(_labels(section, None))
    if count > MAX_LABELS:
        document.refuse(("labels",), f"at most {MAX_LABELS} labels, got {count}")


def _judge_target(document: Document, path: KeyPath, section: FileSection, target: TargetSection) -> None:
    if not target.url and not document.is_broken((*path, "url")):
        document.note((*path, "url"), "is required")
    _judge_times(document, path, section, target)
    _judge_label_count(document, path, section, target)
    if target.request:
        _judge_request(document, (*path, "request"), target.request)


def _judge_times(document: Document, path: KeyPath, section: FileSection, target: TargetSection) -> None:
    interval_path = _inherited(document, path, "interval")
    timeout_path = _inherited(document, path, "timeout")
    if len(interval_path) == len(timeout_path) == 1:
        return  # judged once for all
    if document.is_broken(interval_path) or document.is_broken(timeout_path) or not document.has(timeout_path):
        return
    interval = (target if len(interval_path) > 1 else section).interval
    timeout = (target if len(timeout_path) > 1 else section).timeout
    if timeout > interval:
        _note_times(document, interval_path, timeout_path, interval)


def _inherited(document: Document, path: KeyPath, key: str) -> KeyPath:
    return (*path, key) if _is_known(document, (*path, key)) else (key,)


def _note_times(document: Document, interval_path: KeyPath, timeout_path: KeyPath, interval: float) -> None:
    timeout = document.written(timeout_path)
    if len(timeout_path) == 1:
        written = document.written(interval_path)
        document.note(interval_path, f"must be at least the common timeout ({timeout}), got {written}")
        return
    shown = (
        document.written(interval_path) if document.has(interval_path) else f"{format_duration(interval)}, the default"
    )
    document.note(timeout_path, f"must be at most the interval ({shown}), got {timeout}")


def _judge_label_count(document: Document, path: KeyPath, section: FileSection, target: TargetSection) -> None:
    count = len(_labels(section, target))
    if target.labels and count > MAX_LABELS and not document.is_broken(("labels",)):
        document.note((*path, "labels"), f"at most {MAX_LABELS} labels with the common ones, got {count}")


def _judge_identity(
    document: Document, path: KeyPath, section: FileSection, target: TargetSection, seen: dict[_Identity, KeyPath]
) -> None:
    # A faulty common label may be one that a target's own labels replace or not: then nothing is known.
    is_unsure = document.is_broken((*path, "labels")) or (target.labels and document.is_broken(("labels",)))
    if not target.url or is_unsure:
        return
    first = seen.setdefault((mask_url(target.url), _labels(section, target)), path)
    if first is not path:
        document.note(path, f"same URL (secrets masked) and labels as {document.name(first)}")


def _judge_request(document: Document, path: KeyPath, request: RequestSection) -> None:
    auths = [(*path, key) for key in ("basic_auth", "bearer_token_file") if document.has((*path, key))]
    auths.sort(key=lambda auth: document.line(auth) or 0)
    _judge_headers(document, path, request.headers or {}, auths[:1])
    _judge_body(document, path)
    if len(auths) > 1:
        document.note(auths[1], _excludes(document, auths[0]))
    if request.basic_auth:
        _judge_basic_auth(document, (*path, "basic_auth"), request.basic_auth)


def _excludes(document: Document, other: KeyPath) -> str:
    return f"cannot be given together with {_sibling(document, other)}"


def _sibling(document: Document, path: KeyPath) -> str:
    return f"{path[-1]} on line {document.line(path)}"


def _judge_headers(document: Document, path: KeyPath, headers: Mapping[str, str], auths: Sequence[KeyPath]) -> None:
    seen: dict[str, KeyPath] = {}
    for name in headers:
        at = (*path, "headers", name)
        first = seen.setdefault(name.lower(), at)
        if first is not at:
            document.note(at, f"same header as {_sibling(document, first)}")
        if name.lower() == "authorization" and auths:
            document.note(at, _excludes(document, auths[0]))


def _judge_body(document: Document, path: KeyPath) -> None:
    bodies = [(*path, key) for key in ("body", "body_file") if document.has((*path, key))]
    if bodies and not _is_known(document, (*path, "method")):
        document.note(bodies[0], "a body needs a method, such as POST")
    if len(bodies) > 1:
        document.note(bodies[1], _excludes(document, bodies[0]))


def _judge_basic_auth(document: Document, path: KeyPath, auth: BasicAuthSection) -> None:
    if "username" not in auth.model_fields_set and not document.is_broken((*path, "username")):
        document.note((*path, "username"), "is required")
    password, file = (*path, "password"), (*path, "password_file")
    if document.has(password) and document.has(file):
        document.note(file, _excludes(document, password))
    elif not _is_known(document, password) and not _is_known(document, file):
        document.note(path, "password or password_file is required")


def _labels(section: FileSection, target: TargetSection | None) -> tuple[tuple[str, str], ...]:
    """A label with an empty value is no label, as in Prometheus; so a target can drop a common one."""
    merged = {**(section.labels or {}), **((target and target.labels) or {})}
    return tuple(sorted((name, value) for name, value in merged.items() if value))


def _target(document: Document, path: KeyPath, section: FileSection, target: TargetSection, folder: Path) -> Target:
    interval = (target if "interval" in target.model_fields_set else section).interval
    timeout_path = _inherited(document, path, "timeout")
    timeout = min(DEFAULT_TIMEOUT, max(_LEAST_TIMEOUT, round(0.8 * interval, 6)))
    if document.has(timeout_path):
        timeout = (target if len(timeout_path) > 1 else section).timeout
    return Target(
        url=target.url,
        display_url=mask_url(target.url),
        labels=_labels(section, target),
        interval=interval,
        timeout=timeout,
        request=_request(target.request, folder) if target.request else Request(),
        tls=_tls(target.tls, folder) if target.tls else Tls(),
        expect=Expect(status=target.expect.status) if target.expect else Expect(),
        limits=_limits(target.limits) if target.limits else Limits(),
        propagate=_propagates(section, target),
    )


def _request(section: RequestSection, folder: Path) -> Request:
    return Request(
        method=section.method,
        headers=tuple((section.headers or {}).items()),
        body=section.body if "body" in section.model_fields_set else None,
        body_file=_file(folder, section.body_file),
        auth=_auth(section, folder),
        follow_redirects=section.follow_redirects,
        max_redirects=section.max_redirects,
    )


def _auth(section: RequestSection, folder: Path) -> BasicAuth | BearerToken | None:
    if token_file := _file(folder, section.bearer_token_file):
        return BearerToken(file=token_file)
    auth = section.basic_auth
    if not auth:
        return None
    password_file = _file(folder, auth.password_file)
    return BasicAuth(
        username=auth.username, password=None if password_file else auth.password, password_file=password_file
    )


def _tls(section: TlsSection, folder: Path) -> Tls:
    return Tls(verify=section.verify, ca_file=_file(folder, section.ca_file), server_name=section.server_name or None)


def _propagates(section: FileSection, target: TargetSection) -> bool:
    own = target.tracing
    if own and "propagate" in own.model_fields_set:
        return own.propagate
    return section.tracing.propagate if section.tracing else True


def _limits(section: LimitsSection) -> Limits:
    return Limits(headers=section.headers, body=section.body)


def _file(folder: Path, name: str) -> Path | None:
    return folder / name if name else None
