"""What the system lets a process have."""

import resource
import sys


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one; the number that may now be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard
