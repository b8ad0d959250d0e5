"""The shape of the file: which keys exist, what each holds, and the JSON Schema that follows from it.

The docstrings and descriptions of the sections are what an editor shows to the person who writes the file.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, PlainValidator, ValidationError, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from otel_url_monitor.config import values
from otel_url_monitor.config.document import Document, KeyPath, quote
from otel_url_monitor.model import DEFAULT_INTERVAL, DEFAULT_TIMEOUT, MetricsLevel, TracePolicy

# Keys that the format has and this version does not do yet, by section.
NOT_SUPPORTED_YET: Mapping[tuple[str, ...], tuple[str, ...]] = {
    (): ("discovery",),
    ("targets",): ("network",),
    ("targets", "request"): ("oauth2",),
    ("targets", "tls"): ("cert_file", "key_file", "min_version"),
    ("targets", "expect"): ("headers", "body", "json", "max_duration", "certificate_valid_for", "tls"),
}

_VARIABLE = {"type": "string", "pattern": r"\$\{"}


def _matching(pattern: str, *others: dict[str, Any]) -> WithJsonSchema:
    """Text of a pattern, or other types, or anything with a variable in it."""
    return WithJsonSchema({"anyOf": [*others, {"type": "string", "pattern": f"^(?:{pattern})$"}, _VARIABLE]})


def _integers(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


# A scalar stays the text that was written: `env: 5` and `env: no` are text to us, whatever they are to an editor.
_TEXT = WithJsonSchema({"type": ["string", "number", "boolean"]})
_NUMBER = "0*[0-9]{1,9}"
_URL = {"type": "string", "pattern": r"^[hH][tT][tT][pP][sS]?://[^/?#@]|\$\{"}
_LABEL_NAMES = {"pattern": f"^(?!.*__)(?!(?:{'|'.join(values.RESERVED_LABELS)})$){values.LABEL_NAME}$"}
_BOOL = "[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]"

Text = Annotated[str, PlainValidator(values.parse_text), _TEXT]
FileName = Annotated[str, PlainValidator(values.parse_file_name), _TEXT]
Host = Annotated[str, PlainValidator(values.parse_host), _TEXT]
UserName = Annotated[str, PlainValidator(values.parse_user_name), _TEXT]
Body = Annotated[bytes, PlainValidator(values.parse_body), _TEXT]
Method = Annotated[str, PlainValidator(values.parse_method), _TEXT]
Url = Annotated[str, PlainValidator(values.parse_url), WithJsonSchema(_URL)]
Duration = Annotated[float, PlainValidator(values.parse_duration), _matching(values.DURATION)]
Bool = Annotated[bool, PlainValidator(values.parse_bool), _matching(_BOOL, {"type": "boolean"})]
Ratio = Annotated[
    float,
    PlainValidator(values.parse_ratio),
    _matching(values.RATIO, {"type": "number", "minimum": 0, "maximum": 1}),
]
Level = Annotated[
    MetricsLevel,
    PlainValidator(values.parse_level),
    WithJsonSchema({"anyOf": [{"enum": list(MetricsLevel)}, _VARIABLE]}),
]
Port = Annotated[int, PlainValidator(values.number_parser(0, 65535)), _matching(_NUMBER, _integers(0, 65535))]
Redirects = Annotated[int, PlainValidator(values.number_parser(0, 50)), _matching(_NUMBER, _integers(0, 50))]
Status = Annotated[tuple[int, int], PlainValidator(values.parse_status), _matching(values.STATUS, _integers(100, 999))]
HeaderSize = Annotated[
    int,
    PlainValidator(values.size_parser(300 * 1024, "300KiB")),  # libcurl refuses more by itself
    _matching(values.SIZE, _integers(1, 300 * 1024)),
]
BodySize = Annotated[
    int, PlainValidator(values.size_parser(1024**3, "1GiB")), _matching(values.SIZE, _integers(1, 1024**3))
]
Labels = Annotated[
    dict[
        Annotated[str, PlainValidator(values.parse_label_name), WithJsonSchema({"type": "string"})],
        Annotated[str, PlainValidator(values.parse_label_value), _TEXT],
    ],
    Field(json_schema_extra={"propertyNames": _LABEL_NAMES}),
]
Headers = Annotated[
    dict[
        Annotated[str, PlainValidator(values.parse_header_name), WithJsonSchema({"type": "string"})],
        Annotated[str, PlainValidator(values.parse_header_value), _TEXT],
    ],
    Field(json_schema_extra={"propertyNames": {"pattern": f"^{values.TOKEN}$"}}),
]


class Section(BaseModel):
    """A mapping of the file with a closed set of keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, model_title_generator=lambda section: section.__name__.removesuffix("Section")
    )


