"""What the plugin does to a layer itself, told apart from what the user does to it."""

from __future__ import annotations


class OwnDoing:
    """True inside of ``with``, which nests; False outside.

    Examples
    --------
    >>> ours = OwnDoing()
    >>> with ours:
    ...     bool(ours)
    True
    >>> bool(ours)
    False
    """

    def __init__(self) -> None:
        self._depth = 0

    def __bool__(self) -> bool:
        return self._depth > 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
