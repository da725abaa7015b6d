"""One model's server as a client reaches it: its address, the key, whether it is there."""

import base64
import os
from typing import Any
from urllib.parse import unquote

import aiohttp

from pipeline import nesting
from pipeline.config import RuntimeConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.masking import hide, without_credentials
from pipeline.models.serving.responses import ODD, BodyError, line, prefix_cache, read_body

UNUSED = 1.0
"""Seconds for which a connection is kept without a request. Servers close theirs after 5 (vLLM's,
llama.cpp's) or 2 (gunicorn); a request that meets that is lost, and would count as a refusal."""
CHECK_TIMEOUT = 10.0
"""Seconds in which a server that is there lists its models."""
URLS = "--llm-url, --captioner-url, --verifier-url, --clip-url"
"""The options that name a server; a client does not know which one it serves."""
LONGEST_MESSAGE = 300
"""Characters of a server's error that are shown."""
LONGEST_SECRET = 10_000
"""Characters beyond those shown that are looked through for secrets which reach into them."""
LONGEST_NAME = 100
"""Characters of a served model's name that are shown."""
NAMED = 5
"""Models that an error names of those which a server serves."""


class Connection:
    """The key comes from the environment and never leaves requests.

    A user and password in ``url`` take the key's place, and ``self.url`` is without them. Raises
    ConfigError for a key that no request can carry.
    """

    def __init__(self, url: str, model: str, runtime: RuntimeConfig, advice: str = "") -> None:
        self.url, credentials = without_credentials(url.rstrip("/"))
        self.model = model
        self._advice = advice
        self._variable = runtime.api_key_variable
        self._authorization, self._secrets = _authorization(credentials, self._variable)

    def session(self, **options: Any) -> aiohttp.ClientSession:
        """Return a session for requests to the server; proxies of the environment are not used.

        As many connections as there are requests in flight; see ``UNUSED``.
        """
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._authorization:
            headers["Authorization"] = self._authorization
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=UNUSED)
        return aiohttp.ClientSession(
            headers=headers, auto_decompress=False, connector=connector, **options
        )

    def shown(self, text: str, length: int = LONGEST_MESSAGE) -> str:
        """Return the beginning of what a server said, without the secrets that it was sent.

        They are masked before anything is cut: a part of one would be no secret to ``replace``.
        """
        return hide(line(text[: length + LONGEST_SECRET]), self._secrets)[:length]

    def sent_on(self, response: aiohttp.ClientResponse) -> ModelError:
        where = self.shown(response.headers.get("Location", ""))
        return ModelError(
            f"The server at {self.url} sends requests on to {where or 'elsewhere'} (HTTP "
            f"{response.status}). That is not followed: captions, images and the key would go "
            f"there. If it is the right one, give its address ({URLS})."
        )

    def wants_key(self) -> ModelError:
        return ModelError(
            f"The server at {self.url} refuses the key: set {self._variable} to one that it takes."
        )

    def hangs(self, seconds: float) -> ModelError:
        return ModelError(
            f"The server at {self.url} lists its models but answered no request within "
            f"{seconds:g} s. Look at its log. If it loads its model only when it is asked, or is "
            "slow for another reason, give it more time (--set runtime.timeout=SECONDS) and "
            "repeat the same command."
        )

    async def check(self, session: aiohttp.ClientSession) -> None:
        """Raise ModelError if the server is not there or does not serve the model."""
        limit = aiohttp.ClientTimeout(total=CHECK_TIMEOUT)
        try:
            address = f"{self.url}/models"
            async with session.get(address, timeout=limit, allow_redirects=False) as response:
                content = await read_body(response)
        except BodyError:
            return  # as of those that do not list their models
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            raise ModelError(
                f"There is no server at {self.url}, or it stopped answering "
                f"({type(error).__name__}). What was answered is kept. Start it (`seize serve-llm "
                f"{self.model}`, or `vllm serve`) or give the address of one that runs ({URLS}); "
                f"then repeat the same command.{self._advice}"
            ) from None
        if response.status in (401, 403):
            raise self.wants_key()
        if 300 <= response.status < 400:
            raise self.sent_on(response)
        try:
            served = [str(model["id"]) for model in nesting.loads(content)["data"]]
        except ODD:
            return  # some servers do not list their models
        if self.model not in served:
            named = ", ".join(self.shown(name, LONGEST_NAME) for name in served[:NAMED])
            more = f" and {len(served) - NAMED:,} more" if len(served) > NAMED else ""
            raise ModelError(
                f"The server at {self.url} does not serve {self.model!r}. It serves: "
                f"{named or 'nothing'}{more}. Name one that it serves, or give the address of "
                f"another server ({URLS})."
            )

    async def metrics(self, session: aiohttp.ClientSession) -> str:
        """Return what a vLLM tells of itself; "" where the server tells nothing."""
        try:
            address = f"{self.url.removesuffix('/v1')}/metrics"
            async with session.get(address, allow_redirects=False) as response:
                told = await read_body(response)
        except (aiohttp.ClientError, OSError, ValueError):
            return ""
        return told.decode(errors="replace") if response.status == 200 else ""


class PrefixCache:
    """What a vLLM had in its prefix cache of the prompts that it got, whoever sent them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tells = True  # until it does not
        self._before: tuple[int, int] | None = None
        self._looked_up = self._found = 0

    async def begin(self, session: aiohttp.ClientSession) -> str:
        """Count from now on; return what the server tells of itself."""
        told = await self._connection.metrics(session) if self._tells else ""
        self._before = prefix_cache(told)
        self._tells = self._before is not None
        return told

    async def end(self, session: aiohttp.ClientSession) -> None:
        """Count what came since ``begin``; other servers are not asked again."""
        now = prefix_cache(await self._connection.metrics(session)) if self._tells else None
        if now is not None and self._before is not None:
            self._looked_up += max(now[0] - self._before[0], 0)
            self._found += max(now[1] - self._before[1], 0)

    @property
    def notes(self) -> list[str]:
        """The share, in words; none where the server does not tell it."""
        if not self._looked_up:
            return []
        return [
            f"The server at {self._connection.url} had {self._found / self._looked_up:.1%} of the "
            f"prompts' tokens in its prefix cache ({self._found:,} of {self._looked_up:,})."
        ]


def _authorization(credentials: str, variable: str) -> tuple[str | None, list[str]]:
    """Return the Authorization header, None without any, and what of it must never be shown.

    Raises ConfigError for a key that cannot be in a header.
    """
    if credentials:
        said = unquote(credentials)
        encoded = base64.b64encode(said.encode()).decode()
        return f"Basic {encoded}", [credentials, said, encoded, said.partition(":")[2]]
    key = os.environ.get(variable, "").strip()  # a file with Windows' line ends leaves \r
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"The key in {variable} holds a line break or another character that a request cannot "
            "carry. Set it again, to the key alone."
        )
    return (f"Bearer {key}", [key]) if key else (None, [])
