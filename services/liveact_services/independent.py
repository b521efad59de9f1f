"""Work that belongs to a session and not to the request in which it happens to begin."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any


def independent(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task of a context of its own: Serve cancels what a cancelled request has called, and knows a request by its context."""
    return asyncio.create_task(work, context=contextvars.Context())
