"""What each command may be given; a function here goes by the name of the command's own.

argparse and nothing else, so that `--help` and a mistyped option are answered at once.
"""

from argparse import ArgumentParser
from pathlib import Path

from cli.scaffold import TEMPLATES


def up(parser: ArgumentParser) -> None:
    parser.add_argument("-d", "--detach", action="store_true", help="return once it takes runs; `flash down` stops it")
    parser.add_argument(
        "--model",
        dest="models",
        action="append",
        metavar="NAME",
        help="serve and train this base model; default: tiny, and smollm2-135m once it is pulled",
    )
    parser.add_argument("--rollouts", type=int, default=1, metavar="N", help="rollout services of each model")
    parser.add_argument("--learners", type=int, default=1, metavar="N", help="learners of each model")
    parser.add_argument("--scorers", type=int, default=1, metavar="N", help="services that run author code")


def login(parser: ArgumentParser) -> None:
    where = "its bus, for example nats://flash.example:4222; default: FLASH_URL, else the stack of this machine"
    parser.add_argument("url", nargs="?", default="", metavar="URL", help=where)


def org_create(parser: ArgumentParser) -> None:
    parser.add_argument("org", metavar="NAME", help="lower-case letters, digits and dashes, 40 at most")


def token_create(parser: ArgumentParser) -> None:
    roles = "reader: look; member: push and train too; admin: give tokens too; default: member"
    parser.add_argument("--role", choices=("reader", "member", "admin"), default="member", help=roles)
    parser.add_argument("--name", default="", metavar="TEXT", help="whose it is, or what for")
    _org(parser)


def token_list(parser: ArgumentParser) -> None:
    _org(parser)


def token_revoke(parser: ArgumentParser) -> None:
    parser.add_argument("token", metavar="ID", help="as `flash token list` shows it")
    _org(parser)


def completion(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="write what it prints where that shell reads it")


def setup(parser: ArgumentParser) -> None:
    listing = "; ".join(f"{name}: {summary}" for name, summary in TEMPLATES.items())
    parser.add_argument("--template", metavar="NAME", help=listing)
    parser.add_argument("--multi-turn", action="store_true", help="the starter with a second and a third try")
    parser.add_argument(
        "--reasoning", action="store_true", help="the starter for a model that thinks before it answers"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="ask nothing")


def push(parser: ArgumentParser) -> None:
    parser.add_argument("path", type=Path, nargs="?", default=Path(), metavar="PATH", help="a folder or one file")
    parser.add_argument("--name", required=True, metavar="N", help="lower-case letters, digits, dot, dash, underscore")
    _loading(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="write the id into configs whose id is empty")


def show(parser: ArgumentParser) -> None:
    _environment(parser)


def versions(parser: ArgumentParser) -> None:
    _environment(parser)


def diff(parser: ArgumentParser) -> None:
    _environment(parser)
    other = "@version, another environment or a folder; default: the newest version, with the one before it"
    parser.add_argument("other", nargs="?", metavar="OTHER", help=other)


def fetch(parser: ArgumentParser) -> None:
    _environment(parser)
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="where to; default: ./NAME")
    parser.add_argument("-f", "--force", action="store_true", help="write over files that are there")


def rollback(parser: ArgumentParser) -> None:
    _environment(parser, "NAME@version, or NAME for the version that it meant before")


def delete(parser: ArgumentParser) -> None:
    _environment(parser, "NAME with all its versions, or NAME@version for that one alone")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def test(parser: ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", default=".", metavar="PATH", help="a folder, one file, or an id; default: here"
    )
    _loading(parser)
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="score the first N rows only; default: all")
    parser.add_argument("--deadline", type=float, default=10.0, metavar="S", help="for each answer; default: 10")


def score(parser: ArgumentParser) -> None:
    parser.add_argument("environment", metavar="PATH|ID", help="a folder, one file, or the id of a published one")
    parser.add_argument("--input", required=True, metavar="TEXT", help="the row's input")
    parser.add_argument("--output", metavar="TEXT", help="the row's expected output")
    parser.add_argument("--metadata", metavar="JSON", help="the row's metadata, an object; default: none")
    parser.add_argument(
        "--text", dest="texts", action="append", default=[], metavar="REPLY", help="what was answered; several: a group"
    )
    _loading(parser)
    parser.add_argument("--deadline", type=float, default=60.0, metavar="S", help="for each reply; default: 60")


def evaluate(parser: ArgumentParser) -> None:
    parser.add_argument(
        "environment", metavar="ENV", help="NAME, org/name or org/name@version; with --url also a folder"
    )
    parser.add_argument("-m", "--model", metavar="REF", help="a base model, RUN or RUN/step-N; a model of --url")
    parser.add_argument(
        "--url", metavar="URL", help="an OpenAI-compatible endpoint, for example http://localhost:8000/v1"
    )
    parser.add_argument("-n", "--examples", type=int, default=0, metavar="N", help="how many rows; default: all")
    parser.add_argument("-r", "--rollouts", type=int, default=1, metavar="R", help="attempts at each; default: 1")
    parser.add_argument("--split", metavar="S", help="which rows; default: suites, eval or train, the first there is")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="default: 1, as in training")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of an answer; default: the model's recipe")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the sampler; default: 42")
    _loading(parser)
    endpoint = parser.add_argument_group("with --url")
    endpoint.add_argument("--api-key-env", metavar="NAME", help="the variable that holds the API key")
    endpoint.add_argument("--concurrency", type=int, default=32, metavar="N", help="questions in flight; default: 32")
    endpoint.add_argument("--timeout", type=float, default=600.0, metavar="S", help="for an answer; default: 600")
    endpoint.add_argument("--deadline", type=float, default=60.0, metavar="S", help="for scoring it; default: 60")
    endpoint.add_argument("--resume", type=Path, metavar="FILE", help="go on with the rows of evals/NAME/TIME.jsonl")


