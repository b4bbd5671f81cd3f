"""Where packages come from, as this machine's operator has it: pip's configuration (files and `PIP_*` variables), to
uv too unless `UV_*` or a `uv.toml` says more. It is read here, and with it which files, folders and hosts it names.
"""

import configparser
import contextlib
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from flash.host.sandbox import Upstream

_PROXIES = {
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "PIP_PROXY",
}  # fmt: skip
_FILES = {
    "SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC",
    "PIP_CLIENT_CERT", "UV_CONFIG_FILE",
}  # fmt: skip
_INDEXES = {"UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"}
_PASSED_ON = {
    *_PROXIES, *_FILES, *_INDEXES, "PATH", "LANG", "XDG_CONFIG_DIRS", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES",
    "UV_FIND_LINKS", "UV_INDEX_STRATEGY", "UV_INSECURE_HOST", "UV_OFFLINE", "UV_HTTP_TIMEOUT", "UV_SYSTEM_CERTS",
    "UV_NATIVE_TLS",
}  # fmt: skip
_UVS = {"index_url": "UV_DEFAULT_INDEX", "extra_index_url": "UV_INDEX", "find_links": "UV_FIND_LINKS",
        "trusted_host": "UV_INSECURE_HOST", "cert": "SSL_CERT_FILE"}  # fmt: skip
"""pip's settings, and the variables by which uv knows them."""
_PYPI = ("pypi.org", "files.pythonhosted.org")
_PAGES_LOOKED_AT = 32
"""Of an index in a folder: enough to see where its files lie."""
_LINK = re.compile(r'href="([^"#]+)')


@dataclass(frozen=True)
class Indexes:
    """What an installer is to know."""

    variables: Mapping[str, str]
    no_index: bool
    """It asks no index at all."""
    readable: list[str]
    """Files and folders that the settings name."""
    named: frozenset[tuple[str, int]]
    """Hosts and ports that the settings name; those of PyPI where that is the index."""
    upstream: Upstream
    """The operator's proxies."""

    @classmethod
    def of(cls, ours: Mapping[str, str]) -> "Indexes":
        """Raises ConfigError for a proxy that nobody here can use."""
        pips = _pip_settings(ours)
        given = {name: value for name, value in ours.items() if name in _PASSED_ON or _is_login(name)}
        if not {"UV_INDEX", "UV_EXTRA_INDEX_URL"} & given.keys() and "extra_index_url" in pips:
            given.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip: all indexes are equal
        for key, name in _UVS.items():
            if key in pips:
                given[f"PIP_{key.upper()}"] = pips[key]
                given.setdefault(name, pips[key].replace(" ", ",") if key == "find_links" else pips[key])
        no_index = pips.get("no_index", ours.get("UV_NO_INDEX", "")).lower() in ("1", "true", "yes", "on")
        configured = _uv_files(ours)
        given |= {
            "PIP_CONFIG_FILE": os.devnull,  # it has been read; uv reads its own files
            "XDG_CONFIG_HOME": str(_config_home(ours)),
        }
        said = [given[name] for name in sorted(given) if name in _FILES | _INDEXES or name.endswith("FIND_LINKS")]
        said += [given[name] for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in given]
        said += [text for file in configured for text in _strings(_read_toml(file))]
        places = [place for text in said for place in _places(text)]
        proxies = {"HTTPS_PROXY": pips.get("proxy", ""), "HTTP_PROXY": pips.get("proxy", "")}
        return cls(
            variables={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **given},
            no_index=no_index,
            readable=[*map(str, configured), *dict.fromkeys(path for place in places for path in _paths(place))],
            named=frozenset(found for place in (*places, *_pypi(given)) if (found := _in_the_network(place))),
            upstream=Upstream.told({**proxies, **given}),
        )

    def without_proxies(self) -> dict[str, str]:
        """The variables, for whoever is told another way out."""
        return {name: value for name, value in self.variables.items() if name not in _PROXIES}


def _pip_settings(ours: Mapping[str, str]) -> dict[str, str]:
    """pip's settings on where packages are: from its files, then from its variables. Several values stand apart by a
    space."""
    configured = ours.get("PIP_CONFIG_FILE")
    user = _config_home(ours)
    files = [Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", user / "pip/pip.conf", Path(sys.prefix, "pip.conf")]
    found: dict[str, str] = {}
    for file in [] if configured == os.devnull else [*files, *([Path(configured)] if configured else [])]:
        parser = configparser.RawConfigParser()
        with contextlib.suppress(configparser.Error, UnicodeDecodeError):
            parser.read(file)
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= {key.replace("-", "_"): value for key, value in parser.items(section)}
    found |= {name[4:].lower(): value for name, value in ours.items() if name.startswith("PIP_") and value}
    return {key: " ".join(found[key].split()) for key in (*_UVS, "no_index", "proxy") if found.get(key)}


def _is_login(name: str) -> bool:
    """uv's name and password for an index of the operator's."""
    return name.startswith("UV_INDEX_") and name.endswith(("_USERNAME", "_PASSWORD"))


def _config_home(ours: Mapping[str, str]) -> Path:
    return Path(ours.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _uv_files(ours: Mapping[str, str]) -> list[Path]:
    """uv's own settings, where there are some."""
    folders = [_config_home(ours), *map(Path, ours.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")), Path("/etc")]
    named = [Path(ours["UV_CONFIG_FILE"])] if ours.get("UV_CONFIG_FILE") else []
    return [file for file in (*named, *(folder / "uv/uv.toml" for folder in folders)) if file.is_file()]


def _read_toml(file: Path) -> dict[str, Any]:
    """Empty for what is none: uv says so itself."""
    with contextlib.suppress(OSError, ValueError):
        return tomllib.loads(file.read_text())
    return {}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _places(text: str) -> list[str]:
    """The URLs and paths of a setting; uv writes a name and `=` before an index."""
    return [re.sub(r"^[\w.-]+=(?=/|\w+:)", "", word) for word in re.split(r"[\s,]+", text) if word]


def _paths(place: str) -> Iterator[str]:
    """What has to be readable for that."""
    url = urlsplit(place)
    if url.scheme == "file":
        path = unquote(url.path)
    elif url.scheme:
        return
    else:
        path = os.path.expanduser(place)
    for each in path.split(":") if not url.scheme else [path]:  # a list of folders, of certificates for one
        if os.path.isabs(each) and os.path.exists(each):
            yield os.path.abspath(each)
            yield from _linked(each)


def _linked(folder: str) -> set[str]:
    """Where the files lie that the pages of an index in a folder name: beside it, often."""
    found: set[str] = set()
    for page in islice(Path(folder).glob("*/index.html"), _PAGES_LOOKED_AT):
        for link in _LINK.findall(page.read_text(errors="replace")):
            url = urlsplit(urljoin(page.as_uri(), link))
            if url.scheme == "file" and not (file := Path(unquote(url.path))).is_relative_to(folder):
                common = Path(os.path.commonpath([file, folder]))
                found.add(str(common / file.relative_to(common).parts[0]))
    return {path for path in found if os.path.exists(path)}


def _pypi(given: Mapping[str, str]) -> list[str]:
    """The default index."""
    return [] if {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & given.keys() else [f"https://{host}" for host in _PYPI]


def _in_the_network(place: str) -> tuple[str, int] | None:
    """Host and port."""
    url = urlsplit(place)
    try:
        port = url.port or {"http": 80, "https": 443}[url.scheme]
    except (KeyError, ValueError):
        return None
    return (url.hostname.rstrip("."), port) if url.hostname else None
