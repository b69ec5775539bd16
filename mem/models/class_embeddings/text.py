"""Text features of class names, computed by the text encoder of a CLIP model of open_clip (the extra `text`)."""

from __future__ import annotations

import contextlib
import difflib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mem.config import TextEmbeddings
from mem.errors import UserError
from mem.models.class_embeddings.vectors import ClassVectors, require_usable
from mem.models.weights.hub import cached_file, download_file, repository_at
from mem.models.weights.tensors import require_no_pointer

TEXTS_PER_BATCH = 256
NEWEST = "main"
"""Branch of a repository that is read if no commit is specified."""
_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "vocab.txt",
    "tokenizer.model", "sentencepiece.bpe.model", "spiece.model",
)  # fmt: skip


@torch.no_grad()
def text_vectors(settings: TextEmbeddings, names: Sequence[str], *, download: bool = False) -> ClassVectors:
    """Return the text features of classes, and the projection of the model's image features.

    For each class, the normalised features of all prompts are averaged and normalised. Source: openai/CLIP
    (notebooks/Prompt_Engineering_for_ImageNet.ipynb), and `init_head_text_feat` of shijxcs/LIFT (trainer.py at
    661ead9) for a single prompt.

    Args:
        settings: The text model and the prompts.
        names: Names of the classes in words.
        download: Whether weights that are not on this machine are downloaded. Jobs read only local files.

    Raises:
        UserError: open_clip is missing, the model or its weights are unknown, missing or damaged, or the weights are
            for another model.
    """
    model, tokenizer = _load(settings, download=download)
    features = torch.zeros(())
    for prompt in settings.prompts:
        features = features + F.normalize(_encode(model, tokenizer, [prompt.format(name) for name in names]), dim=1)
    embeddings = F.normalize(features / len(settings.prompts), dim=1)
    origin = f"text features of {settings.model}"
    return ClassVectors(require_usable(embeddings, origin), origin, _image_projection(model))


def _encode(model: Any, tokenizer: Any, texts: Sequence[str]) -> Float[Tensor, "texts embedding"]:
    parts = [texts[start : start + TEXTS_PER_BATCH] for start in range(0, len(texts), TEXTS_PER_BATCH)]
    return torch.cat([model.encode_text(tokenizer(list(part))).float() for part in parts])


def _image_projection(model: Any) -> Float[Tensor, "embedding width"] | None:
    """Return the matrix that maps the pooled feature of the image encoder to the space of the text features.

    None if the image encoder has no such linear layer.
    """
    visual = model.visual
    own = getattr(visual, "proj", None)
    if isinstance(own, Tensor) and own.ndim == 2:
        return own.detach().T.float().contiguous()
    of_timm = getattr(getattr(visual, "head", None), "proj", None)
    if isinstance(of_timm, nn.Linear) and of_timm.bias is None:
        return of_timm.weight.detach().float()
    return None


def _load(settings: TextEmbeddings, *, download: bool) -> tuple[Any, Any]:
    """Return the model in evaluation mode and its tokenizer."""
    open_clip = _library()
    if settings.repository is not None:
        folder = _hub_folder(settings, settings.repository, download=download)
        name, weights = f"local-dir:{folder}", None
    else:
        name = settings.model
        _require_known(open_clip, name)
        weights = str(_weights_file(open_clip, settings, download=download))
    origin = weights or f"{settings.model} at {settings.revision}"
    try:
        # The random initial values are replaced. They must not change those of the backbone.
        with _quiet(), torch.random.fork_rng(devices=[]):
            model = open_clip.create_model(name, pretrained=weights, precision="fp32", device="cpu")
            tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # the type of the exception depends on the model's code
        reason = " ".join(str(error).split())
        raise UserError(
            f"{origin}: open_clip cannot load the text model {settings.model}: {reason[:300]}. Check that the weights "
            "belong to this model; tokenizers of other libraries must be installed and in their cache."
        ) from None
    return model.eval(), tokenizer


