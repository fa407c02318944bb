"""A stream that is read in a thread of its own, ahead of who reads it."""

from __future__ import annotations

import io
from queue import SimpleQueue
from threading import Thread
from typing import Any

BLOCK = 1 << 20  # bytes: so small that what is read is used before it leaves the processor's caches
_BLOCKS = 16  # while a reader waits for the disk to have what it wrote, reading goes on


class Ahead(io.RawIOBase):
    """Reads a stream some blocks ahead, into the same room again and again.

    Queues of blocks and nothing finer: whatever else two threads say to one another, each has to wait for the
    interpreter to say it.

    Args:
        stream: whose reading lets other threads run, such as a decompressing one. Closed with this.
    """

    def __init__(self, stream: io.BufferedIOBase):
        self._stream = stream
        self._free, self._full = SimpleQueue[memoryview | None](), SimpleQueue[tuple[memoryview, int | Exception]]()
        for _ in range(_BLOCKS):
            self._free.put(memoryview(bytearray(BLOCK)))
        self._block = self._left = memoryview(b"")
        self._over = False
        self._thread = Thread(target=self._read, name="distgen-read", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        size: int | Exception = 1
        while size and not isinstance(size, Exception) and (block := self._free.get()) is not None and not self._over:
            try:
                size = self._stream.readinto(block)
            except Exception as error:
                size = error
            self._full.put((block, size))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises what reading the stream raised."""
        if not self._left and not self._over:
            if self._block:
                self._free.put(self._block)
            self._block, size = self._full.get()
            self._over = not size or isinstance(size, Exception)
            if isinstance(size, Exception):
                raise size
            self._left = self._block[:size]
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._over = True
            self._free.put(None)
            self._thread.join()
            self._stream.close()
        super().close()