class MetricsSection(Section):
    """Which metrics are exposed."""

    level: Level = Field(default=MetricsLevel.STANDARD, description="minimal, standard or full. Default: standard.")


class ServerSection(Section):
    """Where the HTTP server listens."""

    host: Host = Field(default="0.0.0.0", description="Address to listen on. Default: 0.0.0.0, all of IPv4.")  # noqa: S104  a scraper is another machine
    port: Port = Field(default=5004, description="Port to listen on, 0 for any free one. Default: 5004.")


class BasicAuthSection(Section):
    """Basic authentication: a user name and either a password or a file that holds it."""

    model_config = ConfigDict(json_schema_extra={"required": ["username"]})

    username: UserName = Field(default="", description="User name, without a colon.")
    password: Text = Field(default="", description="Password; better ${VAR} or password_file than the text itself.")
    password_file: FileName = Field(default="", description="File that holds the password, one line.")


class RequestSection(Section):
    """What is sent to the target."""

    method: Method = Field(default="GET", description="HTTP method in upper case. Default: GET.")
    headers: Headers | None = Field(default=None, description="Headers to send, name to value.")
    body: Body = Field(default=b"", description="Body to send; needs a method.")
    body_file: FileName = Field(default="", description="File whose content is the body; needs a method.")
    basic_auth: BasicAuthSection | None = None
    bearer_token_file: FileName = Field(default="", description="File that holds a bearer token, one line.")
    follow_redirects: Bool = Field(default=True, description="Whether redirects are followed. Default: true.")
    max_redirects: Redirects = Field(
        default=10, description="Redirects after which the probe fails, 0 to 50. Default: 10."
    )


class TlsSection(Section):
    """How the certificate of the server is judged."""

    verify: Bool = Field(default=True, description="Whether the certificate is verified. Default: true.")
    ca_file: FileName = Field(
        default="", description="PEM file with the certificates to trust instead of the default ones."
    )
    server_name: Host = Field(
        default="", description="Name sent as SNI and required in the certificate. Default: the URL's."
    )


class ExpectSection(Section):
    """What the response must be."""

    status: Annotated[tuple[Status, ...], Field(min_length=1)] = Field(
        default=((200, 299),),
        description="Accepted status codes: numbers, ranges, classes such as 2xx. Default: [2xx].",
    )


class LimitsSection(Section):
    """How many bytes one probe takes from the target before it fails."""

    headers: HeaderSize = Field(
        default=256 * 1024, description="Headers over all redirects, at most 300KiB. Default: 256KiB."
    )
    body: BodySize = Field(
        default=10 * 1024**2, description="Decoded body over all redirects, at most 1GiB. Default: 10MiB."
    )


class TracingSection(Section):
    """What a trace shows and which traces are kept, when there is an OTLP endpoint."""

    propagate: Bool = Field(default=True, description="Whether targets are told of the trace. Default: true.")
    phases: Bool = Field(default=True, description="Whether phases are spans of their own. Default: true.")
    keep_slower_than: Duration = Field(
        default=TracePolicy().keep_slower_than,
        description="Traces of slower probes are always kept. Default: 2s.",
    )
    success_ratio: Ratio = Field(
        default=TracePolicy().success_ratio,
        description="Part of the traces kept of probes that neither failed nor were slow nor changed the state,"
        " 0 to 1. Default: 0.1.",
    )


class TargetTracingSection(Section):
    """What concerns the traces of this target."""

    propagate: Bool = Field(
        default=True, description="Whether the target is told of the trace. Default: the common one."
    )


class TargetSection(Section):
    """One URL to probe."""

    model_config = ConfigDict(json_schema_extra={"required": ["url"]})

    url: Url = Field(default="", description="The http or https URL to probe, without user and password.")
    labels: Labels | None = Field(default=None, description="Labels of this target's series, over the common ones.")
    interval: Duration = Field(
        default=DEFAULT_INTERVAL, description="Time between two probes. Default: the common one."
    )
    timeout: Duration = Field(
        default=DEFAULT_TIMEOUT, description="Limit of a probe, at most the interval. Default: the common one."
    )
    request: RequestSection | None = None
    tls: TlsSection | None = None
    expect: ExpectSection | None = None
    limits: LimitsSection | None = None
    tracing: TargetTracingSection | None = None


