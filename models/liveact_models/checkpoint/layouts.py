"""Where a model's weights come from: one class a layout, one way to load from any of them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import nn

from liveact_models import config as sizes
from liveact_models.checkpoint import files, names
from liveact_models.checkpoint.errors import CheckpointError
from liveact_models.checkpoint.stored import StoredTensors, read_stored, stored_in
from liveact_models.checkpoint.weights import assign, untrained

if TYPE_CHECKING:
    from liveact_models.encoders import AudioEncoder, ImageEncoder, TextEncoder
    from liveact_models.transformer.model import LiveActTransformer
    from liveact_models.vae import Parts, Vae

MODULES = ("transformer", "vae", "audio_encoder", "text_encoder", "image_encoder")
UNTRAINED = "untrained"
SHIPPED = "shipped"
"""The weights that come with this package, for the presets that have some."""
MANIFEST = "liveact.json"
FORMAT = "liveact-checkpoint"
VERSION = 1
_TRANSFORMER = "diffusion_pytorch_model"
TRANSFORMER_STEM = {"released": _TRANSFORMER, "liveact": "transformer"}
"""Of each layout, what the names of the transformer's files begin with."""
_VAE = "Wan2.1_VAE.pth"
_TEXT = "models_t5_umt5-xxl-enc-bf16.pth"
_IMAGE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
_AUDIO = ("model.safetensors", "pytorch_model.bin")

Module = TypeVar("Module", bound=nn.Module)
Tensors = Mapping[str, torch.Tensor]


