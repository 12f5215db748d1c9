"""The one exception of the package that a user can cause."""

from __future__ import annotations


class UsageError(ValueError):
    """A call, file or option that cannot be used; the text is one line: the offending value and what to do."""
