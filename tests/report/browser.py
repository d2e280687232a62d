"""A real Chromium without a window, driven over a pipe (the DevTools protocol, https://chromedevtools.github.io).

A message is JSON that ends in a NUL; the browser reads file descriptor 3 and writes file descriptor 4. Every wait has a limit.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LONGEST = 30.0  # seconds for any answer: a browser's first start on a busy machine takes some
# Puts the two pipes where the browser looks for them (a shell would do for descriptors of one digit only).
LAUNCH = (
    "import fcntl, os, sys\n"
    "pipes = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 64) for word in sys.argv[1:3]]\n"
    "for pipe, place in zip(pipes, (3, 4)): os.dup2(pipe, place)\n"
    "os.execv(sys.argv[3], sys.argv[3:])"
)
# For what is tested here none of this is needed; the sandbox does not work as root in a container.
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe",
            "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
            "--password-store=basic", "--use-mock-keychain", "--window-size=1200,900")  # fmt: skip


def program() -> str:
    """Chromium or Chrome. Under CI it must be installed."""
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no Chromium: apt-get install chromium")
    raise AssertionError  # both have raised


class Browser:
    """One tab. Everything that the page complains about or asks the network for is in `complaints` and `requests`."""

    def __init__(self, to: int, of: int, log: Path) -> None:
        self._to, self._of, self._log, self._buffer = to, of, log, b""
        self._number = 0
        self._session: str | None = None
        self.loaded = False
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of one command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        try:
            os.write(self._to, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            self._ended(method)
        deadline = time.monotonic() + LONGEST
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, page: Path) -> None:
        """Load a file, to its `load` event."""
        self.loaded = False
        self.complaints.clear()
        self.requests.clear()
        self.call("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + LONGEST
        while not self.loaded:
            self._next(deadline, f"loading {page}")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a policy of the page's own does not bind the debugger."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def scheme(self, name: str) -> None:
        """Prefer `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def width(self, pixels: int) -> None:
        """Make the window that wide."""
        self.call("Emulation.setDeviceMetricsOverride", width=pixels, height=900, deviceScaleFactor=1, mobile=False)

    def _next(self, deadline: float, what: str) -> Any:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._of], [], [], left)[0]:
                pytest.fail(f"Chromium does not answer: {what}")
            data = os.read(self._of, 1 << 16)
            if not data:
                self._ended(what)
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _ended(self, what: str) -> NoReturn:
        pytest.fail(f"Chromium has ended: {what}\n{self._log.read_text(errors='replace')[-2000:]}")

    def _note(self, method: str, event: Any) -> None:
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
            self.complaints.append(f"{method}: {event}")
        elif method == "Log.entryAdded":
            self.complaints.append(f"{event['entry']['level']}: {event['entry']['text']}")


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium in a profile of its own; it and its helpers are gone afterwards."""
    profile = tempfile.mkdtemp(prefix="pvhdbg-chromium-")
    its_input, to = os.pipe()
    of, its_output = os.pipe()
    words = [program(), *SWITCHES, f"--user-data-dir={profile}"]
    command = [sys.executable, "-c", LAUNCH, str(its_input), str(its_output), *words]
    environment = {**os.environ, "HOME": profile, "XDG_CONFIG_HOME": profile, "XDG_CACHE_HOME": profile}
    log = Path(profile, "stderr")
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, pass_fds=(its_input, its_output), stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=environment,
            start_new_session=True,
        )  # fmt: skip
    os.close(its_input)
    os.close(its_output)
    try:
        yield Browser(to, of, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(to)
        os.close(of)
        shutil.rmtree(profile, ignore_errors=True)