def _library() -> Any:
    try:
        import open_clip
    except ImportError:
        raise UserError(
            "Text features require open_clip, which is not installed in this environment. Install the extra `text` "
            "(pip install 'mem-longtail[text]'), or compute the embeddings on another machine (`mem classes embed`) "
            "and set the source to file."
        ) from None
    return open_clip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings of open_clip about settings that this module checks."""
    root, level = logging.getLogger(), logging.getLogger().level
    # Without a handler, `logging.info` would add one to the root logger, and messages of mem would appear twice.
    handler = logging.NullHandler()
    root.addHandler(handler)
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _require_known(open_clip: Any, name: str) -> None:
    known = open_clip.list_models()
    if name not in known:
        similar = difflib.get_close_matches(name, known, n=3)
        hint = f" Similar names: {', '.join(similar)}." if similar else ""
        raise UserError(f"open_clip has no model {name}.{hint} open_clip.list_models() lists all names.")


def _weights_file(open_clip: Any, settings: TextEmbeddings, *, download: bool) -> Path:
    """Return the weights of a model that open_clip knows by name: the user's file, or that of a tag."""
    if settings.file is not None:
        path = Path(settings.file).expanduser()
        if not path.is_file():
            raise UserError(f"{path}: weights file of the text model not found (file)")
        require_no_pointer(path)
        return path
    assert settings.pretrained is not None
    tag = open_clip.pretrained.get_pretrained_cfg(settings.model, settings.pretrained)
    if not tag:
        tags = open_clip.pretrained.list_pretrained_tags_by_model(settings.model)
        raise UserError(
            f"open_clip has no weights {settings.pretrained} for {settings.model}. Available: "
            f"{', '.join(tags) or 'none'}."
        )
    _require_same_activation(open_clip, settings, bool(tag.get("quick_gelu", False)))
    if repository := tag.get("hf_hub"):
        owner_and_name, _, file = repository.rpartition("/")
        return _hub_file(settings, owner_and_name, _alternatives(file), download=download)
    path = Path("~/.cache/clip").expanduser() / Path(tag["url"]).name
    if not path.is_file() and not download:
        raise _not_stored(settings, path)
    return Path(open_clip.pretrained.download_pretrained_from_url(tag["url"]))


def _alternatives(file: str) -> tuple[str, ...]:
    """Return the names of the weights file, the safe format first, as open_clip looks for them."""
    if not file or file in _WEIGHTS:
        return _WEIGHTS
    stem, _, suffix = file.rpartition(".")
    return (f"{stem}.safetensors", file) if suffix in ("bin", "pth", "pt") else (file,)


def _require_same_activation(open_clip: Any, settings: TextEmbeddings, quick: bool) -> None:
    """Check that the model has the activation with which the weights were trained. open_clip only warns.

    Raises:
        UserError: It has another one, so that all features would be wrong.
    """
    if bool((open_clip.get_model_config(settings.model) or {}).get("quick_gelu", False)) == quick:
        return
    trained, other = (
        ("QuickGELU", f"{settings.model}-quickgelu") if quick else ("GELU", settings.model.removesuffix("-quickgelu"))
    )
    raise UserError(
        f"The weights {settings.pretrained} of {settings.model} were trained with the activation {trained}, which this "
        f"model does not have. Set model to {other}."
    )


def _hub_folder(settings: TextEmbeddings, repository: str, *, download: bool) -> Path:
    """Return the folder of the hub's cache that contains the configuration, weights and tokenizer of a repository."""
    if download:
        revision = settings.revision or NEWEST
        available = repository_at(repository, revision).files
        for file in _TOKENIZER_FILES:
            if file in available:
                download_file(repository, revision, file)
    _hub_file(settings, repository, _WEIGHTS, download=download)
    return _hub_file(settings, repository, (_CONFIG,), download=download).parent


def _hub_file(settings: TextEmbeddings, repository: str, files: Sequence[str], *, download: bool) -> Path:
    """Return the first of several files that a repository contains."""
    revision = settings.revision or NEWEST
    for file in files:
        if (found := cached_file(repository, revision, file)) is not None:
            return found
    if not download:
        raise _not_stored(settings, f"{repository}, {files[0]}, revision {revision}")
    available = repository_at(repository, revision).files
    file = next((file for file in files if file in available), None)
    if file is None:
        raise UserError(f"{repository}: contains no {' or '.join(files)}, which open_clip requires. Use another model.")
    return download_file(repository, revision, file)


def _not_stored(settings: TextEmbeddings, where: Path | str) -> UserError:
    return UserError(
        f"The text model {settings.model} is not on this machine ({where}), and jobs download nothing. On a machine "
        "with network access and the same cache, run `mem classes embed STUDY --out FILE`, which downloads it. Without "
        "a shared cache, copy FILE here and set the source to file."
    )
