"""What a credential looks like: by the name it goes by, and by its text. Pure."""

import re

_CONTENT: tuple[tuple[str, tuple[bytes, ...], re.Pattern[bytes]], ...] = (
    ("a private key", (b"-----BEGIN ",), re.compile(rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY( BLOCK)?-----")),
    ("an AWS access key", (b"AKIA", b"ASIA"), re.compile(rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"), re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36}")),
    ("a GitHub token", (b"github_pat_",), re.compile(rb"\bgithub_pat_[A-Za-z0-9_]{50,}")),
    ("a GitLab token", (b"glpat-",), re.compile(rb"\bglpat-[0-9A-Za-z_-]{20,}")),
    ("a Hugging Face token", (b"hf_",), re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")),
    ("an API key", (b"sk-",), re.compile(rb"\bsk-(proj-|ant-)?[A-Za-z0-9_-]{32,}")),
    ("a Google API key", (b"AIza",), re.compile(rb"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("a Slack token", (b"xox",), re.compile(rb"\bxox[abprs]-[0-9A-Za-z-]{20,}")),
    ("a Stripe key", (b"sk_live_", b"rk_live_"), re.compile(rb"\b[sr]k_live_[0-9A-Za-z]{20,}")),
    ("an npm token", (b"npm_",), re.compile(rb"\bnpm_[A-Za-z0-9]{36}\b")),
    ("a token of Flash", (b"flash_",), re.compile(rb"\bflash_[a-z0-9][a-z0-9-]{0,39}_[a-z0-9]{1,32}_[\w-]{32,}")),
)
"""Each with what it begins with: to look for that first is ten times as fast as the pattern alone."""
_OVERLAP_BYTES = 4_096
"""More than any of them has, up to where it is known."""
_VALUE: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    *((kind, pattern) for kind, _, pattern in _CONTENT),
    ("a JSON Web Token", re.compile(rb"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")),
    ("a URL with a password", re.compile(rb"://[^/@\s:]*:[^/@\s]+@")),
    # Small and large letters and digits without a break: no digest, no id and no path looks so.
    ("a random key", re.compile(rb"(?=[A-Za-z+]*[0-9])(?=[A-Z0-9+]*[a-z])(?=[a-z0-9+]*[A-Z])[A-Za-z0-9+]{32,}")),
)
_WORDS = frozenset({"PAT", "PASSWD", "PASSPHRASE", "CREDENTIALS", "SECRETS", "PASSWORDS"})
_ENDS = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "APIKEY", "PRIVATEKEY", "ACCESSKEY", "SECRETKEY")
_KEY_OF = frozenset({"API", "SECRET", "PRIVATE", "ACCESS", "AUTH", "SIGNING", "ENCRYPTION"})


class Scan:
    """Looks through a file's bytes as they come, for what is a credential wherever it stands."""

    def __init__(self) -> None:
        self._seen = b""
        """The end of what came before, so that nothing hides across two pieces."""
        self._line = 1
        self._is_first = True

    def feed(self, piece: bytes, *, is_last: bool = False) -> tuple[str, int] | None:
        """What kind of credential is there, for example `a GitHub token`, and in which line; None: none so far."""
        window = self._seen + piece
        for kind, beginnings, pattern in _CONTENT:
            for beginning in beginnings:
                at = window.find(beginning)
                while at >= 0:
                    found = pattern.match(window, at)
                    # At an edge a longer word may have been cut: the window before, or the next one, has it whole.
                    if found and (at or self._is_first) and (found.end() < len(window) or is_last):
                        return kind, self._line + window.count(b"\n", 0, at)
                    at = window.find(beginning, at + 1)
        keep = min(len(window), _OVERLAP_BYTES)
        self._line += window.count(b"\n", 0, len(window) - keep)
        self._is_first = self._is_first and keep == len(window)
        self._seen = window[len(window) - keep :]
        return None


def in_value(text: str) -> str | None:
    """What kind of credential one setting's value holds. Stricter than for files, where URLs and such are examples."""
    return next((kind for kind, pattern in _VALUE if pattern.search(text.encode(errors="replace"))), None)


def is_name(name: str) -> bool:
    """Does a setting's name say that its value is a credential? `API_KEY` and `GithubToken` do, `MAX_TOKENS` not."""
    words = [word for word in re.split(r"[^A-Z0-9]+", name.upper()) if word]
    if any(word in _WORDS or word.endswith(_ENDS) for word in words):
        return True
    return "KEY" in words and not _KEY_OF.isdisjoint(words)
