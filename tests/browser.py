"""A real headless Chromium, driven over its DevTools protocol."""

import asyncio
import base64
import json
import shutil
import subprocess
from pathlib import Path

import aiohttp
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PATIENCE = 60  # seconds until a browser that says nothing is given up


class Tab:
    """A page that is open, with the errors that its console has seen."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self.socket, self.errors, self._calls, self._loaded = socket, [], 0, False

    async def call(self, method: str, **parameters) -> dict:
        self._calls += 1
        call = self._calls
        await self.socket.send_json({"id": call, "method": method, "params": parameters})
        while True:
            message = await self._next()
            if message.get("id") == call:
                assert "error" not in message, message
                return message["result"]

    async def _next(self) -> dict:
        message = json.loads((await self.socket.receive(PATIENCE)).data)
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(message["params"]["exceptionDetails"])
            case "Runtime.consoleAPICalled" if message["params"]["type"] in ("error", "warning"):
                self.errors.append(message["params"]["args"])
            case "Log.entryAdded" if message["params"]["entry"]["level"] in ("error", "warning"):
                self.errors.append(message["params"]["entry"])
            case "Page.loadEventFired":
                self._loaded = True
        return message

    async def open(self, path: Path, width: int, dark: bool):
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            await self._next()

    async def run(self, script: str):
        """The value of an expression in the page."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def click(self, selector: str):
        """Press the mouse where an element is."""
        middle = "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]"
        place = f"(e => {{e.scrollIntoView({{block: 'center'}}); {middle}}})(document.querySelector({json.dumps(selector)}))"
        x, y = await self.run(place)
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str):
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=27 if key == "Escape" else 0, **text
            )

    async def screenshot(self, path: Path):
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot"))["data"]))


def visit(page: Path, profile: Path, act, width: int = 1280, dark: bool = False) -> Tab:
    """Open a page in a browser of its own and let `act(tab)` do something; returns the tab with its errors."""
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
    ]
    browser = subprocess.Popen([CHROMIUM, *flags, "about:blank"], stderr=subprocess.PIPE, text=True)
    try:
        line = next((line for line in browser.stderr if "DevTools listening on " in line), "")
        assert line, "the browser ended at once"
        port = line.split("127.0.0.1:")[1].split("/")[0]

        async def go() -> Tab:
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    target = next(entry for entry in await answer.json(content_type=None) if entry["type"] == "page")
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    tab = Tab(socket)
                    await tab.open(page, width, dark)
                    await act(tab)
                    return tab

        return asyncio.run(go())
    finally:
        browser.kill()
        browser.wait()
        browser.stderr.close()
