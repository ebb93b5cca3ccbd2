"""A real Chromium without a window, driven over its own protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Browser:
    """What the tests of a page need: look at it in some size and scheme, and what it complains of.

    Parameters
    ----------
    driver
        Of selenium.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1280, dark: bool = False) -> None:
        """Load a file and wait until its plots are drawn."""
        phone = width < 600
        send = self.driver.execute_cdp_cmd
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        send("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": phone}
        send("Emulation.setDeviceMetricsOverride", size)
        send("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        self.driver.get(page.as_uri())
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 120).until(
            lambda _: self.run("return document.documentElement.dataset.drawn")
        )

    def run(self, script: str) -> Any:
        """What a piece of JavaScript returns."""
        return self.driver.execute_script(script)

    def complaints(self) -> list[str]:
        """Lines of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> set[str]:
        """Addresses asked for since the last call; the page's own data is none."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.add(message["params"]["request"]["url"])
        return {one for one in found if not one.startswith(("data:", "blob:"))}

    def screenshot(self, file: Path) -> None:
        """The whole page as it lies, in pieces of 2200 px: file-0.png, file-1.png, ..."""
        width, height = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        for number, top in enumerate(range(0, height, 2200)):
            clip = {"x": 0, "y": top, "width": width, "height": min(2200, height - top), "scale": 1}
            made = self.driver.execute_cdp_cmd(
                "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
            )
            piece = file.with_name(f"{file.stem}-{number}.png")
            piece.write_bytes(base64.b64decode(made["data"]))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start it; the test is skipped where Debian's packages are not installed."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for one in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(one)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Chromium leaves a folder in TMPDIR when it is told to quit.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        service = Service(driver, env=os.environ | {"TMPDIR": scratch})
        started = webdriver.Chrome(options=options, service=service)
        try:
            started.set_page_load_timeout(120)
            yield Browser(started)
        finally:
            started.quit()
