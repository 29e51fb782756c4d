"""From a JSONL file to a chat with what learnt from it, by OpenAI's own client.

    pip install openai
    export OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=fw-...
    python openai_fine_tune.py train.jsonl "Where is order 7?"

Nothing here is Flywheel's: without OPENAI_BASE_URL, and with OpenAI's key and a model of theirs, it does the same
there.
"""

import argparse
import time

from openai import OpenAI

parser = argparse.ArgumentParser()
parser.add_argument("file", help="conversations, one a line: {'messages': [...]}")
parser.add_argument("question", help="what the fine-tuned model is asked")
parser.add_argument("--model", help="what to begin with; by default the first model there is")
parser.add_argument("--suffix", default="support", help="part of the new model's name")
parser.add_argument("--epochs", type=int, default=3, help="how often every example is seen")
arguments = parser.parse_args()

client = OpenAI()
model = arguments.model or next(iter(client.models.list())).id

# Before: whole, and as a stream.
question = [{"role": "user", "content": arguments.question}]
answer = client.chat.completions.create(model=model, messages=question, max_tokens=40)
print(f"{model}: {answer.choices[0].message.content}")
print(f"{model}, streamed: ", end="")
for chunk in client.chat.completions.create(model=model, messages=question, max_tokens=40, stream=True):
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
print()

with open(arguments.file, "rb") as examples:
    file = client.files.create(file=examples, purpose="fine-tune")
print(f"uploaded {file.filename} as {file.id}")

job = client.fine_tuning.jobs.create(
    model=model,
    training_file=file.id,
    suffix=arguments.suffix,
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": arguments.epochs}}},
)
print(f"started {job.id}")

# Events come newest first; each is shown once, in order.
seen = set()
while True:
    job = client.fine_tuning.jobs.retrieve(job.id)
    events = []
    for event in client.fine_tuning.jobs.list_events(job.id, limit=50):
        if event.id in seen:
            break
        events.append(event)
    for event in reversed(events):
        seen.add(event.id)
        print(f"{job.status}: {event.message}")
    if job.status in ("succeeded", "failed", "cancelled"):
        break
    time.sleep(1)

if job.status != "succeeded":
    raise SystemExit(f"{job.id} {job.status}: {job.error.message if job.error else ''}")

for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id):
    losses = f"train {checkpoint.metrics.train_loss}, validation {checkpoint.metrics.full_valid_loss}"
    print(f"checkpoint {checkpoint.step_number}: {losses}, {checkpoint.fine_tuned_model_checkpoint}")
for name in job.result_files:
    print(client.files.content(name).text.splitlines()[0])

print(f"{job.fine_tuned_model}: ", end="")
for chunk in client.chat.completions.create(
    model=job.fine_tuned_model, messages=question, max_tokens=40, temperature=0, stream=True
):
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
print()
