"""A model as a folder, on this machine or on the Hugging Face Hub: `config.json` beside safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError, closest, unknown_name
from suffuse.base.part import parse
from suffuse.base.weights import load_weights, read_safetensors, save_safetensors
from suffuse.models.alignment import Alignment, AlignmentConfig
from suffuse.models.codec import Codec, CodecConfig
from suffuse.models.config import FORMAT_VERSION, ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.semantic import Semantic

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "AnyConfig",
    "ema_file",
    "load_alignment",
    "load_alignment_config",
    "load_codec",
    "load_codec_config",
    "load_config",
    "load_model",
    "local_folder",
    "push_folder",
    "read_config",
    "save_model",
]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
# What a run's folder holds beyond the model and its codec stays at home.
_NOT_PUSHED = ("checkpoints/*", "*.lock", ".*", "tensorboard/*")


_COMPRESSOR = "conditioner.compressor."

AnyConfig = ModelConfig | CodecConfig | AlignmentConfig
"""Configuration of a model of any kind."""
_KINDS: dict[str, type[CodecConfig] | type[AlignmentConfig]] = {"codec": CodecConfig, "alignment": AlignmentConfig}


def ema_file(name: str) -> str:
    """Where an average that is not the primary one is kept."""
    return f"ema/{name}.safetensors"


def save_model(
    folder: Path,
    config: AnyConfig,
    weights: Mapping[str, Tensor],
    others: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Write weights and configuration; each file is whole or absent, the configuration comes last.

    Args:
        folder: Made when missing.
        config: Its `weights` and `others` name what is handed in.
        weights: State dict for `model.safetensors`.
        others: State dicts of the other averages, by name.
    """
    files.make_folder(folder)
    save_safetensors(folder / WEIGHTS_FILE, weights)
    for name, tensors in others.items():
        files.make_folder(folder / "ema")
        save_safetensors(folder / ema_file(name), tensors)
    files.write_json(folder / CONFIG_FILE, config.dump())


def read_config(folder: Path) -> AnyConfig:
    """Read `config.json`, whatever kind of model it describes.

    Raises:
        UsageError: There is none, it is of a newer version, or it names parts that do not exist.
        RunError: It is not JSON.
    """
    path = folder / CONFIG_FILE
    if not path.is_file() and (folder / "stages.yaml").is_file():
        raise UsageError(f"{folder} is a run whose stages are not finished; go on with suffuse train {folder} --resume")
    if not path.is_file():
        raise UsageError(f"{folder} holds no model: {CONFIG_FILE} is missing; give the folder of a run")
    data = files.read_json(path)
    if "_class_name" in data:
        raise UsageError(f"{path} is a diffusers configuration; run `suffuse convert {folder} --to suffuse` first")
    files.check_version(data, path=path, newest=FORMAT_VERSION)
    kind = _KINDS.get(str(data.get("kind")))
    return parse(ModelConfig, data, owner=str(path)) if kind is None else parse(kind, data, owner=str(path))


def load_config(folder: Path) -> ModelConfig:
    """Read the `config.json` of a denoiser or a flow map.

    Raises:
        UsageError: As `read_config`, and for another kind of model.
        RunError: It is not JSON.
    """
    config = read_config(folder)
    if isinstance(config, CodecConfig):
        raise UsageError(
            f"{folder} is an autoencoder, which makes no samples; give a model, or train one in its latents with "
            f"codec.run={folder}"
        )
    if isinstance(config, AlignmentConfig):
        raise UsageError(
            f"{folder} aligns captions with images and makes no samples; give a model, or train one that reads text by "
            f"it with conditioner.run={folder}"
        )
    return config


def load_codec_config(folder: Path) -> CodecConfig:
    """Read the `config.json` of an autoencoder, or of a denoiser whose compressor is one.

    Raises:
        UsageError: As `read_config`, and for another kind of model.
        RunError: It is not JSON.
    """
    config = read_config(folder)
    if isinstance(config, CodecConfig):
        return config
    if not isinstance(config, ModelConfig) or not isinstance(config.conditioner, Semantic):
        raise UsageError(
            f"{folder} is no autoencoder; give the run of one, such as that of the recipe "
            "mnist28-autoencoder, or of a denoiser with a compressor"
        )
    told = config.conditioner
    return CodecConfig(
        network=told.compressor, shape=told.image_shape, weights=config.weights, others=config.others, step=config.step
    )


def load_model(
    name: str | Path, *, weights: str | None = None, revision: str | None = None, token: str | None = None
) -> Denoiser:
    """Load a model from a folder, or from the Hub when no such folder exists.

    Args:
        name: Folder, or `owner/name` on the Hub.
        weights: Which average; None for the primary one.
        revision: Branch, tag or commit on the Hub.
        token: Of the Hub, for private models; the one that was logged in with when None.

    Raises:
        UsageError: No such folder or repository, wrong architecture, unknown average, a pickle instead of safetensors.
        RunError: A broken file.
    """
    folder = local_folder(name, revision, token)
    config = load_config(folder)
    model = config.build()
    model.config = config.replace(weights=_fill(model, config, folder, weights))
    return model.eval()


