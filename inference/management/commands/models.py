"""models: list, pull, add and choose the base models this site answers with; remove what came of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from inference import catalog, model_services
from inference.models import ServedModel
from webapp.core.errors import UserError


class Command(BaseCommand):
    help = "List, fetch, add and choose base models; list and remove what came of training."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(
            dest="action", required=True, metavar="list | pull | add | default | publish | remove"
        )
        actions.add_parser("list", help="what is installed, and what the catalog has for this machine")
        pull = actions.add_parser("pull", help="fetch a model of the catalog, or of the hub by its id")
        pull.add_argument("name", help="smollm2-135m-instruct, or OWNER/MODEL on the Hugging Face hub")
        pull.add_argument(
            "--verify", action="store_true", help="read every byte again, even if nothing changed"
        )
        add = actions.add_parser("add", help="use a model that is on this machine")
        add.add_argument("path", help="a GGUF, or a folder with config.json and safetensors")
        add.add_argument("--name", help="what to call it; by default like its file or folder")
        default = actions.add_parser("default", help="what conversations use")
        default.add_argument("name")
        actions.add_parser("publish", help="put what is on this host alone into the storage all hosts share")
        remove = actions.add_parser("remove", help="delete a model that came of a workspace's training")
        remove.add_argument("name")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        # A database that lacks its schema says so now, and not after gigabytes have been fetched and read.
        ServedModel.objects.first()
        try:
            if action == "list":
                self._list()
            elif action == "pull":
                self._pull(options["name"], options["verify"])
            elif action == "add":
                path = Path(options["path"]).expanduser().resolve()
                self._tell(
                    model_services.register_model(
                        name=options["name"] or model_services.suggested_name(path), path=path
                    )
                )
            elif action == "publish":
                for model in (published := model_services.publish_models()):
                    self.stdout.write(
                        f"{model.name} is in the shared storage ({_size(model.size_bytes)}). {_of_its_copy(model)}"
                    )
                if not published:
                    self.stdout.write("There is nothing on this host that the shared storage lacks.")
            elif action == "remove":
                model = model_services.remove_model(name=options["name"])
                self.stdout.write(f"{model.name} is removed. The replies it gave stay.")
            else:
                model = model_services.set_default_model(name=options["name"])
                self.stdout.write(f"{model.name} is what conversations use now.")
        except UserError as error:
            raise CommandError(error.message)

    def _pull(self, name: str, verify: bool) -> None:
        def progress(line: str) -> None:
            self.stdout.write(f"{name}: {line}")
            self.stdout.flush()

        self._tell(model_services.pull_model(name=name, progress=progress, verify=verify))

    def _tell(self, model: ServedModel) -> None:
        default = " It is what conversations use." if model.is_default else ""
        self.stdout.write(f"{model.name} is ready ({model.size_bytes / 1e6:,.0f} MB).{default}")

    def _list(self) -> None:
        memory, cores = catalog.this_machine()
        installed = {model.name: model for model in ServedModel.objects.filter(workspace=None)}
        self.stdout.write("Installed:" if installed else "Nothing is installed yet.")
        for model in installed.values():
            mark = "*" if model.is_default else " "
            self.stdout.write(
                f" {mark} {model.name:<26} {_size(model.size_bytes):>8}  {model.architecture}, "
                f"{model.parameters / 1e6:,.0f}M parameters, {model.context_length:,} tokens  {model.digest[:12]}"
            )
        trained = ServedModel.objects.exclude(workspace=None).filter(removed_at=None)
        if trained:
            self.stdout.write("\nOf workspaces:")
        for model in trained.select_related("base", "workspace"):
            about = f"adapter to {model.base.name}" if model.base else "a whole model"
            if model.kind == ServedModel.Kind.CLASSIFIER:
                about += ", judges texts"
            self.stdout.write(
                f"   {model.name}  {_size(model.size_bytes)}, {about}, of {model.workspace}  {model.digest[:12]}"
            )
        self.stdout.write(f"\nCatalog, for {_size(memory)} of memory and {cores} cores:")
        for entry in catalog.CATALOG:
            here = "installed" if entry.name in installed else entry.suits(memory, cores)
            self.stdout.write(
                f"   {entry.name:<26} {_size(entry.size_bytes):>8}  needs {_size(entry.memory_bytes)} of memory, "
                f"about {entry.tokens_a_second(cores):.0f} tokens a second: {here}  [{entry.licence}, {entry.source}]"
            )


def _of_its_copy(model: ServedModel) -> str:
    """What became of the files that were published."""
    if model.workspace_id is not None:
        return "Its copy on this host is removed."
    return f"Its files on this host are used no more, and are yours to remove: {model.original}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
