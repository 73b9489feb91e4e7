"""Open a run's folder: its model, its recipe, and how it is sampled when nothing else is said."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from suffuse.acceleration import NoPlan, Plan
from suffuse.base.conditions import Conditions
from suffuse.base.errors import RunError, UsageError
from suffuse.base.part import Part, explain
from suffuse.data import Data, DataPart, Dataset, data_from
from suffuse.models.codec import Codec
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.pretrained import load_model, local_folder
from suffuse.sampling import CFG, Adaptive, CFGPlusPlus, Grid, GuidancePart, NoGuidance, Solver
from suffuse.tasks.presets import load_preset
from suffuse.training.companions import accompanied
from suffuse.training.decoding import Decoder
from suffuse.training.latents import encoded
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import load_recipe
from suffuse.training.run import RECIPE_FILE
from suffuse.training.sampling_file import read_sampling
from suffuse.training.settings import SamplingSettings
from suffuse.training.world import choose_device

__all__ = ["OpenRun", "Wanted", "named", "open_run", "other_data", "own_data", "reference_data", "settle"]

_MEND = "choose another height and width, or leave them out"
_CHANNELS = {1: "grey", 3: "rgb", 4: "rgba"}


@dataclass(frozen=True)
class OpenRun:
    """A run, ready to be used.

    Attributes:
        folder: Where it is; for a model of the Hub, where things made of it go.
        model: In evaluation mode, on its device.
        config: Of the model; `weights` names the average that was loaded.
        recipe: What it was trained by; None for a converted model.
        source: Where its files are, if not in `folder`.
        decoder: Turns the model's latents into images, in evaluation mode on the model's device; None for a model of
            pixels or points.
        first: Run of the model whose samples this one enlarges, of a cascade; None for most.
        loaded: Its own data by what they are, once they have been read, see `own_data`.
    """

    folder: Path
    model: Denoiser
    config: ModelConfig
    recipe: Recipe | None
    source: Path | None = None
    decoder: Decoder | None = None
    first: OpenRun | None = None
    loaded: dict[str, Dataset] = field(default_factory=dict, repr=False, compare=False)

    @property
    def codec(self) -> Codec | None:
        """Of the model's latents."""
        return None if self.decoder is None else self.decoder.codec

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample as it comes out: of the image where the model itself makes latents."""
        return self.config.shape if self.decoder is None else self.decoder.shape

    def sized(self, height: int | None, width: int | None) -> OpenRun:
        """This for images of other sides; the run itself when neither is given.

        Args:
            height: In pixels; the run's own when None.
            width: As the height.

        Raises:
            UsageError: The samples are no images, a network on the way takes one size or cannot divide these sides, or
                the model is shown pictures of its own size.
        """
        if height is None and width is None:
            return self
        if len(self.shape) != 3:
            raise UsageError("these samples are points, not images; leave height and width out")
        sides = (height or self.shape[1], width or self.shape[2])
        if self.config.conditioner.sees_images:
            raise UsageError(
                "this model is told of pictures of its own data, which are squares; leave height and width out, or "
                "sample the model that draws its code"
            )
        try:
            decoder = None if self.decoder is None else self.decoder.sized(*sides)
        except UsageError as error:
            raise UsageError(f"images of {sides[0]}x{sides[1]} cannot be decoded ({error}); {_MEND}") from None
        shape = (self.config.shape[0], *sides) if decoder is None else decoder.made_of(*sides)
        self.config.check_shape(shape, _MEND)
        return replace(self, config=self.config.replace(shape=shape), decoder=decoder)

    def decode(self, x: Tensor, cond: Conditions | None = None, *, seed: int = 0, first: int = 0) -> Tensor:
        """What the model makes as images, (n, c, h, w) -> (n, C, H, W) where it makes latents; x itself otherwise.

        Other arguments as for `Decoder.decode`: some codes are decoded by drawing.
        """
        return x if self.decoder is None else self.decoder.decode(x, cond, seed=seed, first=first)

    def training_data(self, source: DataPart) -> Dataset:
        """Data as the model was trained on them: as latents where it lives in some, with what it reads of each.

        Raises:
            UsageError: They cannot be loaded.
        """
        images = source.load()
        dataset = images
        if self.codec is not None:
            assert self.config.codec is not None
            dataset = encoded(images, self.codec, Path(self.config.codec).name)
        return accompanied([(dataset, images)], self.config.conditioner, self.place, self.model.device)[0]

    @property
    def place(self) -> Path:
        """Where the model's files are: for a model of the Hub, in the Hub's cache."""
        return self.source or self.folder

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    @property
    def sampling(self) -> SamplingSettings:
        """How it is sampled when nothing else is said."""
        return self.recipe.sampling if self.recipe else read_sampling(self.place)


@dataclass(frozen=True)
class Wanted:
    """What a user asks of sampling; None leaves the run's own choice.

    Attributes:
        solver: Kind, or fields.
        grid: Kind, or fields.
        nfe: Network evaluations per sample, guidance's halves included.
        steps: Solver steps; not together with nfe.
        cfg: Scale of classifier-free guidance.
        plan: Kind, or fields.
        batch: Samples at a time.
        precision: Of the network, float32 or bfloat16.
        preset: Name of a preset in the run's folder, to which the other wishes are changes.
    """

    solver: str | Mapping[str, Any] | None = None  # Any: fields of a part
    grid: str | Mapping[str, Any] | None = None  # Any: as above
    nfe: int | None = None
    steps: int | None = None
    cfg: float | None = None
    plan: str | Mapping[str, Any] | None = None  # Any: as above
    batch: int | None = None
    precision: str | None = None
    preset: str | None = None


def open_run(name: str | Path, *, weights: str | None = None, device: str = "auto") -> OpenRun:
    """Load a run from its folder or from the Hub.

    Args:
        name: Folder, or owner/name.
        weights: Which average; None for the primary one.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: No such run, average or device.
        RunError: A broken file.
    """
    place = choose_device(device)
    folder = local_folder(name)
    model = load_model(folder, weights=weights).to(place)
    assert model.config is not None
    file = folder / RECIPE_FILE
    recipe = load_recipe(str(file)) if file.is_file() else None
    if not isinstance(recipe, Recipe | None):
        raise RunError(f"{file} is no recipe of a model of samples, but {folder} holds one; restore it")
    decoder = Decoder.of_model(folder, place)
    # What is made of a model of the Hub belongs here, not into the Hub's cache.
    home = folder if Path(name).is_dir() else Path("runs") / str(name).replace("/", "--")
    return OpenRun(
        home, model, model.config, recipe, None if home == folder else folder, decoder, _first(folder, model, device)
    )


def _first(folder: Path, model: Denoiser, device: str) -> OpenRun | None:
    """The first stage of a cascade, from the copy in the run's folder."""
    assert model.config is not None
    name = model.config.conditioner.draws_from
    if name is None:
        return None
    if not (folder / name).is_dir():
        raise UsageError(f"{folder / name} is missing: the model whose samples this one enlarges; bring it back")
    return open_run(folder / name, device=device)


