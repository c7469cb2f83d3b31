"""A map from fingerprints to small numbers in 24 bytes an entry, where a dict takes some 200."""

from __future__ import annotations

from array import array

KEY_BYTES = 16
"""How much of a fingerprint is kept: 128 bits, so that a billion rows do not collide."""
_FULLEST = 0.7


class CompactIndex:
    """
    An open-addressed table over two flat arrays; entries can be added and changed, not removed.

    Values are whole numbers from 1 to 2**64 - 1. Keys must be evenly spread bytes, as digests are.
    """

    def __init__(self, slots: int = 1024) -> None:
        self._allocate(slots)

    def __len__(self) -> int:
        return self._used

    def get(self, fingerprint: bytes) -> int:
        """Return the value, 0 when there is none."""
        return int(self._values[self._slot(fingerprint[:KEY_BYTES])])

    def put(self, fingerprint: bytes, value: int) -> None:
        """Set the value."""
        key = fingerprint[:KEY_BYTES]
        slot = self._slot(key)
        if not self._values[slot]:
            if self._used >= _FULLEST * (self._mask + 1):
                self._grow()
                slot = self._slot(key)
            self._used += 1
            self._keys[slot * KEY_BYTES : slot * KEY_BYTES + KEY_BYTES] = key
        self._values[slot] = value

    def first_sight(self, fingerprint: bytes, seen: bytearray) -> bool:
        """
        Tell whether an entry is met for the first time, and remember it in ``seen``.

        :param seen: what :meth:`no_sights` gave; good as long as nothing is added.
        """
        byte, bit = divmod(self._slot(fingerprint[:KEY_BYTES]), 8)
        if seen[byte] >> bit & 1:
            return False
        seen[byte] |= 1 << bit
        return True

    def no_sights(self) -> bytearray:
        """Return a note that no entry was met yet: one bit each."""
        return bytearray((self._mask + 8) // 8)

    def _slot(self, key: bytes) -> int:
        slot = int.from_bytes(key[:8], "little") & self._mask
        keys, values = self._keys, self._values
        while values[slot] and keys[slot * KEY_BYTES : slot * KEY_BYTES + KEY_BYTES] != key:
            slot = (slot + 1) & self._mask
        return slot

    def _allocate(self, slots: int) -> None:
        self._mask = slots - 1
        self._used = 0
        self._keys = bytearray(slots * KEY_BYTES)
        self._values = array("Q", bytes(slots * 8))

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        self._allocate(2 * (self._mask + 1))
        for slot, value in enumerate(values):
            if value:
                self.put(bytes(keys[slot * KEY_BYTES : slot * KEY_BYTES + KEY_BYTES]), value)
