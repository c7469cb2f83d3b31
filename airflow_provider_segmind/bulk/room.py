"""Room for rows on their way: as many as the workers take, and no more than so many bytes, as some carry pictures."""

from __future__ import annotations

import asyncio


class Room:
    """
    Holds what is on its way. Whoever brings more than fits waits; alone in the room, anything fits.

    :param size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.used = 0
        self._size = size
        self._left = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Wait until so many bytes fit, and take them."""
        while self.used and self.used + size > self._size:
            self._left.clear()
            await self._left.wait()
        self.used += size

    def leave(self, size: int) -> None:
        """Give bytes back."""
        self.used -= size
        self._left.set()
