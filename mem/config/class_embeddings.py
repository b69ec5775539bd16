"""Settings for class embeddings: one vector per class, with which a classifier starts or classifies untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from mem.config.base import Section, Unkeyed, accept_name
from mem.config.data import Root
from mem.config.head_training import HeadSettings
from mem.config.weights_names import HUB_PREFIX, Commit, check_name, repository_of

EMBEDDING_SUFFIXES = (".npy", ".safetensors")
"""Suffixes of files with class embeddings."""


class ClassMeans(Section):
    """Class means of the initial backbone's features.

    The features are those of the training images without augmentation. A class without training images keeps random
    weights.
    """

    source: Literal["class_means"]


class TextEmbeddings(Section):
    """Text features of the class names, computed by the text encoder of a CLIP model (requires the extra `text`).

    The features of all prompts of a class are normalised, averaged and normalised again (Radford et al. 2021).
    """

    source: Literal["text"]
    model: Annotated[str, Field(min_length=1)]
    """Model of open_clip that contains the text encoder, for example `ViT-B-16-quickgelu`, or `hf-hub:OWNER/REPO`."""
    pretrained: str | None = None
    """Weights of the model: a tag of open_clip, for example `openai`. Not with `file` or `hf-hub:`."""
    file: Annotated[str | None, Unkeyed()] = None
    """Weights of the model: a local file of open_clip. Its digest is part of the run key."""
    revision: Commit | None = None
    """Commit of the Hugging Face Hub's repository of the model; required for `hf-hub:OWNER/REPO`."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    """Prompts, in which `{}` stands for the name of the class. LIFT uses `a photo of a {}.`."""

    @field_validator("model")
    @classmethod
    def _has_the_form_of_a_name(cls, model: str) -> str:
        if model.startswith(HUB_PREFIX):
            check_name(model)
        return model

    @field_validator("prompts")
    @classmethod
    def _contain_a_name(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        for prompt in prompts:
            if prompt.count("{}") != 1 or prompt.count("{") != 1 or prompt.count("}") != 1:
                raise ValueError(f"expected exactly one {{}}, for the name of the class, in {prompt!r}")
        if len(set(prompts)) < len(prompts):
            raise ValueError(f"expected each prompt once, found {list(prompts)}")
        return prompts

    @property
    def repository(self) -> str | None:
        """The repository of the Hugging Face Hub that contains the model; None for a model that open_clip knows."""
        return repository_of(self.model)

    @model_validator(mode="after")
    def _has_one_source_of_weights(self) -> TextEmbeddings:
        if self.repository is not None:
            other = "pretrained" if self.pretrained is not None else "file" if self.file is not None else None
            if other is not None:
                raise ValueError(f"{other}: the repository {self.model} contains the weights; remove `{other}`")
            if self.revision is None:
                raise ValueError(
                    f"revision: is required for {self.model}, so that the weights cannot change; set it to a commit of "
                    f"https://huggingface.co/{self.repository}/commits/main (40 digits)"
                )
        elif (self.pretrained is None) == (self.file is None):
            raise ValueError("set exactly one of `pretrained` (a tag of open_clip) and `file` (a weights file)")
        elif self.file is not None and self.revision is not None:
            raise ValueError("revision: is a commit of the Hugging Face Hub, but the weights are a file; remove it")
        return self


class EmbeddingsFile(Section):
    """Class embeddings from a file. Its digest is part of the run key.

    A `.npy` file contains an array of the shape (classes, width), in class order. A `.safetensors` file contains the
    tensor `embeddings`, optionally the tensor `projection` of the shape (width, feature width), and optionally the
    class names in its metadata, by which the rows are matched. `mem classes embed` writes such a file.
    """

    source: Literal["file"]
    file: Root
    """Path of the file."""

    @model_validator(mode="after")
    def _has_a_known_suffix(self) -> EmbeddingsFile:
        if self.path.suffix not in EMBEDDING_SUFFIXES:
            raise ValueError(f"expected a .npy or .safetensors file, got {self.file}")
        return self

    @property
    def path(self) -> Path:
        """Path of the file."""
        return Path(self.file).expanduser()


ClassEmbeddings = Annotated[TextEmbeddings | EmbeddingsFile, Field(discriminator="source")]
InitialClassifier = Annotated[
    Annotated[ClassMeans | TextEmbeddings | EmbeddingsFile, Field(discriminator="source")], accept_name("source")
]


class ZeroShot(HeadSettings):
    """Zero-shot classifier of a CLIP model (Radford et al. 2021): cosines with class embeddings. Nothing is trained.

    Heads that start from it get a linear classifier with the same predictions.
    """

    method: Literal["zero_shot"]
    embeddings: ClassEmbeddings
    """The class embeddings."""
    scale: PositiveFloat
    """Factor of the cosines. CLIP's learned value is 100."""


def embeddings_file(section: Section | None) -> Path | None:
    """Return the file of class embeddings, or of a text model's weights, whose digest is part of run keys.

    Args:
        section: `finetune.initial_classifier`, or the setting `embeddings` of a head.
    """
    if isinstance(section, EmbeddingsFile):
        return section.path
    if isinstance(section, TextEmbeddings) and section.file is not None:
        return Path(section.file).expanduser()
    return None
