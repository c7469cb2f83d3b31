"""Pages of reports, and manifests of all kinds of runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from tests.support.manifests import HOSTILE, manifest_of

RUNS = {
    "no rows": manifest_of(0),
    "one row": manifest_of(1),
    "many rows": manifest_of(200_000, failed=700),
    "all failed": manifest_of(40, failed=40),
    "a second try": manifest_of(300, resumed=12, stopped="max_cost=$5.00 is used up"),
    "a hostile reason": manifest_of(30, failed=3, reason=HOSTILE, model="<b>m</b>", outputs=["/x/<i>.csv"]),
}


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        self.charts = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href", "action", "style"):
                self.addresses.append(str(value))

    def handle_data(self, data: str) -> None:
        self.text += data