def own_data(run: OpenRun) -> Dataset:
    """The run's own data, for models that are told of images.

    Raises:
        UsageError: They are not here.
    """
    names = run.model.conditioner.observes or run.model.conditioner.reads
    why = f"this model is told {' and '.join(names)} of images"
    mend = f"sample it in Python: sample(model, n, cond=Conditions.of({', '.join(f'{name}=...' for name in names)}))"
    if run.recipe is None:
        raise UsageError(f"{why}, and {run.folder} does not say on which it was trained; {mend}")
    name = json.dumps(run.recipe.data.dump(), sort_keys=True)
    try:
        if name not in run.loaded:
            run.loaded[name] = run.training_data(run.recipe.data)
        return run.loaded[name]
    except UsageError as error:
        raise UsageError(
            f"{why}, and those that {run.folder} was trained on cannot be loaded ({error}); {mend}"
        ) from error


def _part(kind: Any, value: Any, what: str) -> Any:  # Any: a joint's annotated type, and its part
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise explain(error, what) from None


def named(part: Part) -> str:
    """A part in a line: its kind and the fields that are not at their defaults."""
    plain = part.dump()
    kind = plain.pop("kind")
    defaults = {name: field.default for name, field in type(part).model_fields.items()}
    fields = {name: value for name, value in plain.items() if getattr(part, name) != defaults[name]}
    inside = ", ".join(f"{name}={value}" for name, value in fields.items())
    return f"{kind}({inside})" if inside else str(kind)


