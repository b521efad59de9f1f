"""The directory in force: read once at the start, and again whenever its source has changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Hashable

from liveact_services.tenants.directory import DirectoryError, TenantDirectory
from liveact_services.tenants.source import DirectorySource

POLL_S = 2.0

log = logging.getLogger(__name__)


class DirectoryWatch:
    """Holds the newest version that was right. A wrong one is logged once and not taken over."""

    def __init__(self, source: DirectorySource, pools: Collection[str] = ()) -> None:
        """Reads the first version. Raises `DirectoryError`: a service does not start with a directory it cannot read."""
        self._source, self._pools = source, tuple(pools)
        self._version: Hashable = source.version()
        self._complaint = ""
        self.current = TenantDirectory.parse(source.read(), self._pools)

    async def run(self) -> None:
        """Look for a new version every `POLL_S` seconds, for ever."""
        while True:
            await asyncio.sleep(POLL_S)
            # A large directory takes seconds to read.
            await asyncio.to_thread(self.poll)

    def poll(self) -> bool:
        """Take over the source's version if it is a new one and right; says whether it did. Blocks."""
        try:
            # Looked at before it is read: what changes in between is read again at the next poll.
            version = self._source.version()
            if version == self._version:
                return False
            directory = TenantDirectory.parse(self._source.read(), self._pools)
        except DirectoryError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("the tenants' new directory is refused, the one before stays in force: %s", error)
            return False
        self._version, self._complaint, self.current = version, "", directory
        log.info("tenants: %d, keys: %d, issuers: %d, from %s",
                 len(directory.tenants), len(directory.keys), len(directory.issuers), self._source.place)  # fmt: skip
        return True