class Checkpoint(ABC):
    """The weights of one model. Each `load_` gives a module in eval mode, on `device` and in `dtype`.

    They raise `CheckpointError` naming file, tensor, found and expected shape. Modules are built without storage and
    take the file's tensors, so a module is in memory once.
    """

    kind: ClassVar[str]
    config: sizes.ModelConfig
    small_decoder: Checkpoint | None = None
    """Whose decoder stands in for the VAE's own, see `use_decoder`."""

    def use_decoder(self, other: Checkpoint) -> None:
        """Decode with the tiny VAE of `other` from now on; encoding stays.

        Raises `CheckpointError` CHECKPOINT_LAYOUT_UNKNOWN when its VAE is not of the tiny family and the same channels.
        """
        wanted, found = self.config.vae.z_dim, other.config.vae
        if not isinstance(found, sizes.TinyVaeConfig) or found.z_dim != wanted:
            raise CheckpointError(
                "CHECKPOINT_LAYOUT_UNKNOWN",
                f"{other.folder}: its VAE is of family {found.family!r} with {found.z_dim} latent channels; "
                f"a decoder in the place of another must be of family 'tiny' with {wanted}",
            )
        self.small_decoder = other
        self.config = dataclasses.replace(self.config, vae_decoder=found)

    def load_transformer(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        offload_blocks: int = 0,
        prepare: Callable[[LiveActTransformer], object] | None = None,
    ) -> LiveActTransformer:
        """The transformer, `offload_blocks` of its layers in host memory (`liveact_models.offload`, whose errors it raises).

        `prepare` changes it while it has no storage yet, in `dtype`: maps that hold e4m3 then get their matrices one by one, as
        stored or made of what is stored, and never lie on the device in a larger type.
        """
        from liveact_models.offload import host_tensors, offload
        from liveact_models.transformer.model import LiveActTransformer

        def build() -> LiveActTransformer:
            transformer = LiveActTransformer(self.config.transformer)
            if prepare is not None:
                prepare(transformer.to(dtype))
            return transformer

        with torch.device("meta"):
            host = host_tensors(build(), offload_blocks) if offload_blocks else set()
        transformer = self._load("transformer", build, device, dtype, host=host)
        offload(transformer, offload_blocks, torch.device(device))
        return transformer

    def load_vae(self, parts: Parts = "both", *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Vae:
        """The model's VAE; with `parts` "decode", the small decoder where one stands in its place."""
        from liveact_models.vae import TinyVae, build_vae

        if self.small_decoder is not None and parts == "decode":
            return self.small_decoder.load_vae(parts, device=device, dtype=dtype)
        with torch.device("meta"):
            whole = set(build_vae(self.config.vae).state_dict())
        vae = self._load("vae", lambda: build_vae(self.config.vae, parts), device, dtype, passed_over=whole)
        # A few per cent faster on a CPU; the full VAE has kernels of its own.
        return vae.to(memory_format=torch.channels_last) if isinstance(vae, TinyVae) else vae  # type: ignore[call-overload]

    def load_audio_encoder(self, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> AudioEncoder:
        from liveact_models.encoders import AudioEncoder

        return self._load("audio_encoder", lambda: AudioEncoder(self.config.audio_encoder), device, dtype)

    def load_text_encoder(self, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> TextEncoder:
        """Raises `CheckpointError` CHECKPOINT_NOT_FOUND too when the tokenizer's files are missing."""
        from liveact_models.encoders import TextEncoder, load_tokenizer, tokenizer_files

        place = tokenizer_files(self.config.text_encoder, self.folder)
        try:
            tokenizer = load_tokenizer(self.config.text_encoder, self.folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                "CHECKPOINT_NOT_FOUND",
                f"{place}: no tokenizer there ({str(error).splitlines()[0]}); "
                f"put the files of the tokenizer {self.config.text_encoder.tokenizer!r} there",
            ) from None
        return self._load("text_encoder", lambda: TextEncoder(self.config.text_encoder, tokenizer), device, dtype)

    def load_image_encoder(self, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> ImageEncoder:
        from liveact_models.encoders import ImageEncoder

        return self._load("image_encoder", lambda: ImageEncoder(self.config.image_encoder), device, dtype)

    def source(self, name: str) -> str:
        """What errors call the origin of a module's tensors. Raises `CheckpointError` where it cannot be told."""
        return str(self._source(name))

    def tensors(self, name: str, module: nn.Module, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensors:
        """A module's tensors under its own names, read when asked for where the files allow it; `module` may be on meta."""
        return self._tensors(name, module, device, dtype)

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where files beside the weights are found."""

    @property
    def trained(self) -> bool:
        """Whether the picture is more than noise."""
        return True

    @abstractmethod
    def describe(self) -> str:
        """One line for people: the layout, where it is, and the preset."""

    @abstractmethod
    def _source(self, name: str) -> Path | str:
        """What errors call the origin of this module's tensors."""

    @abstractmethod
    def _tensors(self, name: str, module: nn.Module, device: str, dtype: torch.dtype) -> Tensors:
        """The module's tensors under the module's own names."""

    def _load(
        self,
        name: str,
        build: Callable[[], Module],
        device: str,
        dtype: torch.dtype,
        passed_over: Collection[str] = (),
        host: Collection[str] = (),
    ) -> Module:
        with torch.device("meta"):
            module = build()
        assign(
            module,
            # With some to stay on the host, none is read straight to the device.
            self._tensors(name, module, "cpu" if host else device, dtype),
            source=str(self._source(name)),
            fix=f"the file must be of the model {self.config.name}, whole and unchanged",
            passed_over=passed_over,
            device=device,
            dtype=dtype,
            host=host,
        )
        return module.eval()


class UntrainedCheckpoint(Checkpoint):
    """Random weights, the same in every process: for tests, measurements and the start of training."""

    kind = "untrained"

    def __init__(self, config: sizes.ModelConfig) -> None:
        if config.text_encoder.tokenizer == "bpe":
            # Its words come out of training: without it, every byte of a prompt is a token.
            text_encoder = dataclasses.replace(config.text_encoder, tokenizer="bytes")
            config = dataclasses.replace(config, text_encoder=text_encoder)
        self.config = config

    @property
    def folder(self) -> Path:
        return Path()

    @property
    def trained(self) -> bool:
        return False

    def describe(self) -> str:
        return f"untrained weights of {self.config.name}: the picture is noise"

    def _source(self, name: str) -> str:
        return f"untrained {name}"

    def _tensors(self, name: str, module: nn.Module, device: str, dtype: torch.dtype) -> Tensors:
        return untrained(module, f"{self.config.name}/{name}", device=device, dtype=dtype)


class OwnCheckpoint(Checkpoint):
    """Our layout: liveact.json with the sizes, and MODULE.safetensors under the module's own names."""

    kind = "liveact"

    def __init__(self, folder: Path) -> None:
        manifest = files.read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
            raise CheckpointError(
                "CHECKPOINT_LAYOUT_UNKNOWN",
                f"{folder / MANIFEST}: format {manifest.get('format')!r} version {manifest.get('version')!r}; "
                f"accepted is {FORMAT!r} version {VERSION}",
            )
        try:
            self.config = sizes.ModelConfig.from_dict(manifest.get("config", {}))
        except sizes.ConfigError as error:
            raise CheckpointError(
                "FILE_UNREADABLE", f"{folder / MANIFEST}: {error}; write it with save_checkpoint"
            ) from None
        self._folder = folder

    @property
    def folder(self) -> Path:
        return self._folder

    def describe(self) -> str:
        return f"checkpoint {self._folder} ({self.config.name})"

    def _source(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def _tensors(self, name: str, module: nn.Module, device: str, dtype: torch.dtype) -> Tensors:
        return read_stored(self._folder, name, device)


class ReleasedCheckpoint(Checkpoint):
    """The released directory (model-facts, "Released checkpoint files"), every name mapped to the library modules.

    The transformer's sizes come from its config.json, the others from `base`. Without `audio_encoder` the one wav2vec2
    folder in or beside the directory is taken.
    """

    kind = "released"

    def __init__(self, folder: Path, base: sizes.ModelConfig, audio_encoder: Path | None = None) -> None:
        try:
            transformer = sizes.transformer_config_from_json(folder / "config.json")
        except sizes.ConfigError as error:
            raise CheckpointError("FILE_UNREADABLE", f"{error}; download config.json again") from None
        self.config = dataclasses.replace(base, transformer=transformer)
        self._folder = folder
        self._audio_encoder = audio_encoder

    @property
    def folder(self) -> Path:
        return self._folder

    def describe(self) -> str:
        return f"released checkpoint {self._folder} ({self.config.name})"

    def _source(self, name: str) -> Path:
        if name == "audio_encoder":
            return self._audio_file()
        return (
            self._folder
            / {
                "transformer": f"{_TRANSFORMER}*.safetensors",
                "vae": _VAE,
                "text_encoder": _TEXT,
                "image_encoder": _IMAGE,
            }[name]
        )

    def _tensors(self, name: str, module: nn.Module, device: str, dtype: torch.dtype) -> Tensors:
        if name == "transformer":
            return read_stored(self._folder, _TRANSFORMER, device)
        path = self._source(name)
        released = StoredTensors(stored_in(path)) if path.suffix == ".safetensors" else files.read_pth(path)
        if name == "image_encoder":
            return names.image_encoder(released, self.config.image_encoder.num_layers)
        convert = {"vae": names.vae, "text_encoder": names.text_encoder, "audio_encoder": names.audio_encoder}
        return convert[name](released)

    def _audio_file(self) -> Path:
        places = [self._audio_encoder] if self._audio_encoder else _folders_named_wav2vec2(self._folder)
        found = [files_[0] for place in places if (files_ := [place / f for f in _AUDIO if (place / f).is_file()])]
        if len(found) != 1:
            there = ", ".join(str(path.parent) for path in found) or "none"
            looked = self._audio_encoder or f"{self._folder} and {self._folder.parent}"
            raise CheckpointError(
                "CHECKPOINT_NOT_FOUND",
                f"{looked}: one wav2vec2 folder with {' or '.join(_AUDIO)} is needed, found {there}; "
                "name the folder of wav2vec2-base",
            )
        return found[0]


def _folders_named_wav2vec2(folder: Path) -> list[Path]:
    return sorted(
        place
        for around in (folder, folder.resolve().parent)
        for place in around.iterdir()
        if place.is_dir() and "wav2vec2" in place.name.lower()
    )


def open_checkpoint(
    path: Path | str,
    preset: str | sizes.ModelConfig = "tiny",
    *,
    audio_encoder: Path | None = None,
    tiny_vae: Path | None = None,
) -> Checkpoint:
    """The checkpoint at `path`, "shipped" or "untrained". Its files are read when a module is loaded.

    `preset` gives the sizes of untrained weights, and of a released directory all but the transformer's; our own layout
    carries its sizes. `audio_encoder`: the wav2vec2 folder of a released directory. `tiny_vae`: a folder in our own layout
    whose vae.safetensors, of the tiny family, decodes in place of the model's own VAE.
    Raises `CheckpointError` CHECKPOINT_NOT_FOUND, CHECKPOINT_LAYOUT_UNKNOWN or FILE_UNREADABLE, `ConfigError` for an
    unknown preset.
    """
    checkpoint = _open(path, preset, audio_encoder)
    if tiny_vae is not None:
        checkpoint.use_decoder(OwnCheckpoint(tiny_vae))
    return checkpoint


def _open(path: Path | str, preset: str | sizes.ModelConfig, audio_encoder: Path | None) -> Checkpoint:
    if str(path) == UNTRAINED:
        return UntrainedCheckpoint(_config(preset))
    folder = shipped_folder(_config(preset).name) if str(path) == SHIPPED else Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            "CHECKPOINT_NOT_FOUND",
            f"{folder}: no such folder; give a checkpoint's folder, {SHIPPED!r} or {UNTRAINED!r}",
        )
    if (folder / MANIFEST).is_file():
        return OwnCheckpoint(folder)
    if (folder / "config.json").is_file() and any(folder.glob(f"{_TRANSFORMER}*.safetensors")):
        return ReleasedCheckpoint(folder, _config(preset), audio_encoder)
    raise CheckpointError(
        "CHECKPOINT_LAYOUT_UNKNOWN",
        f"{folder}: neither {MANIFEST} (our layout) nor config.json with {_TRANSFORMER}*.safetensors (as released) "
        "is there; give the folder that holds them",
    )


def shipped_folder(preset: str) -> Path:
    """Where the weights of a preset that come with this package lie.

    Raises `CheckpointError` CHECKPOINT_NOT_FOUND for a preset without any.
    """
    package = Path(__file__).resolve().parents[1]
    # Inside the package where it was installed from a wheel, beside it in a working copy.
    places = [root / "checkpoints" / preset for root in (package, package.parent)]
    for folder in places:
        if folder.is_dir():
            return folder
    raise CheckpointError(
        "CHECKPOINT_NOT_FOUND",
        f"no weights of {preset!r} come with this package; give a checkpoint's folder, or {UNTRAINED!r}",
    )


def _config(preset: str | sizes.ModelConfig) -> sizes.ModelConfig:
    return preset if isinstance(preset, sizes.ModelConfig) else sizes.preset(preset)