class _OrUrl:
    """A bare URL is a whole target, too."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [_URL, handler(schema)]}


class FileSection(Section):
    """What is probed, how often, and where the metrics are served."""

    interval: Duration = Field(
        default=DEFAULT_INTERVAL, description="Time between two probes of a target. Default: 15s."
    )
    timeout: Duration = Field(
        default=DEFAULT_TIMEOUT,
        description="Limit of a probe, redirects included, at most the interval."
        " Default: 5s or 0.8 of the interval, whichever is less.",
    )
    labels: Labels | None = Field(default=None, description="Labels of every target's series.")
    metrics: MetricsSection | None = None
    server: ServerSection | None = None
    tracing: TracingSection | None = None
    targets: tuple[Annotated[TargetSection, _OrUrl()], ...] | None = Field(
        default=None, description="What is probed: URLs, or mappings with a url."
    )


_SECTIONS: Mapping[tuple[str, ...], type[Section]] = {
    (): FileSection,
    ("metrics",): MetricsSection,
    ("server",): ServerSection,
    ("tracing",): TracingSection,
    ("targets",): TargetSection,
    ("targets", "request"): RequestSection,
    ("targets", "request", "basic_auth"): BasicAuthSection,
    ("targets", "tls"): TlsSection,
    ("targets", "expect"): ExpectSection,
    ("targets", "limits"): LimitsSection,
    ("targets", "tracing"): TargetTracingSection,
}


def shape(document: Document) -> FileSection:
    """The sections of a document; a faulty value is added to its faults and left out."""
    _spell_out_urls(document)
    while True:
        try:
            return FileSection.model_validate(document.data)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                _refuse(document, fault["loc"], fault["type"], fault["msg"], fault["input"])
            document.prune()


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the file; it knows shapes, not the rules that span keys."""
    schema = FileSection.model_json_schema(schema_generator=_Generator)
    named = {
        **schema,
        "title": "Configuration of otel-url-monitor",
        "type": ["object", "null"],
    }  # an empty file is null
    return {"$schema": _Generator.schema_dialect, **named}


class _Generator(GenerateJsonSchema):
    """Without the titles that repeat the key, and without defaults: the descriptions name them as they are written."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002  the base class decides by it
        return False


def _spell_out_urls(document: Document) -> None:
    targets = document.data.get("targets") if isinstance(document.data, dict) else None
    if isinstance(document.data, dict) and isinstance(targets, list):
        document.data["targets"] = [{"url": item} if isinstance(item, str) else item for item in targets]


def _refuse(document: Document, loc: KeyPath, kind: str, message: str, value: object) -> None:
    # pydantic marks the fault of a dictionary's key, not its value, with a step "[key]".
    path = loc[:-1] if loc[-1] == "[key]" and not document.has(loc) else loc
    match kind:
        case "refused":
            document.refuse(path, message)
        case "expected":
            document.refuse(path, f"expected {message}, got {_shown(document, path, value)}")
        case "scheme":
            document.refuse(path, f"{message}{_suggest_url(document.written(path))}")
        case "extra_forbidden":
            _refuse_unknown(document, path)
        case "too_short" if not document.is_broken(path):  # pydantic counts the sound items
            document.refuse(path, "expected at least one, got none")
        case "too_short":
            pass
        case _:
            document.refuse(path, f"expected {_container(path, kind)}, got {_kind(value)}")


def _container(path: KeyPath, kind: str) -> str:
    if path[:-1] == ("targets",):
        return "a URL or a mapping with a url"
    return "a list" if kind == "tuple_type" else "a mapping of keys"


def _shown(document: Document, path: KeyPath, value: object) -> str:
    return quote(document.written(path)) if isinstance(value, str) else _kind(value)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "text"


def _suggest_url(written: str) -> str:
    """Query and credentials are left out: they may be secrets."""
    rest = re.sub("^(?:https?:)?/*", "", re.split("[?#]", written)[0], flags=re.IGNORECASE)
    if not rest or "@" in rest or "://" in rest:
        return ""
    return f", did you mean {quote(f'https://{rest}')}?"


def _refuse_unknown(document: Document, path: KeyPath) -> None:
    section = tuple(step for step in path[:-1] if isinstance(step, str))
    key = str(path[-1])
    if key in NOT_SUPPORTED_YET.get(section, ()):
        document.refuse(path, "not supported yet")
        return
    known = list(_SECTIONS[section].model_fields)
    near = difflib.get_close_matches(key, known, 1)
    if not near:
        document.refuse(path, f"unknown key, known here: {', '.join(known)}")
        return
    document.refuse(path, f"unknown key, did you mean '{near[0]}'?")
    if not document.has((*path[:-1], near[0])):
        document.doubt((*path[:-1], near[0]))
