"""A YAML file as plain values: every scalar stays the text that was written, with the line of each key path."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from otel_url_monitor.config.document import ConfigError, Document, Fault, KeyPath, Node

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 32  # the deepest place the format has is 6; libyaml's own composer overflows the stack at 40,000

# The C parser reads 5,000 targets in 0.3 s, the Python one in 4 s.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))  # YAML 1.1, type null
_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|\$\{")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# YAML 1.1, section 5.1: what a stream may hold.
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HINTS = {
    "mapping values are not allowed": "; text that holds ': ' needs quotes",
    "did not find expected key": "; look for a wrong indentation or a missing ':'",
    "',' or '}'": "; between braces, text such as ${NAME} needs quotes",
    "could not find expected ':'": "; look for a key without ':' or a quote that is not closed",
}


def read(path: Path, environ: Mapping[str, str]) -> Document:
    """The file's values with `${VAR}` expanded.

    Raises:
        ConfigError: the file cannot be read, or not as one YAML mapping.
    """
    text = _text(path)
    document = Document(str(path))
    builder = _Builder(document, environ)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        raise _failure(path, *_explain(error, text)) from None
    except _TooDeepError as error:
        raise _failure(path, error.line, f"nested deeper than {MAX_DEPTH} levels") from None
    _require_mapping(document)
    document.prune()
    return document


def _failure(path: Path, line: int | None, message: str) -> ConfigError:
    return ConfigError((Fault(str(path), line, "", message),))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _failure(path, None, f"cannot read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise _failure(path, None, "must be at most 8MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _failure(path, raw.count(b"\n", 0, error.start) + 1, "expected UTF-8 text") from None
    if unprintable := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, unprintable.start()) + 1
        raise _failure(path, line, f"not valid YAML: control character {unprintable[0]!a}")
    return text


def _explain(error: yaml.YAMLError, text: str) -> tuple[int | None, str]:
    """Line and words of a syntax error."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return None, "not valid YAML"
    problem = error.problem or "cannot be parsed"
    lines = text.splitlines() or [""]
    mark = error.problem_mark
    line = min(mark.line + 1, len(lines))
    context = f" {error.context}" if error.context else ""
    if error.context_mark and error.context_mark.line + 1 != line:
        context += f" that begins on line {error.context_mark.line + 1}"
    if mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        return line, "not valid YAML: a tab where spaces are needed"
    hint = next((hint for words, hint in _HINTS.items() if words in problem), "")
    return line, f"not valid YAML: {problem}{context}{hint}"


def _require_mapping(document: Document) -> None:
    if document.data is None and not document.faults:
        document.data = {}
    if not isinstance(document.data, dict):
        if not document.faults:
            document.note((), "expected a mapping of keys such as 'targets:'")
        raise ConfigError(tuple(document.faults))


class _TooDeepError(Exception):
    def __init__(self, line: int) -> None:
        self.line = line


@dataclass(slots=True)
class _Frame:
    """A mapping or list that is still open; `key` is the one whose value comes next."""

    node: dict[str, Node] | list[Node]
    path: KeyPath
    key: str | None = None
    is_dropping: bool = False


class _Builder:
    """Puts parser events together, without recursion. Belongs to one thread."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._frames: list[_Frame] = []
        self._dropped_depth = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        if self._documents > 1:
            return
        if self._dropped_depth:
            self._drop(event)
        elif isinstance(event, yaml.NodeEvent):
            self._take_node(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._frames.pop()
        elif isinstance(event, yaml.DocumentStartEvent):
            self._start_document(event)

    def _start_document(self, event: yaml.Event) -> None:
        self._documents += 1
        if self._documents > 1:
            self._document.note((), "expected one YAML document, got another one here", _line(event))
        else:
            self._document.place((), 1)

    def _drop(self, event: yaml.Event) -> None:
        self._dropped_depth += isinstance(event, yaml.CollectionStartEvent)
        self._dropped_depth -= isinstance(event, yaml.CollectionEndEvent)
        if self._dropped_depth > MAX_DEPTH:  # the parser's time grows with the square of the depth
            raise _TooDeepError(_line(event))

    def _take_node(self, event: yaml.NodeEvent) -> None:
        frame = self._frames[-1] if self._frames else None
        if frame is None:
            self._document.data = self._value((), event, 1)
        elif isinstance(frame.node, list):
            path = (*frame.path, len(frame.node))
            frame.node.append(None)
            frame.node[-1] = self._value(path, event, _line(event))
        elif frame.is_dropping:
            frame.is_dropping = False
            self._drop(event)
        elif frame.key is None:
            self._take_key(frame, event)
        else:
            path, key, frame.key = (*frame.path, frame.key), frame.key, None
            frame.node[key] = self._value(path, event, self._document.line(path) or 0)

    def _take_key(self, frame: _Frame, event: yaml.NodeEvent) -> None:
        line = _line(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._document.note(frame.path, "expected plain text as a key", line)
            frame.is_dropping = True
            self._drop(event)
            return
        path = (*frame.path, event.value)
        self._note_decoration(path, event, line)
        if event.value == "<<" and event.implicit[0]:
            self._document.note(path, "merge keys (<<) are not supported", line)
            self._document.doubt(frame.path)
            frame.is_dropping = True
        elif event.value in frame.node:
            self._document.note(path, f"given twice, first on line {self._document.line(path)}", line)
            frame.is_dropping = True
        else:
            self._document.place(path, line)
            frame.key = event.value

    def _value(self, path: KeyPath, event: yaml.NodeEvent, line: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(path, event, line)
        self._document.place(path, line)
        if isinstance(event, yaml.AliasEvent):
            self._document.refuse(path, "aliases (*) are not supported", _line(event))
            return None
        if len(self._frames) >= MAX_DEPTH:
            raise _TooDeepError(_line(event))
        self._note_decoration(path, event, _line(event))
        node: dict[str, Node] | list[Node] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._frames.append(_Frame(node, path))
        return node

    def _scalar(self, path: KeyPath, event: yaml.ScalarEvent, line: int) -> str | None:
        is_null = event.implicit[0] and event.value in _NULLS
        self._document.place(path, line, None if is_null else event.value)
        self._note_decoration(path, event, line)
        if is_null:
            return None
        return self._expand(path, event) if "${" in event.value else str(event.value)

    def _note_decoration(self, path: KeyPath, event: yaml.NodeEvent, line: int) -> None:
        if event.anchor is not None:
            self._document.note(path, "anchors (&) are not supported", line)
        if getattr(event, "tag", None) is not None:
            self._document.refuse(path, "tags (!) are not supported", line)

    def _expand(self, path: KeyPath, event: yaml.ScalarEvent) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            value = self._environ.get(match["name"] or "")
            if value is None or _SURROGATE.search(value):
                self._document.refuse(path, _variable_fault(match["name"], value), _line_at(event, match.start()))
            return value or ""

        return _VARIABLE.sub(replace, event.value)


def _variable_fault(name: str | None, value: str | None) -> str:
    if name is None:
        return "expected ${NAME}; write $${ for a literal ${"
    return f"environment variable {name} is not {'set' if value is None else 'valid UTF-8'}"


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _line_at(event: yaml.ScalarEvent, offset: int) -> int:
    """The line of a character; below the first line only a literal block keeps its line breaks."""
    return _line(event) + (event.value.count("\n", 0, offset) + 1 if event.style == "|" else 0)
