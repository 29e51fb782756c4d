"""A trainer without torch: `python scripted_trainer.py DOES SPEC.json` writes what the real one does, and obeys.

DOES, several with commas: "slow" (waits to be stopped after step 5), "dies" (kill -9 of itself in step 5 of its first
run, in the midst of a line), "dies-always" (before its first checkpoint), "dies-saving" (having saved the step it went
on from once more), "deaf" (to SIGTERM, as a child it has),
"lingers" (a second over saving when it is stopped, and shows that it gets on), "greedy" (takes ever more memory after
step 5), "mute-CODE" (fails on stderr alone), "fails-CODE", "exits-STATUS" (and says nothing), "beyond" (has examples
that are too long to be learnt from), "env" (writes its environment down), "certain" (has no loss
left in the end).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STEPS = 8


def loss(step: int) -> float:
    return 4.0 / (1 + step)


def main(does: list[str], spec: dict[str, Any]) -> int:
    output = Path(spec["output"])
    stop = False

    def on_sigterm(*_: object) -> None:
        nonlocal stop
        stop = "deaf" not in does

    signal.signal(signal.SIGTERM, on_sigterm)

    def line(type: str, **values: Any) -> None:
        with (output / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"type": type, "time": 0.0, **values}) + "\n")

    def status(state: str, **values: Any) -> None:
        aside = output / ".status"
        aside.write_text(json.dumps({"state": state, "steps": STEPS, **values}))
        aside.replace(output / "status.json")

    def save(step: int) -> None:
        (output / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)
        line("checkpoint", step=step)

    if "env" in does:
        (output / "env.json").write_text(json.dumps(dict(os.environ)))
    if "deaf" in does:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    for do in does:
        kind, _, code = do.partition("-")
        if kind == "mute":
            print(json.dumps({"error": code, "message": "It said so."}), file=sys.stderr)
            return 1
        if kind == "exits":
            return int(code)
        if kind == "fails":
            status("failed", error=code, message="It wrote so.")
            return 1
    beyond = {"beyond": 2, "max_length": 64} if "beyond" in does else {}
    line("data", examples=24, trained_tokens=100, **beyond)
    line("chosen", knob="batch_size", value=4, why="24 examples.")
    line("refused", split="train", line=3, why="It is empty.")
    saved = sorted((output / "checkpoints").glob("step-*"))
    step = int(saved[-1].name.removeprefix("step-")) if saved else 0
    if step:
        line("resumed", step=step, exact=True)
    else:
        line("validation", step=0, loss=5.0)
        line("sample", step=0, prompt="Hi?", answer="(base)")
    status("training", step=step)
    if "dies-always" in does:
        line("step", step=1, loss=loss(1))
        os.kill(os.getpid(), signal.SIGKILL)
    held: list[bytes] = []
    while step < STEPS:
        while step == 5 and "greedy" in does:
            held.append(b"x" * 2**24)
            time.sleep(0.01)
        if "dies-saving" in does and step == 4:
            save(step)
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 5 and "dies" in does and not (output / "died").exists():
            (output / "died").touch()
            with (output / "metrics.jsonl").open("a") as file:
                file.write('{"type": "step", "step": 6, "lo')
            os.kill(os.getpid(), signal.SIGKILL)
        while step == 5 and ("slow" in does or "deaf" in does) and not stop:
            time.sleep(0.01)
        if stop:
            for _ in range(20 if "lingers" in does else 0):
                time.sleep(0.05)
                status("training", step=step, doing="saving")
            save(step)
            status("stopped")
            return 3
        step += 1
        line(
            "step",
            step=step,
            loss=loss(step),
            epoch=step / 4,
            tokens_per_second=50.0,
            seconds=0.5,
            memory=1000,
        )
        if step % 4 == 0:
            line("validation", step=step, loss=loss(step) + 0.1)
            save(step)
            line("sample", step=step, prompt="Hi?", answer=f"(step {step})")
    (output / "adapter").mkdir(exist_ok=True)
    status(
        "succeeded",
        best_step=8,
        best_validation_loss=0.0 if "certain" in does else loss(8) + 0.1,
        base_validation_loss=5.0,
        result="adapter",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].split(","), json.loads(Path(sys.argv[2]).read_text())))