def load_codec(
    name: str | Path, *, weights: str | None = None, revision: str | None = None, token: str | None = None
) -> Codec:
    """Load a codec from a folder, or from the Hub when no such folder exists; arguments and errors as `load_model`.

    The folder may be that of a denoiser that is told a code: then it is its compressor.

    Raises:
        UsageError: Also for a folder that holds another kind of model.
    """
    folder = local_folder(name, revision, token)
    config = load_codec_config(folder)
    codec = config.build()
    prefix = _COMPRESSOR if isinstance(read_config(folder), ModelConfig) else ""
    codec.config = config.replace(weights=_fill(codec, config, folder, weights, prefix))
    return codec.eval().requires_grad_(requires_grad=False)


def load_alignment_config(folder: Path) -> AlignmentConfig:
    """Read the `config.json` of an alignment of captions with images.

    Raises:
        UsageError: As `read_config`, and for another kind of model.
        RunError: It is not JSON.
    """
    config = read_config(folder)
    if not isinstance(config, AlignmentConfig):
        raise UsageError(
            f"{folder} does not align captions with images; give the run of an alignment, such as that of the recipe "
            "shapes-alignment"
        )
    return config


def load_alignment(name: str | Path, *, weights: str | None = None) -> Alignment:
    """Load an alignment from a folder, or from the Hub when no such folder exists; errors as `load_model`."""
    folder = local_folder(name)
    config = load_alignment_config(folder)
    model = config.build()
    model.config = config.replace(weights=_fill(model, config, folder, weights))
    return model.eval().requires_grad_(requires_grad=False)


def _fill(model: nn.Module, config: AnyConfig, folder: Path, weights: str | None, prefix: str = "") -> str:
    """Give a fresh model the weights of a folder; returns the average's name.

    Args:
        model: Fresh.
        config: Names the averages.
        folder: Where they are.
        weights: Which; None for the primary one.
        prefix: Of the names of a codec's network within a denoiser's weights; empty for all weights.
    """
    names = (config.weights, *config.others)
    if weights is not None and weights not in names:
        raise unknown_name("average", weights, names)
    chosen = weights or config.weights
    path = folder / (WEIGHTS_FILE if chosen == config.weights else ema_file(chosen))
    if not path.is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in {".pt", ".pth", ".ckpt", ".bin", ".pkl"})
        hint = f"; {pickles[0]} is a pickle and is not read, convert it to safetensors first" if pickles else ""
        raise UsageError(f"{path} is missing{hint or '; finish or resume the run first'}")
    found = read_safetensors(path)
    if prefix:
        own = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
        # Shift and scale are not the denoiser's: they stay 0 and 1.
        found = {name: own.get(name.removeprefix("network."), value) for name, value in model.state_dict().items()}
    load_weights(model, found, owner=str(path))
    return chosen


def local_folder(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The folder itself, or a snapshot of the Hub's repository in the user's cache.

    A name whose first piece is a folder here means a folder here, never the Hub: `runs/NAME` is a run.

    Raises:
        UsageError: No such folder or repository.
        RunError: The Hub cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if len(folder.parts) > 1 and folder.parent.is_dir():
        beside = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        near = closest(folder.name, beside)
        hint = f"did you mean '{folder.parent / near}'? " if near else ""
        raise UsageError(f"run '{name}' does not exist; {hint}{folder.parent} has: {', '.join(beside) or 'no folders'}")
    pieces = str(name).split("/")
    if isinstance(name, Path) or len(pieces) != 2 or not all(pieces) or pieces[0] in {".", "..", "~"}:
        raise UsageError(f"{name} is not a folder; give the folder of a run, or owner/name on the Hub")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(name),
                revision=revision,
                token=token,
                allow_patterns=["*.json", "*.safetensors", "*.yaml", "README.md"],
                ignore_patterns=["checkpoints/*"],
            )
        )
    except LocalEntryNotFoundError as error:  # first: in older versions it is an HTTP error too
        raise RunError(f"{name} is not a folder here, and {_unreachable(error)}") from error
    except (HFValidationError, HfHubHTTPError) as error:
        raise UsageError(f"{name} is neither a folder here nor a repository on the Hub ({_line(error)})") from error
    except OSError as error:
        raise RunError(f"{name} is not a folder here, and {_unreachable(error)}") from error


def _unreachable(error: Exception) -> str:
    return f"the Hub cannot be reached ({_line(error)}); give the folder of a run, or go online"


def _line(error: Exception) -> str:
    """The Hub's messages have paragraphs."""
    return " ".join(str(error).split())


def push_folder(
    folder: Path,
    repository: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload model",
) -> str:
    """Upload a run's model, card, recipe and samples to the Hub; checkpoints and teachers stay at home.

    Returns:
        Address of the commit.

    Raises:
        RunError: The Hub refused or cannot be reached.
    """
    config = read_config(folder)
    # Of the frozen models that a run keeps, its codec and its first stage are those without which it makes no images.
    needed = (config.codec, config.conditioner.draws_from) if isinstance(config, ModelConfig) else ()
    own = {folder / name for name in needed if name is not None}
    parts = [f"{part.relative_to(folder)}/*" for part in folder.glob("parts/*") if part not in own]
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            ignore_patterns=[*_NOT_PUSHED, *parts],
            commit_message=commit_message,
        )
    except (HfHubHTTPError, OSError) as error:
        raise RunError(f"could not push {folder} to {repository}: {_line(error)}; check login and network") from error
    return str(commit.commit_url)
