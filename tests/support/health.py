"""What the tests of health and of pages share."""

from __future__ import annotations

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
