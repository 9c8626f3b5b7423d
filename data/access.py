"""Who may use the app: names, roles and passcodes, kept as hashes in access.json.

In:  the workspace's folder; a name with a passcode, or an address that a sign-in service vouches
     for. Out: a `Person`, tokens that keep a browser signed in, or AccessRefused.

Without the file everybody who reaches the app is a researcher: right for one's own machine, where
it listens on localhost. `python run.py access add NAME` makes the file, and from then on the app
asks. A passcode is shown once, when it is made; only its scrypt hash is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.errors import AccessRefused, WorkspaceError
from data.workspace import publish

FILE = "access.json"
ROLES = ("researcher", "rater")  # a rater sees the Rate page and nothing else
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # without what is easily taken for something else
SCRYPT = {"n": 2**14, "r": 8, "p": 1, "maxmem": 2**26, "dklen": 32}  # some 50 ms a try
WAIT_S = (0, 0, 0, 1, 2, 5, 10, 30, 60)  # after so many wrong passcodes of one name
TOKEN_S = 12 * 3600.0  # a browser stays signed in for so long
ABSENT = {"name": "", "role": "", "salt": "00" * 16, "hash": ""}


@dataclass(frozen=True)
class Person:
    """Who sits in front of the page."""

    name: str
    role: str = "researcher"  # one of ROLES

    @property
    def researcher(self) -> bool:
        return self.role == "researcher"


class Access:
    """The people of one workspace. Safe between threads; the file is read anew at each question."""

    def __init__(self, folder: str | Path, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(folder) / FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._misses: dict[str, tuple[int, float]] = {}  # name -> wrong passcodes, the last when
        self._ended: dict[str, float] = {}  # tokens that were signed out, until they end anyway

    @property
    def open(self) -> bool:
        """Whether everybody may come in, since nobody was named."""
        return not self.path.exists()

    def people(self) -> list[Person]:
        return [Person(one["name"], one["role"]) for one in self._read()["people"]]

    def add(self, name: str, role: str = "researcher", *, service: bool = False) -> str | None:
        """Lets somebody in, or gives a new passcode and role to who is there; the passcode.

        service: no passcode; a sign-in service (OpenID Connect) vouches for this e-mail address.
        """
        name = name.strip()
        if not 0 < len(name) <= 100 or any(ord(character) < 32 for character in name):
            raise WorkspaceError(f"{name!r} is no name: give 1 to 100 characters on one line")
        if role not in ROLES:
            raise WorkspaceError(f"no role {role!r}: choose from {', '.join(ROLES)}")
        about = self._read()
        entry = {"name": name, "role": role}
        passcode = None
        if not service:
            passcode = "-".join(_letters(4) for _ in range(4))
            salt = secrets.token_bytes(16)
            entry |= {"salt": salt.hex(), "hash": _hash(passcode, salt)}
        others = [one for one in about["people"] if one["name"] != name]
        self._write({**about, "people": [*others, entry]})
        return passcode

    def remove(self, name: str) -> None:
        """Lets somebody in no longer, nor a browser they signed in with. WorkspaceError if they
        are not there, or are the last researcher."""
        about = self._read()
        left = [one for one in about["people"] if one["name"] != name]
        if len(left) == len(about["people"]):
            raise WorkspaceError(f"nobody is called {name!r} here")
        if left and not any(one["role"] == "researcher" for one in left):
            raise WorkspaceError(f"{name!r} is the last researcher: add another one first")
        if left:
            self._write({**about, "people": left})
        else:
            self.path.unlink()

    def enter(self, name: str, passcode: str) -> Person:
        """The person of that name and passcode; AccessRefused otherwise, soon only after a wait.

        A name that is not there takes as long as one that is.
        """
        name = name.strip()
        with self._lock:
            count, last = self._misses.get(name, (0, 0.0))
            left = last + WAIT_S[min(count, len(WAIT_S) - 1)] - self._clock()
        if left > 0:
            raise AccessRefused(f"too many wrong passcodes: try again in {math.ceil(left)} s")
        entry = self._entry(name) or ABSENT
        given = _hash(passcode.strip().lower(), bytes.fromhex(entry.get("salt", ABSENT["salt"])))
        if not hmac.compare_digest(given, entry.get("hash", "")):
            with self._lock:
                if len(self._misses) > 10_000:  # names are what somebody typed
                    self._misses.clear()
                self._misses[name] = (count + 1, self._clock())
            raise AccessRefused("no such name with this passcode")
        with self._lock:
            self._misses.pop(name, None)
        return Person(entry["name"], entry["role"])

    def vouched(self, address: str) -> Person:
        """The person a sign-in service named; AccessRefused if they are not let in here."""
        for one in self._read()["people"]:
            if "hash" not in one and one["name"].casefold() == address.casefold():
                return Person(one["name"], one["role"])
        raise AccessRefused(f"{address} is not let in here: ask a researcher to add this address")

    def token(self, person: Person) -> str:
        """What a browser keeps to stay signed in; it ends with the time, and with the passcode."""
        expires = int(self._clock() + TOKEN_S)
        return f"{person.name.encode().hex()}.{expires}.{self._seal(person.name, expires)}"

    def holder(self, token: str | None) -> Person | None:
        """Whose token it is; None if it is nobody's, too old, or of a passcode since replaced."""
        try:
            who, expires, seal = (token or "").split(".")
            name, until = bytes.fromhex(who).decode(), int(expires)
        except ValueError:
            return None
        entry = self._entry(name)
        if entry is None or until < self._clock() or token in self._ended:
            return None
        good = hmac.compare_digest(seal.encode(), self._seal(name, until).encode())
        return Person(entry["name"], entry["role"]) if good else None

    def end(self, token: str | None) -> None:
        """Signs out the browser that holds it, wherever a copy of it may be."""
        if self.holder(token) is not None:
            with self._lock:
                now = self._clock()
                self._ended = {one: end for one, end in self._ended.items() if end > now}
                self._ended[token] = now + TOKEN_S

    def _seal(self, name: str, expires: int) -> str:
        entry = self._entry(name) or ABSENT
        message = f"{name}\n{expires}\n{entry['role']}\n{entry.get('hash', '')}"
        key = bytes.fromhex(self._read()["key"])
        return hmac.new(key, message.encode(), hashlib.sha256).hexdigest()

    def _entry(self, name: str) -> dict | None:
        return next((one for one in self._read()["people"] if one["name"] == name), None)

    def _read(self) -> dict:
        try:
            return json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return {"key": secrets.token_hex(32), "people": []}
        except (OSError, ValueError):
            # Nobody comes in: an unreadable list of people must not open the door to all.
            raise WorkspaceError(
                f"{FILE} in the workspace cannot be read: mend it, or remove it and add everybody "
                "again with: python run.py access add NAME"
            ) from None

    def _write(self, about: dict) -> None:
        with publish(self.path) as part:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump(about, out, indent=1)


def _letters(n: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(n))


def _hash(passcode: str, salt: bytes) -> str:
    return hashlib.scrypt(passcode.encode(), salt=salt, **SCRYPT).hex()
