"""Whether it is this process that runs short of something, and not the target that is at fault."""

import contextlib
import errno
import os
import threading

from otel_url_monitor.model import FailureReason

_SPARE_DESCRIPTORS = 16
"""Resolving a name takes up to 4 at once (files and sockets, IPv4 beside IPv6), and other probes compete for them."""

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def is_short() -> bool:
    """Whether descriptors or threads are used up, so that resolving a name fails or never starts.

    Takes 50 us: ask only after a failure that a shortage may have caused.
    """
    return not (_has_descriptors() and _has_threads())


def unreadable(error: OSError) -> FailureReason:
    """Why a file of the configuration could not be read."""
    return FailureReason.LOCAL_RESOURCE if error.errno in _SHORTAGES else FailureReason.CONFIG_ERROR


def _has_descriptors() -> bool:
    with contextlib.ExitStack() as taken:
        try:
            for _ in range(_SPARE_DESCRIPTORS):
                taken.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return error.errno not in _SHORTAGES
        return True


def _has_threads() -> bool:
    thread = threading.Thread(target=int)
    try:
        thread.start()
    except RuntimeError:
        return False
    thread.join()
    return True
