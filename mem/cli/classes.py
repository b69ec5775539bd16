"""Commands for classes: their names in words, and their text features in a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mem.cli.arguments import add_study, load_given_study

if TYPE_CHECKING:
    from mem.config import Study, TextEmbeddings

DEFAULT_PROMPT = "a photo of a {}."
_OPTIONS = {
    "model": "--model",
    "pretrained": "--pretrained",
    "file": "--weights",
    "revision": "--revision",
    "prompts": "--prompt",
}
"""Option of each setting of a text model."""


def add_commands(commands: Any) -> None:
    """Add the command `classes` with its actions `list` and `embed`."""
    classes = commands.add_parser("classes", help="list the names of a study's classes, or compute their text features")
    actions = classes.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="print label, class id and name in words of each class")
    embed = actions.add_parser(
        "embed",
        help="write text features of the class names to a file, which `source: file` reads",
        description="Compute text features of the class names with a CLIP model of open_clip, which is downloaded if "
        "necessary, and write them to a file. By default, the text model and the prompts are those of the study.",
    )
    for action, function in ((listing, _list), (embed, _embed)):
        add_study(action)
        action.add_argument(
            "--order", type=int, metavar="N", help="class order of the long tail; default: the first order of the study"
        )
        action.set_defaults(command=function)
    embed.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write (.safetensors)")
    embed.add_argument("--model", metavar="NAME", help="model of open_clip, or hf-hub:OWNER/REPOSITORY")
    embed.add_argument("--pretrained", metavar="TAG", help="tag of the model's weights, for example openai")
    embed.add_argument("--weights", dest="file", metavar="FILE", help="local weights file instead of --pretrained")
    embed.add_argument("--revision", metavar="COMMIT", help="commit of the repository on the Hugging Face hub")
    embed.add_argument(
        "--prompt",
        action="append",
        dest="prompts",
        metavar="TEXT",
        help=f"prompt with {{}} for the name; can be repeated. Default with --model: {DEFAULT_PROMPT}",
    )


def _list(options: argparse.Namespace) -> int:
    from mem.errors import UserError
    from mem.models.class_embeddings.names import names_in_words

    classes = _classes(load_given_study(options.study), options.order)
    note: UserError | None = None
    try:
        names = names_in_words(classes)
    except UserError as error:
        names, note = ("",) * len(classes), error
    width = max(map(len, classes))
    for label, (each, name) in enumerate(zip(classes, names, strict=True)):
        print(f"{label:>6}  {each:<{width}}  {name}".rstrip())
    if note is not None:
        print(note)
    return 0


def _embed(options: argparse.Namespace) -> int:
    from mem.errors import UserError
    from mem.models.class_embeddings.files import write_embeddings
    from mem.models.class_embeddings.names import names_in_words
    from mem.models.class_embeddings.text import text_vectors

    if options.out.suffix != ".safetensors":
        raise UserError(f"{options.out}: expected a file name that ends in .safetensors (--out).")
    study = load_given_study(options.study)
    settings = _text_settings(options, study)
    classes = _classes(study, options.order)
    names = names_in_words(classes)
    vectors = text_vectors(settings, names, download=True)
    about = {"model": settings.model, "prompts": "\n".join(settings.prompts)}
    about |= {name: value for name in ("pretrained", "revision") if (value := getattr(settings, name)) is not None}
    write_embeddings(options.out, vectors, classes, names, about)
    shape = " x ".join(map(str, vectors.embeddings.shape))
    print(f"{options.out}: {shape} text features of {settings.model}")
    return 0


def _classes(study: Study, order: int | None) -> tuple[str, ...]:
    """Return the classes of a study's dataset. Its images are not opened."""
    from mem.config import FeatureFiles
    from mem.data.datasets import read_dataset
    from mem.data.datasets.index_files import read_class_names
    from mem.errors import UserError

    if not isinstance(study.dataset, FeatureFiles):
        return read_dataset(study.dataset, study.orders[0] if order is None else order).classes
    if study.dataset.class_names is None:
        raise UserError("The classes of a dataset of features have no names. Set dataset.class_names.")
    return read_class_names(Path(study.dataset.class_names).expanduser())


def _text_settings(options: argparse.Namespace, study: Study) -> TextEmbeddings:
    """Return the text model and the prompts from the command line or, without `--model`, those of the study.

    Raises:
        UserError: There are none, or the study has several.
    """
    from pydantic import ValidationError

    from mem.config import TextEmbeddings
    from mem.config.messages import describe_error
    from mem.errors import UserError

    given = {name: value for name in _OPTIONS if (value := getattr(options, name)) is not None}
    if "model" in given:
        values = {"source": "text", "prompts": [DEFAULT_PROMPT], **given}
        try:
            return TextEmbeddings.model_validate(values)
        except ValidationError as error:
            problems = [describe_error(each, values, {}, "text", TextEmbeddings) for each in error.errors()]
            raise UserError(
                f"Invalid text model: {'; '.join(each.removeprefix('text: ') for each in problems)}"
            ) from None
    if given:
        raise UserError(f"{_OPTIONS[next(iter(given))]} requires --model.")
    found = list(dict.fromkeys(section for section in _sections(study) if isinstance(section, TextEmbeddings)))
    if len(found) == 1:
        return found[0]
    reason = "has several text models" if found else "has no text model (source: text)"
    raise UserError(
        f"Study {study.study} {reason}. Specify one, for example: --model ViT-B-16-quickgelu --pretrained openai "
        f'--prompt "{DEFAULT_PROMPT}"'
    )


def _sections(study: Study) -> list[Any]:
    """Return the class embeddings of all finetunings and heads of a study."""
    finetunings = [each.initial_classifier for each in study.finetunings.values()]
    return [*finetunings, *(getattr(head, "embeddings", None) for head in study.heads.values())]
