"""Fixtures that several files of tests share."""

from loopback import fashion, programs, site

__all__ = ["fashion", "programs", "site"]
