"""Chromium without a screen, and a gateway in front of the service that asks for a key."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
REASON = "needs Chromium (Debian: apt-get install chromium chromium-driver), selenium and axe (make dev)"
IS_THERE = all(PROGRAMS.values()) and find_spec("selenium") and find_spec("axe_playwright_python")
DESK, PHONE = (1280, 900), (375, 800)
SECONDS = 30  # far more than even a busy machine needs
# Rules of WCAG 2.2 AA, as axe-core names their kinds.
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@dataclass
class Browser:
    """A tab of Chromium."""

    driver: Chrome

    def open(self, url: str, *, size: tuple[int, int] = DESK, dark: bool = False) -> None:
        """Load a page anew, as a phone or a desk shows it, and wait until it shows something."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.driver.get("about:blank")  # an address that differs behind # alone loads nothing
        self.driver.get(url)
        self.wait(lambda: self.js("return !document.querySelector('main[aria-busy]')"))

    def js(self, code: str, *arguments: Any) -> Any:
        """Return what a function's body returns."""
        return self.driver.execute_script(code, *arguments)

    def wait(self, true: Callable[[], Any]) -> Any:
        """Return what a condition gives once it is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, SECONDS, poll_frequency=0.02).until(lambda _: true())

    def text(self, selector: str) -> str:
        """Return the text of an element, empty if there is none."""
        return str(self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def wait_for(self, selector: str, text: str) -> str:
        """Return the text of an element once it has a part."""
        return str(self.wait(lambda: (found := self.text(selector)) and text in found and found))

    def field(self, label: str) -> Any:
        """Return the input of the form with this label."""
        from selenium.webdriver.common.by import By

        names = self.js(
            "return [...document.querySelectorAll('.name label:first-child')].map(e => [e.firstChild.data, e.htmlFor])"
        )
        return self.driver.find_element(By.ID, dict(names)[label])

    def type(self, label: str, text: str) -> None:
        """Replace what an input has."""
        from selenium.webdriver.common.keys import Keys

        self.field(label).send_keys(Keys.CONTROL, "a")
        self.field(label).send_keys(text)

    def upload(self, path: Path) -> None:
        """Choose a file, as a keyboard does."""
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.ID, "csv").send_keys(str(path))

    def violations(self) -> list[str]:
        """Return what axe-core finds wrong with the page, with the elements."""
        axe = Path(next(iter(_spec().submodule_search_locations or []))) / "axe.min.js"
        self.js(axe.read_text())
        found = self.driver.execute_async_script(
            "axe.run(document, {runOnly: arguments[0]}).then(found => arguments[1](found.violations))", _RULES
        )
        return [f"{each['id']}: {[node['html'][:120] for node in each['nodes']]}" for each in found]

    def overflow(self) -> int:
        """Return how many pixels the page is wider than the window."""
        return int(self.js("return document.documentElement.scrollWidth - innerWidth"))

    def errors(self) -> list[str]:
        """Return the console's errors since the last call, but for replies that refuse."""
        log = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [each["message"] for each in log if "the server responded with a status" not in each["message"]]


def _spec() -> Any:
    return find_spec("axe_playwright_python")


@contextmanager
def chromium(downloads: Path) -> Iterator[Browser]:
    """Run Chromium, which reaches no other host than this one."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(PROGRAMS["chromium"])
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(PROGRAMS["chromedriver"])))
    try:
        behavior = {"behavior": "allow", "downloadPath": str(downloads)}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", behavior)
        yield Browser(driver)
    finally:
        driver.quit()


Amend = Callable[[str, Any], tuple[int, Any]]


@contextmanager
def gateway(service: str, *, key: str = "", amend: Amend | None = None) -> Iterator[str]:
    """Run a server that passes requests on, with a key for all but the shell, and yield its URL.

    `amend` gets the path of a prediction and the service's JSON, and returns what the browser gets.
    """

    class Handler(BaseHTTPRequestHandler):
        """Passes one request on."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Pass a request on, or refuse it."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            is_shell = path in ("/", "/docs/") or path.startswith(("/static/", "/docs/"))
            if key and not is_shell and self.headers.get("Authorization") != f"Bearer {key}":
                return self.answer(
                    401, {"Content-Type": "application/json"}, b'{"error":"a key is needed","status":401}'
                )
            names = ("Accept", "Content-Type")
            headers = {name: self.headers[name] for name in names if self.headers[name]}
            reply = requests.request(self.command, service + self.path, data=body, headers=headers, timeout=SECONDS)
            kept = {
                name: reply.headers[name]
                for name in ("Content-Type", "Content-Security-Policy")
                if name in reply.headers
            }
            if amend and path.endswith("/predict"):
                status, value = amend(self.path, reply.json())
                return self.answer(status, kept, json.dumps(value).encode())
            return self.answer(reply.status_code, kept, reply.content)

        do_POST = do_GET

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            """Send a reply."""
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