def _guidance(run: OpenRun, scale: float | None) -> GuidancePart:
    """The run's own guidance at the scale asked for: all else that belongs to it stays."""
    own = run.sampling.guidance
    if scale is None:
        return own
    if not math.isfinite(scale):
        raise UsageError(f"cfg is {scale}; give a number")
    if not run.model.conditioner.reads:
        raise UsageError("cfg needs a conditional model, but this one knows no conditions; leave cfg out")
    guidance = _scaled(own, scale)
    if guidance.needs_absent and isinstance(run.recipe, Recipe) and run.recipe.objective.condition_dropout == 0:
        raise UsageError(
            "cfg needs an unconditional half, but this run was trained with objective.condition_dropout=0, so that it "
            "never learned one; leave cfg out, or train with 0.1"
        )
    return guidance


def _scaled(own: GuidancePart, scale: float) -> GuidancePart:
    inner = getattr(own, "inner", None)
    if isinstance(inner, GuidancePart):  # what guides beside it stays
        return own.replace(inner=_scaled(inner, scale))
    if isinstance(own, CFGPlusPlus):  # its 1 is not none
        return own.replace(scale=scale)
    if not isinstance(own, CFG | NoGuidance):
        raise UsageError(
            f"this run is sampled with guidance {own.kind!r}, which has no scale of classifier-free guidance; leave "
            "cfg out"
        )
    if scale == 1:
        return NoGuidance()
    return own.replace(scale=scale) if isinstance(own, CFG) else CFG(scale=scale)


def settle(run: OpenRun, wanted: Wanted) -> SamplingSettings:
    """The run's sampling settings with the user's wishes laid over them.

    Raises:
        UsageError: A wish that cannot be met: unknown part, too few evaluations, guidance without conditions.
    """
    base = run.sampling if wanted.preset is None else load_preset(run.folder, wanted.preset).sampling
    solver = base.solver if wanted.solver is None else _part(Solver, wanted.solver, "sampling")
    grid = base.grid
    if wanted.grid is not None:
        fields = {"kind": wanted.grid} if isinstance(wanted.grid, str) else dict(wanted.grid)
        grid = _part(Grid, {"steps": grid.steps, **fields} if fields.get("kind") != "list" else fields, "sampling")
    guidance, path = _guidance(run, wanted.cfg), run.config.path
    if wanted.nfe is not None and wanted.steps is not None:
        raise UsageError("nfe and steps both say how long to sample; give one of them")
    if wanted.nfe is not None:
        if wanted.nfe < 1:
            raise UsageError(f"nfe is {wanted.nfe}; it must be at least 1")
        calls, end = wanted.nfe // guidance.most_evaluations, path.level(grid.last(path))
        grid = grid.replace(steps=solver.steps_for(calls, to_clean=float(end.sigma) == 0))
    elif wanted.steps is not None:
        grid = grid.replace(steps=wanted.steps)
    plan = base.plan if wanted.plan is None else _part(Plan, wanted.plan, "sampling")
    told = {"batch": wanted.batch, "precision": wanted.precision}
    changes = {name: value for name, value in told.items() if value is not None}
    settings = base.replace(solver=solver, grid=grid, guidance=guidance, plan=plan, **changes)
    solver.init(torch.zeros(1), grid.times(path), path)
    guidance.check(solver)
    if isinstance(solver, Adaptive) and plan != NoPlan():
        raise UsageError(
            f"solver 'adaptive' takes as many evaluations as it needs, so that plan {plan.kind!r} could not tell its "
            "steps; use another solver"
        )
    plan.bind(run.model.network, grid.steps)
    return settings


def other_data(run: OpenRun, name: str | None) -> DataPart | None:
    """Reference data for a run, see `reference_data`; None for the run's own."""
    return None if name is None else reference_data(name, run.shape)


def reference_data(name: str, shape: tuple[int, ...]) -> DataPart:
    """Reference data of a name, path or archive, at the size and with the channels of samples of `shape`.

    Raises:
        UsageError: No such data, or they cannot be made that size.
    """
    plain = data_from(name)
    source: DataPart = _part(Data, plain, "reference")
    fields = type(source).model_fields
    if "size" not in fields:
        return source
    if len(shape) != 3 or shape[0] not in _CHANNELS:
        raise UsageError(f"the model makes samples of {shape}, but data {name!r} are images; give others")
    size = shape[1] if shape[1] == shape[2] else shape[1:]
    changes = {"size": size, "channels": _CHANNELS[shape[0]]}
    wanted: DataPart = _part(Data, {**plain, **{key: changes[key] for key in changes if key in fields}}, "reference")
    return wanted
