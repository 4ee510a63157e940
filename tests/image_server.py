"""A shop's image server on the loopback, with all that goes wrong on real ones."""

import asyncio
import io
import threading
from collections import Counter

import numpy as np
from aiohttp import web
from PIL import Image


def image_bytes(image_format: str = "JPEG", side: int = 32, seed: int = 0) -> bytes:
    """An image file of random pixels."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(file, image_format)
    return file.getvalue()


class ImageServer:
    """Serves in a thread of its own until it is closed; counts requests by path, and those under way at once."""

    def __init__(self):
        self.hits: Counter[str] = Counter()
        self.under_way = self.most_under_way = self.sent_bytes = 0
        self.delay_s = 0.0
        self.limit: int | None = None  # of requests that are answered before it is changed
        self.content = b""  # of the path `content`
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._started.wait(600)
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _serve(self):
        asyncio.run(self._main())

    async def _main(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/{name:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "0.0.0.0", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.hits[name] += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            number = sum(self.hits.values())
            while self.limit is not None and number > self.limit:
                await asyncio.sleep(0.01)
            await asyncio.sleep(self.delay_s)
            kind, _, rest = name.partition("/")
            return await getattr(self, f"_{kind.removesuffix('.jpg')}")(request, rest)
        finally:
            self.under_way -= 1

    async def _image(self, request, rest):
        return web.Response(body=image_bytes(seed=len(rest)), content_type="image/jpeg")

    async def _content(self, request, rest):
        return web.Response(body=self.content, content_type="image/png")

    async def _png(self, request, rest):
        return web.Response(body=image_bytes("PNG"), content_type="image/jpeg")

    async def _dot(self, request, rest):
        return web.Response(body=image_bytes("GIF", side=1), content_type="image/gif")

    async def _html(self, request, rest):
        return web.Response(text="<html>Robot check</html>", content_type="image/jpeg")

    async def _status(self, request, rest):
        """/status/503/2: twice 503, then the image."""
        status, _, times = rest.partition("/")
        if self.hits[f"status/{rest}"] <= int(times or 1000):
            headers = {"Retry-After": "1"} if status == "429" else {}
            return web.Response(status=int(status), headers=headers)
        return await self._image(request, rest)

    async def _slow(self, request, rest):
        await asyncio.sleep(float(rest))
        return await self._image(request, rest)

    async def _truncated(self, request, rest):
        """/truncated/1: once half of what is announced, then all."""
        body = image_bytes()
        if self.hits[f"truncated/{rest}"] > int(rest):
            return web.Response(body=body)
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        request.transport.close()
        return response

    async def _cut(self, request, rest):
        """Half an image, its length not announced."""
        body = image_bytes()
        return web.Response(body=body[: len(body) // 2])

    async def _redirect(self, request, rest):
        raise web.HTTPFound(request.query.get("to", f"/{rest}"))

    async def _endless(self, request, rest):
        """10 GB, announced or not."""
        response = web.StreamResponse(headers={"Content-Length": str(10**10)} if rest == "announced" else {})
        await response.prepare(request)
        for _ in range(10**10 >> 16):
            await response.write(b"\xff" * (1 << 16))
            self.sent_bytes += 1 << 16
        return response
