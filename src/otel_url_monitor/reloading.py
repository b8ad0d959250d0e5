"""When a file's content has changed.

The file is asked, because nobody tells reliably: inotify watches an inode, while a mounted ConfigMap swaps symlinks and
editors rename, and it sees no network file system.
"""

import hashlib
from pathlib import Path

_Signature = tuple[int, ...] | None


class FileWatch:
    """Tells once of each change of a file's content. Used by one thread at a time.

    Touching the file, or replacing it by a copy of itself, is no change. A file that is missing for a moment, as while
    an editor saves it, is none either; one that stays away is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature = self._settled = self._look()
        self._digest = self._read()

    def has_changed(self) -> bool:
        """Whether the content is another than at the last change told, and has stayed so since the last question."""
        before, self._signature = self._signature, self._look()
        if self._signature != before or self._signature == self._settled:
            return False
        self._settled = self._signature
        before_digest, self._digest = self._digest, self._read()
        return self._digest != before_digest

    def _look(self) -> _Signature:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    def _read(self) -> bytes:
        try:
            return hashlib.sha256(self._path.read_bytes()).digest()
        except OSError:
            return b""
