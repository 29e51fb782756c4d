"""`python -m inference.engine`: the engine from a shell, without services. Knows no Django and no database.

    generate --model M --prompt P    one answer: text as it comes, or with --json one line when it is done
    chat --model M                   a conversation in the terminal
    ppl --model M --text FILE        how well the model predicts a text: its perplexity
    bench --model M                  how fast it is, as a table, or with --json as one line

M is a catalog name (in $FLYWHEEL_HOME/models), a folder or a GGUF. An error is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from inference.catalog import find, is_valid_name
from inference.engine.interface import EngineError, InvalidRequest, ModelLoadError, Request, StepOutput
from inference.parameters import SamplingParams

if TYPE_CHECKING:
    from inference.engine.engine import TorchEngine

_DEFAULT_TOKENS = 256
_BENCH_TOKENS = 128


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.command == "bench":
            return _bench(options)
        engine = _load(options)
        try:
            commands = {"generate": _generate, "chat": _chat, "ppl": _ppl}
            return commands[options.command](engine, options)
        finally:
            engine.close()
    except EngineError as error:
        print(f"flywheel: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="inference.engine", description="The engine alone, without services.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    generate = commands.add_parser("generate", help="one answer to one message")
    generate.add_argument(
        "--prompt", required=True, help="what a person says; goes through the chat template"
    )
    generate.add_argument(
        "--json", action="store_true", help="print one line: text, token_ids, finish_reason"
    )
    chat = commands.add_parser("chat", help="a conversation in the terminal")
    ppl = commands.add_parser("ppl", help="perplexity of a text")
    ppl.add_argument("--text", required=True, type=Path, metavar="FILE", help="in UTF-8")
    ppl.add_argument(
        "--window", type=_positive, default=512, metavar="N", help="tokens that see each other [512]"
    )
    bench = commands.add_parser("bench", help="how fast it is on this machine")
    bench.add_argument(
        "--batch", type=_counts, default=[1, 8, 16, 32], metavar="N,N", help="requests at once"
    )
    bench.add_argument("--prompt-tokens", type=_positive, default=64, metavar="N")
    bench.add_argument("--json", action="store_true", help="print one line: the figures of each batch")
    for command in (generate, chat, ppl, bench):
        command.add_argument("--model", required=True, help="a catalog name, a folder or a GGUF")
        command.add_argument("--dtype", choices=("auto", "fp32", "bf16", "int8"), default="auto")
        command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    for command in (chat, bench):
        command.add_argument(
            "--compile", action=argparse.BooleanOptionalAction, default=True, help="compile the layers [yes]"
        )
    for command in (generate, chat, bench):
        command.add_argument("--max-tokens", type=_positive, default=None, metavar="N")
    for command in (generate, chat):
        command.add_argument("--greedy", action="store_true", help="always the likeliest token")
        command.add_argument("--seed", type=int, default=None, help="by default another one each time")
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError("must be a whole number, at least 1")
    return value


def _counts(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _home() -> Path:
    root = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("FLYWHEEL_HOME") or root / "var").expanduser().resolve()


def _find_model(name: str) -> Path:
    path = Path(name).expanduser()
    if path.exists():
        return path
    installed = _home() / "models" / name
    if is_valid_name(name) and installed.exists():
        return installed
    if find(name) is not None:
        raise ModelLoadError(f"{name} is not installed; run: python manage.py models pull {name}")
    raise ModelLoadError(f"{name} is neither a file, nor a folder, nor a model in {_home() / 'models'}.")


def _load(options: argparse.Namespace) -> TorchEngine:
    path = _find_model(options.model)
    # Here and not above, so that a mistyped command does not wait for torch.
    from inference.engine.loader import load_engine

    compiled = _compiled(options) if options.command == "chat" else None
    return load_engine(
        path,
        dtype=options.dtype,
        device=options.device,
        max_running=1,
        digest_cache=_home() / "cache",
        compiled=compiled,
    )


def _compiled(options: argparse.Namespace) -> Path | None:
    return _home() / "cache" / "compiled" if options.compile else None


def _request(options: argparse.Namespace, messages: list[dict[str, Any]]) -> Request:
    sampling = SamplingParams(
        max_tokens=options.max_tokens or _DEFAULT_TOKENS, temperature=0.0 if options.greedy else None
    )
    seed = secrets.randbits(63) if options.seed is None else options.seed
    return Request(id="cli", messages=messages, sampling=sampling, seed=seed)


def _answer(engine: TorchEngine, request: Request, *, stream: bool) -> tuple[str, list[int], StepOutput]:
    engine.submit(request)
    pieces: list[str] = []
    ids: list[int] = []
    last = StepOutput(request.id, [])
    while engine.has_work:
        for last in engine.step():
            pieces.append(last.text)
            ids += last.token_ids
            if stream:
                print(last.text, end="", flush=True)
    if last.finish_reason == "error":
        raise EngineError(last.error)
    return "".join(pieces), ids, last


def _generate(engine: TorchEngine, options: argparse.Namespace) -> int:
    request = _request(options, [{"role": "user", "content": options.prompt}])
    text, ids, last = _answer(engine, request, stream=not options.json)
    if options.json:
        print(json.dumps({"text": text, "token_ids": ids, "finish_reason": last.finish_reason}))
    else:
        print()
    return 0


def _bench(options: argparse.Namespace) -> int:
    path = _find_model(options.model)
    from inference.engine.benchmark import Benchmark
    from inference.engine.loaded_model import load_model

    benchmark = Benchmark(
        load_model(path, dtype=options.dtype, device=options.device, digest_cache=_home() / "cache"),
        batches=options.batch,
        prompt_tokens=options.prompt_tokens,
        max_tokens=options.max_tokens or _BENCH_TOKENS,
        compiled=_compiled(options),
    )
    try:
        if options.json:
            figures = {str(batch): asdict(benchmark.measure(batch)) for batch in options.batch}
            print(json.dumps({"dtype": benchmark.dtype, "batches": figures}))
            return 0
        print(f"{path.name} in {benchmark.dtype}")
        print("at once   decode, tokens/s   prefill, tokens/s   first token, ms   outside the forward pass")
        for batch in options.batch:
            found = benchmark.measure(batch)
            print(
                f"{batch:7}{found.decode:19.1f}{found.prefill:20.0f}{found.first_token_ms:18.1f}{found.outside:27.1%}",
                flush=True,
            )
    finally:
        benchmark.close()
    return 0


def _chat(engine: TorchEngine, options: argparse.Namespace) -> int:
    messages: list[dict[str, Any]] = []
    while True:
        try:
            said = input("> ")
        except EOFError:
            print()
            return 0
        if not said.strip():
            continue
        messages.append({"role": "user", "content": said})
        text, _, _ = _answer(engine, _request(options, messages), stream=True)
        print()
        messages.append({"role": "assistant", "content": text})


def _ppl(engine: TorchEngine, options: argparse.Namespace) -> int:
    from inference.engine.perplexity import perplexity

    try:
        text = options.text.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{options.text} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{options.text} is not a text in UTF-8.") from error
    result = perplexity(engine, text, options.window)
    print(f"perplexity {result.perplexity:.4f} of {result.tokens} tokens in windows of {options.window}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
