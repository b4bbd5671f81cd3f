"""`flash login`, `whoami`, `org create`, `token create`, `list`, `revoke`: which stack, and on whose behalf."""

import getpass
import os
import sys
import time
from argparse import Namespace

import msgspec

from cli import contexts, output
from cli.contexts import Context
from cli.session import quiet, stack
from flash.client import connect
from flash.client.connection import ALIAS, TOKEN_VARIABLE, URL_VARIABLE, token_of
from flash.client.tokens import create_org, create_token, revoke_token, tokens, whose
from flash.contracts.access import Caller, id_of, is_org, is_token
from flash.errors import ConfigError

ANEW = "keep it now: nobody can show it again. With it, `flash login{url}` asks as {who}."


async def login(options: Namespace) -> None:
    name, context = _wanted(options)
    quiet(options)
    from cli.stack import connection

    bus = await connect(lambda: context.url or connection(options.home), {}, token=context.token, name="login")
    try:
        caller = await whose(bus, context.token)
    finally:
        await bus.close(0)
    contexts.save(options.home, name, context)
    if output.wants_json(options):
        output.data(_as_data(name, context, caller))
    else:
        output.line(f"logged in to {contexts.host(context.url)} as {_role(caller)} (context {name})")


async def whoami(options: Namespace) -> None:
    name, context = contexts.chosen(options)
    elsewhere = os.environ.get(URL_VARIABLE, "")
    name, url = ("", elsewhere) if elsewhere else (name, context.url)
    async with stack(options) as bus:
        caller = await whose(bus, contexts.token(options))
    if output.wants_json(options):
        output.data(_as_data(name, Context(url=url), caller))
        return
    output.line(f"organisation  {caller.org}")
    output.line(f"role          {caller.role}")
    if caller.token_id:
        output.line(f"token         {caller.token_id}" + (f" ({caller.name})" if caller.name else ""))
    output.line(f"stack         {contexts.host(url)}")
    output.line(f"context       {name or f'none: {URL_VARIABLE} is set'}")


async def org_create(options: Namespace) -> None:
    _check(options.org)
    async with stack(options) as bus:
        token = await create_org(bus, options.org)
    _show(options, options.org, token, "its admin")


async def token_create(options: Namespace) -> None:
    if options.org:
        _check(options.org)
    async with stack(options) as bus:
        org = options.org or bus.org
        token = await create_token(bus, options.role, options.name, org=org)
    _show(options, org, token, f"a {options.role} of {org}")


async def token_list(options: Namespace) -> None:
    if options.org:
        _check(options.org)
    async with stack(options) as bus:
        found = await tokens(bus, org=options.org)
    if output.wants_json(options):
        output.data([msgspec.to_builtins(token) for token in found])
        return
    now = time.time()
    rows = [(token.id, token.role, token.name, f"{output.ago(now - token.created_at)} ago") for token in found]
    output.table(("TOKEN", "ROLE", "NAME", "MADE"), rows)


async def token_revoke(options: Namespace) -> None:
    if options.org:
        _check(options.org)
    async with stack(options) as bus:
        revoked = await revoke_token(bus, id_of(options.token) or options.token, org=options.org)
    if output.wants_json(options):
        output.data(msgspec.to_builtins(revoked))
    else:
        output.line(f"revoked {revoked.id}; within ten seconds no service takes it any more")


def _wanted(options: Namespace) -> tuple[str, Context]:
    """What is to be logged in to: a URL, this machine's stack, or a context that is kept already."""
    known = contexts.read(options.home).contexts
    if not options.url and options.context in known:
        return options.context, known[options.context]
    given = options.url or os.environ.get(URL_VARIABLE, "")
    url = given if not given or "://" in given else f"nats://{given}"
    name = options.context or (contexts.host(url) if url else contexts.HERE)
    token = token_of({n: os.environ[n] for n in (TOKEN_VARIABLE, ALIAS) if n in os.environ}) or _asked()
    if token and not is_token(token):
        raise ConfigError("that is no token: one reads flash_ORG_ID_SECRET, as it was printed")
    return name, Context(url=url, token=token)


def _asked() -> str:
    """Never an option: arguments can be read by everybody on this machine."""
    if sys.stdin.isatty():
        return getpass.getpass("token (none for an open stack): ", sys.stderr).strip()
    return sys.stdin.readline().strip()


def _check(org: str) -> None:
    if not is_org(org):
        raise ConfigError(
            f"{org!r} names no organisation: lower-case letters, digits and dashes do, 40 at most, no dash first"
        )


def _show(options: Namespace, org: str, token: str, who: str) -> None:
    """The token alone on stdout."""
    if options.json:
        output.data({"org": org, "token": token})
    else:
        output.line(token)
    _, context = contexts.chosen(options)
    url = f" {contexts.host(context.url)}" if context.url else ""
    output.note(ANEW.format(who=who, url=url))


def _role(caller: Caller) -> str:
    return f"{caller.role} of {caller.org}"


def _as_data(name: str, context: Context, caller: Caller) -> dict[str, object]:
    return {**msgspec.to_builtins(caller), "stack": contexts.host(context.url), "context": name}
