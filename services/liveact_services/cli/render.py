"""`liveact render`: the bare pipeline in this process, without a service."""

from __future__ import annotations


def render() -> None:
    """x"""