def train(parser: ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file, for example configs/rl.toml")
    over = "a TOML file laid over it; may be repeated"
    parser.add_argument("--config", dest="overlays", type=Path, action="append", default=[], metavar="F", help=over)
    one = "one value over all files, for example train.steps=30; may be repeated"
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="k=v", help=one)
    parser.add_argument("--dry-run", action="store_true", help="check the config, print the spec, submit nothing")
    parser.add_argument("--cost", action="store_true", help="rows, tokens, time and price; needs no stack")
    parser.add_argument("--env", type=Path, metavar="PATH", help="with --cost: the environment's folder or file")
    price = "with --cost: of an hour; default: FLASH_PRICE_PER_HOUR"
    parser.add_argument("--price-per-hour", metavar="P", help=price)
    parser.add_argument("--background", action="store_true", help="submit and return")


def runs(parser: ArgumentParser) -> None:
    parser.add_argument("-n", "--limit", type=int, default=100, metavar="N", help="how many; default: 100; 0: all")
    parser.add_argument(
        "--state", dest="states", action="append", default=[], metavar="STATE",
        choices=("queued", "planning", "running", "done", "failed", "cancelled"), help="only such; may be repeated",
    )  # fmt: skip


def resume(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="until the run is over")


def trace(parser: ArgumentParser) -> None:
    _run(parser)
    what = "a step or a group, for example step-3 or train-3-1; default: the run without its groups"
    parser.add_argument("what", nargs="?", default="", metavar="WHAT", help=what)


def status(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="until the run is over")


def log(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="until the run is over")


def cancel(parser: ArgumentParser) -> None:
    _run(parser)


def delete_run(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def checkpoints(parser: ArgumentParser) -> None:
    _run(parser)


def rollouts(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("rollout", nargs="?", metavar="ROLLOUT", help="one of them whole, for example train-3-1/0")
    parser.add_argument("--step", type=int, metavar="N", help="of this step")
    parser.add_argument("--example", metavar="ID", help="attempts at this row")
    parser.add_argument("--min-reward", type=float, metavar="R", help="that earned at least this")
    parser.add_argument("--max-reward", type=float, metavar="R", help="that earned at most this")
    parser.add_argument("--faults", action="store_true", help="those that failed")
    such = 'a DuckDB condition over the record\'s columns, for example "len(token_ids) > 200 AND reward = 0"'
    parser.add_argument("--where", default="", metavar="SQL", help=such)
    by = 'columns, for example reward, or "reward desc,step"; default: as they were played'
    parser.add_argument("--sort", default="", metavar="BY", help=by)
    parser.add_argument("-n", "--limit", type=int, default=20, metavar="N", help="how many; default: 20")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="leave out the first N")
    whole = "write all that are such into DIR/rollouts.parquet, tokens and logprobs too"
    parser.add_argument("--export", type=Path, metavar="DIR", help=whole)


def chat(parser: ArgumentParser) -> None:
    parser.add_argument("reference", metavar="REF", help="a base model, RUN or RUN/step-N")
    parser.add_argument("-m", "--message", metavar="TEXT", help="say this and print the answer; else a conversation")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the conversation")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="of an answer; default: 512")
    likeliest = "default: 0, always the likeliest token"
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help=likeliest)


def export(parser: ArgumentParser) -> None:
    parser.add_argument("reference", metavar="REF", help="RUN, its final adapter, or RUN/step-N")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to; it must not be there yet")
    parser.add_argument("--merged", action="store_true", help="the whole model, the adapter added into its weights")
    parser.add_argument("-f", "--force", action="store_true", help="replace an export that is there")
    where = "also push it to this repository of the Hugging Face hub, with the token in HF_TOKEN"
    parser.add_argument("--repository", default="", metavar="OWNER/NAME", help=where)
    parser.add_argument("--public", action="store_true", help="for anybody to see, where the repository is made by it")


def usage(parser: ArgumentParser) -> None:
    which = "a row for each; default: day; org: every organisation, for the operator"
    parser.add_argument("--by", choices=("day", "run", "org"), default="day", help=which)
    parser.add_argument("--since", default="", metavar="DAY", help="from this day on, in UTC; default: ever since")
    parser.add_argument("-n", "--limit", type=int, default=100, metavar="N", help="how many rows; default: 100; 0: all")
    _org(parser)


def pull(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME", help="a name of `flash models`, or a Hugging Face id")


def rm(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME", help="as it was pulled")


def _org(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--org", default="", metavar="NAME", help="for the operator: another organisation than one's own"
    )


def _environment(parser: ArgumentParser, which: str = "NAME or org/name, or one version: NAME@version") -> None:
    parser.add_argument("environment", metavar="ENV", help=which)


def _loading(parser: ArgumentParser) -> None:
    """How the environment is loaded."""
    whose = "for pip, secrets, network, params, worker_env, thinking; default: configs/rl.toml, else configs/sft.toml"
    parser.add_argument("--config", type=Path, metavar="FILE", help=whose)
    one = "one param of load_environment(), over the config's; may be repeated"
    parser.add_argument("--param", dest="params", action="append", default=[], metavar="k=v", help=one)


def _run(parser: ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN", help="its id, as `flash train` and `flash runs` print it")
