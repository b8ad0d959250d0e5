"""What was read, where each value of it stands, and the faults found in it so far."""

import re
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
Node = dict[str, "Node"] | list["Node"] | str | None

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing in the configuration that its writer can mend.

    Attributes:
        file: the file as it was named, or `argument 1` for a URL of the command line.
        line: counted from 1; `None` when the place is not a line of a file.
        path: key path such as `targets[3].timeout`; empty for the file as a whole.
    """

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place} {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; printed, it is one line per fault.

    Attributes:
        faults: all of them, sorted by line.
    """

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: fault.line or 0))
        super().__init__(self.faults)

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


class Document:
    """Plain values, where each was written, and the faults found so far. Belongs to one thread.

    Attributes:
        data: what the file holds; a scalar is text or, when null, None.
    """

    def __init__(self, file: str, data: Node = None) -> None:
        self.file = file
        self.data = data
        self.faults: list[Fault] = []
        # Line and text as written; the text is "" for a mapping or list and None for a null.
        self._places: dict[KeyPath, tuple[int, str | None]] = {}
        self._broken: set[KeyPath] = set()
        self._holds_broken: set[KeyPath] = set()
        self._unpruned: list[KeyPath] = []

    def place(self, path: KeyPath, line: int, written: str | None = "") -> None:
        """Remember where a value stands and how it was written."""
        self._places[path] = (line, written)

    def note(self, path: KeyPath, message: str, line: int | None = None) -> None:
        """Add a fault that leaves the value usable for further judgement."""
        self.faults.append(self._fault(path, message, line))

    def refuse(self, path: KeyPath, message: str, line: int | None = None) -> None:
        """Add a fault of a value that nothing else may be concluded from."""
        self.note(path, message, line)
        self.doubt(path)
        self._unpruned.append(path)

    def doubt(self, path: KeyPath) -> None:
        """Mark a place as unknown: what follows from it would be a knock-on fault."""
        self._broken.add(path)
        self._holds_broken.update(path[:end] for end in range(1, len(path) + 1))

    def is_broken(self, path: KeyPath) -> bool:
        """Whether the value, something in it, or something it is part of is at fault."""
        return path in self._holds_broken or any(path[:end] in self._broken for end in range(len(path)))

    def has(self, path: KeyPath) -> bool:
        """Whether the file gives a value here, sound or not."""
        return self._places.get(path, (0, None))[1] is not None

    def written(self, path: KeyPath) -> str:
        """The scalar as the file has it, variables not expanded."""
        return self._places[self._nearest(path)][1] or ""

    def line(self, path: KeyPath) -> int | None:
        """The line of a key, or of the nearest key above it that was written."""
        return self._places.get(self._nearest(path), (None,))[0]

    def name(self, path: KeyPath) -> str:
        """A place for use within a message about another place."""
        return f"{show_path(path)} on line {self.line(path)}"

    def prune(self) -> None:
        """Take the refused values out, so that the rest can be judged without them."""
        for path in filter(None, self._unpruned):
            _prune(self.data, path)
        self._unpruned.clear()

    def _fault(self, path: KeyPath, message: str, line: int | None) -> Fault:
        nearest = self._nearest(path)
        # Nothing was written below a scalar: a bare URL stands for the whole target.
        shown = nearest if self._places.get(nearest, (0, ""))[1] else path
        return Fault(self.file, line or self.line(path), show_path(shown), message)

    def _nearest(self, path: KeyPath) -> KeyPath:
        while path and path not in self._places:
            path = path[:-1]
        return path


class Arguments(Document):
    """Target URLs of a command line: a place is `argument 1`."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        super().__init__("", {"targets": list(urls)})
        for index, url in enumerate(urls):
            self.place(("targets", index), index + 1, url)

    def name(self, path: KeyPath) -> str:
        """A place for use within a message about another place."""
        return f"argument {self.line(path)}"

    def _fault(self, path: KeyPath, message: str, line: int | None) -> Fault:  # noqa: ARG002  the base has files
        return Fault(self.name(path), None, "", message)


def show_path(path: KeyPath) -> str:
    """A key path as it is printed: `targets[3].request.headers.X-Api`."""
    return "".join(_show_step(step) for step in path).removeprefix(".")


def quote(text: str) -> str:
    """Text of the file within a message: one line, at most 80 characters of it."""
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _show_step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if _BARE_KEY.fullmatch(step) and len(step) <= 80:
        return f".{step}"
    # A missing space makes one key of `password:secret`: only what stands before it is shown.
    name, colon, _ = step.partition(":")
    return f"[{quote(name + colon + '…' if colon else name)}]"


def _prune(data: Node, path: KeyPath) -> None:
    node = data
    for step in path[:-1]:
        node = _child(node, step)
    if isinstance(node, dict):
        node.pop(str(path[-1]), None)
    elif isinstance(node, list) and path[:-1] == ("targets",):
        node[int(path[-1])] = {}  # the places of the targets after it stay what they are
    elif isinstance(node, list):
        _prune(data, path[:-1])


def _child(node: Node, step: str | int) -> Node:
    if isinstance(node, dict):
        return node.get(str(step))
    return node[step] if isinstance(node, list) and isinstance(step, int) else None
