"""Polite, bounded downloads over HTTP from hosts that nobody vouches for."""

import asyncio
import ipaddress
import random
import re
import socket
import time
from collections import defaultdict
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

MAX_REDIRECTS = 5
PAUSE_S = 1.0  # before the first further try; it doubles every time
MAX_PAUSE_S = 120.0  # the longest pause that a server can ask for
PASSING = frozenset({408, 425, 429, *range(500, 600)})  # answers after which another try may succeed
CREDENTIALS = re.compile(r"((?:^|[a-zA-Z])[a-zA-Z0-9+.-]*:/{0,2})[^\s/?#'\"]*@")
CHUNK_BYTES = 1 << 16
HEADERS = {"User-Agent": "odmt (research, fetches every image once)", "Accept": "image/*"}
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SPECIAL = [ipaddress.ip_network(network) for network in ("192.0.0.0/24", "3fff::/20")]  # which Python 3.11 takes for public
ASSIGNED = ipaddress.ip_network("2000::/3")  # what IANA gives out of IPv6; all else is for special uses


class DownloadError(Exception):
    """Why there is no file.

    Attributes:
        passing: another try may succeed.
        final: nothing is to be hoped for another day or with other settings either.
    """

    def __init__(self, reason: str, passing: bool = False, final: bool | None = None):
        super().__init__(reason)
        self.passing = passing
        self.final = not passing if final is None else final


class Downloader:
    """Downloads whole files into memory; to be used as an asynchronous context.

    Args:
        per_host: connections to one host at a time.
        retries: further tries after answers 429 and 5xx, time-outs and broken connections; the pauses double, and are no
            shorter than what the server asks for.
        timeout_s: seconds that one try may take.
        max_bytes: size of a file; a longer one is not read further.
        allow_private: connect to addresses that are not public ones, too.
    """

    def __init__(
        self,
        per_host: int = 8,
        retries: int = 4,
        timeout_s: float = 60.0,
        max_bytes: int = 20_000_000,
        allow_private: bool = False,
    ):
        self.retries = retries
        self.timeout_s = timeout_s
        self.max_bytes = max_bytes
        self.allow_private = allow_private
        self._slots: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(per_host))
        self._resume: dict[str, float] = defaultdict(float)  # when a host that asked for a pause may be asked again

    async def __aenter__(self) -> "Downloader":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=_Resolver(self.allow_private)),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=HEADERS,
        )
        return self

    async def __aexit__(self, *error):
        await self._session.close()

    async def download(self, url: str) -> bytes:
        """Get a file, trying again where that may help.

        Raises:
            DownloadError: there is no such file, none that may be had, or not now.
        """
        for attempt in range(self.retries + 1):
            try:
                return await self._follow(url)
            except DownloadError as error:
                if not error.passing or attempt == self.retries:
                    raise
            await asyncio.sleep(PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))
        raise AssertionError("the last try returns or raises")

    async def _follow(self, url: str) -> bytes:
        try:
            location = URL(url)
            for _ in range(MAX_REDIRECTS + 1):
                answer = await self._get(location)
                if isinstance(answer, bytes):
                    return answer
                if answer.scheme != location.scheme:
                    raise DownloadError(f"redirected from {location.scheme} to {answer.scheme or 'nowhere'}")
                location = answer
            raise DownloadError(f"redirected more than {MAX_REDIRECTS} times")
        except TimeoutError:
            raise DownloadError(f"no complete answer within {self.timeout_s:g} s", passing=True) from None
        except (aiohttp.InvalidURL, ValueError) as error:
            raise DownloadError(f"not a URL: {without_credentials(str(error))}") from error
        except aiohttp.ClientError as error:
            reason = without_credentials(str(error)) or type(error).__name__
            raise DownloadError(f"connection broken: {reason}", passing=True) from error

    async def _get(self, location: URL) -> bytes | URL:
        """Ask once; returns the file or where else to look."""
        if location.scheme not in ("http", "https") or not location.host:
            raise DownloadError(f"not an http(s) URL: {without_credentials(str(location))}")
        if not self.allow_private:
            _check_literal(location.host)
        async with self._slots[location.host]:
            await asyncio.sleep(self._resume[location.host] - time.monotonic())
            async with self._session.get(location, allow_redirects=False) as answer:
                if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                    return location.join(URL(answer.headers["Location"]))
                if answer.status in PASSING:
                    self._resume[location.host] = time.monotonic() + _pause_asked_for(answer)
                if answer.status != 200:
                    raise DownloadError(f"status {answer.status}", passing=answer.status in PASSING)
                return await self._read(answer)

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        too_long = DownloadError(f"longer than {self.max_bytes:,} bytes", final=False)
        if (answer.content_length or 0) > self.max_bytes:
            raise too_long
        content = bytearray()
        async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
            content += chunk
            if len(content) > self.max_bytes:
                answer.close()
                raise too_long
        return bytes(content)


class _Resolver(AbstractResolver):
    """Resolves names, to public addresses only unless private ones are allowed.

    The check is made where the address is taken for the connection, so that a name cannot resolve otherwise afterwards.
    """

    def __init__(self, allow_private: bool):
        self._resolver = aiohttp.ThreadedResolver()
        self._allow_private = allow_private

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        allowed = [result for result in found if self._allow_private or is_public(result["host"])]
        if not allowed:
            raise _refused(host)
        return allowed

    async def close(self):
        await self._resolver.close()


def without_credentials(text: str) -> str:
    """Take user names and passwords out of the URLs in a text."""
    return CREDENTIALS.sub(r"\1", text)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public Internet, as is any IPv4 address that is wrapped in an IPv6 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
        if not wrapped and ip not in ASSIGNED:
            return False
        ip = wrapped or ip
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in SPECIAL)


def _check_literal(host: str):
    """Addresses written as numbers are not resolved."""
    try:
        public = is_public(host)
    except ValueError:
        return
    if not public:
        raise _refused(host)


def _refused(host: str) -> DownloadError:
    return DownloadError(f"{host} is not a public address; --allow-private admits it", final=False)


def _pause_asked_for(answer: aiohttp.ClientResponse) -> float:
    """Seconds of the header Retry-After, which may be a number or a date."""
    value = answer.headers.get("Retry-After", "0")
    try:
        seconds = float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        seconds = 0.0
    return min(max(seconds, 0.0), MAX_PAUSE_S)
