"""What a credential looks like: by the name it goes by, and by its text. Pure."""

import re

_CONTENT: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("a private key", re.compile(rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY( BLOCK)?-----")),
    ("an AWS access key", re.compile(rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(rb"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,})")),
    ("a Hugging Face token", re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")),
    ("an API key", re.compile(rb"\bsk-(proj-|ant-)?[A-Za-z0-9_-]{32,}")),
    ("a Google API key", re.compile(rb"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("a Slack token", re.compile(rb"\bxox[abprs]-[0-9A-Za-z-]{20,}")),
)
_VALUE: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    *_CONTENT,
    ("a GitLab token", re.compile(rb"\bglpat-[0-9A-Za-z_-]{20,}")),
    ("a JSON Web Token", re.compile(rb"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")),
    ("a URL with a password", re.compile(rb"://[^/@\s:]*:[^/@\s]+@")),
)
_WORDS = frozenset({"PAT", "PASSWD", "PASSPHRASE", "CREDENTIALS", "SECRETS", "PASSWORDS"})
_ENDS = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "APIKEY", "PRIVATEKEY", "ACCESSKEY", "SECRETKEY")
_KEY_OF = frozenset({"API", "SECRET", "PRIVATE", "ACCESS", "AUTH", "SIGNING", "ENCRYPTION"})


def in_file(data: bytes) -> tuple[str, int] | None:
    """What kind of credential a file's bytes hold, for example `a GitHub token`, and in which line; None: none."""
    for kind, pattern in _CONTENT:
        if found := pattern.search(data):
            return kind, data.count(b"\n", 0, found.start()) + 1
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
