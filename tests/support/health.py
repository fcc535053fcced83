"""What the tests of health share."""

from __future__ import annotations

import html
import re

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def curl_line(page: str) -> str:
    """Return the curl command on the page."""
    found = re.search("<pre>(.*?)</pre>", page, re.DOTALL)
    assert found
    return html.unescape(found[1])
