"""E-TSDM for those who train with diffusers: one call, and the network is told shared timesteps near clean data.

Source: yang2024etsdm, Section 4. Your own loop, the schedulers and the pipelines stay as they are: they call
`model(x, t)` with the true time, and only what the network is told about it changes.

The model's class is changed in place to a subclass of its stock class. So parameters, names of the state dict, hooks,
an optimiser and an average made before stay valid, `to`, gradient checkpointing, accelerate, torch.compile, copies and
`isinstance` work as before, and save_pretrained writes our class' name. A wrapper would rename all weights; a replaced
`forward` of the instance is lost by copies, and by folders.

Pipelines are loaded as ever, `DDPMPipeline.from_pretrained(folder)`, once this module is imported. Without it diffusers
stops: see `suffuse.interop.sharing_config`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from torch import nn

from suffuse.base.errors import UsageError, unknown_name
from suffuse.interop.sharing_config import ENTRY, Sharing, Start, make_sharing, mark, unmark

try:
    # The loader of pipelines asks this module for ModelMixin, to see that our classes are models.
    from diffusers import (
        DiTTransformer2DModel,
        ModelMixin,
        SD3Transformer2DModel,
        UNet2DConditionModel,
        UNet2DModel,
    )
except ImportError:
    raise UsageError(
        "shared timesteps of a diffusers model need diffusers, which is not installed; pip install 'suffuse[diffusers]'"
    ) from None

__all__ = [
    "SharedTimestepsDiTTransformer2DModel",
    "SharedTimestepsSD3Transformer2DModel",
    "SharedTimestepsUNet2DConditionModel",
    "SharedTimestepsUNet2DModel",
    "set_intervals",
    "share_timesteps",
    "unshare_timesteps",
]

M = TypeVar("M", bound=nn.Module)
_PRICE = (
    "The network would be told times that it was not trained for; where the best network is known exactly, its eps "
    "error near clean data then is 1.5 to 3, worse than predicting zero"
)


def share_timesteps(
    model: M,
    *,
    below: float | None = None,
    intervals: int = 5,
    power: float = 1.0,
    steps: int = 1000,
    start: Start = "fresh",
) -> M:
    """Tell a diffusers model the left edge of the sub-interval for timesteps under `below`.

    Call it right after the model is built, before accelerate or torch.compile wrap it. The setting is saved with the
    model and found again by `SharedTimestepsUNet2DModel.from_pretrained` and the like, and by pipelines.

    How weights were trained cannot be read off them. With start "fresh" these signs of training are refused: the model
    was loaded from a folder, is in evaluation mode, holds gradients, or has norms that have left their initial values.
    Not seen is a DiT or SD3 (whose norms have no weights), or a U-Net with frozen norms, that was trained in this
    process or filled by load_state_dict, and is in training mode without gradients.

    Timesteps must be indices, whole or between two. The U-Nets of EDM are told log sigma / 4 and have no use for this.

    Source: yang2024etsdm, Section 4.

    Args:
        model: A `UNet2DModel`, `UNet2DConditionModel`, `DiTTransformer2DModel` or `SD3Transformer2DModel`, changed in
            place.
        below: Timesteps under this are shared, in (0, steps]; a tenth of `steps` when None, the paper's value.
        intervals: Number of sub-intervals; the paper's 5. As many as `below` share nothing.
        power: Edges at below * (k / intervals)**power, rounded to whole numbers; above 1 is finer near data.
        steps: Number of training timesteps of the scheduler. Flow models are called with sigma * 1000, so 1000 is
            right for them too; no benefit is expected on their path.
        start: What the weights are: "fresh" ones; trained without sharing, from which you train on ("finetune");
            trained without, to see what happens ("experiment": such a model cannot be saved).

    Returns:
        The model, of our class.

    Raises:
        UsageError: Another model, a wrapped one, one that shares otherwise already, fields out of range, or signs of
            training under start "fresh".
    """
    sharing = make_sharing(below=below, intervals=intervals, power=power, steps=steps, start=start)
    if isinstance(model, _Shares):
        if model.sharing.time == sharing.time and model.sharing.path == sharing.path:
            return model
        raise UsageError(
            f"{type(model).__name__} shares timesteps already, as {model.config[ENTRY]}; change the number of "
            "sub-intervals with set_intervals, or take sharing off with unshare_timesteps first"
        )
    stock = type(model)
    if stock not in _OURS:
        raise unknown_name(
            "model to share timesteps in (of wrapped models, give the model inside)",
            stock.__name__,
            [known.__name__ for known in _OURS],
        )
    _check_forward(model)
    if start == "fresh":
        _refuse_trained(
            model,
            "trained without shared timesteps",
            "start='finetune' to train on from these weights (begin with intervals as large as below, which shares "
            "nothing, and go down to 5 by set_intervals), or start='experiment' only to look",
        )
    model.__class__ = _OURS[stock]
    model.register_to_config(**{ENTRY: sharing.fields() | {"stock": {}}})  # type: ignore[operator]  # of diffusers
    return model


def unshare_timesteps(model: M, *, start: Start = "fresh") -> M:
    """Give the stock model back: its class, its configuration, its files; outputs as before, bit for bit.

    A network trained with sharing needs it: taking it off for sampling alone is as ruinous as switching it on.

    Args:
        model: A model that shares its timesteps. It is changed in place.
        start: What the weights are: "fresh" ones; trained with sharing, from which you train on without ("finetune");
            trained with it, to see what happens ("experiment": do not save it). Weights of a model that was shared by
            way of experiment need no such word.

    Raises:
        UsageError: Not such a model, a wrapped one, or signs of training under start "fresh", as for `share_timesteps`.
    """
    shared = _shared(model)
    make_sharing(**shared.sharing.fields() | {"start": start})
    _check_forward(model)
    if start == "fresh" and shared.sharing.start != "experiment":
        _refuse_trained(
            model,
            "trained with shared timesteps",
            "start='finetune' to train on without sharing, or start='experiment' only to look",
        )
    config, _ = unmark(shared.config)
    if "_class_name" in config:  # there once the model was saved or loaded
        config["_class_name"] = shared.stock.__name__
    model.__class__ = type(shared).stock
    del model.__dict__["_sharing"]
    # register_to_config only adds; the entry must go.
    model.__dict__["_internal_dict"] = type(model.config)(config)
    return model


def set_intervals(model: nn.Module, intervals: int) -> None:
    """Change the number of sub-intervals during training, as a warm-up for fine-tuning does.

    From as many as `below`, which share nothing, down to 5 in a few stages (100, 50, 20, 10, 5), a network trained
    without sharing is led over gently; told 5 at once, it begins with the error of the wrong time.

    Args:
        model: A model that shares its timesteps. It is changed in place.
        intervals: The new number, 1 to `below`.

    Raises:
        UsageError: Not such a model, or edges that would coincide.
    """
    shared = _shared(model)
    sharing = make_sharing(**shared.sharing.fields() | {"intervals": intervals})
    shared.register_to_config(**{ENTRY: sharing.fields() | {"stock": dict(shared.config[ENTRY]["stock"])}})


Forward = Callable[..., Any]  # Any: the signatures of foreign modules


def _telling(stock: Any) -> Forward:  # Any: a class of diffusers, which is typed by halves
    """The stock class' forward, told shared timesteps."""
    signature = inspect.signature(stock.forward)
    place = list(signature.parameters).index("timestep") - 1

    @functools.wraps(stock.forward)
    def forward(self: _Shares, *args: Any, **kwargs: Any) -> Any:  # Any: as above
        if kwargs.get("timestep") is not None:
            kwargs["timestep"] = self.sharing.told(kwargs["timestep"])
        elif len(args) > place and args[place] is not None:
            args = (*args[:place], self.sharing.told(args[place]), *args[place + 1 :])
        return stock.forward(self, *args, **kwargs)

    # accelerate's unwrap_model goes down a forward's __wrapped__ to the last, and would put the stock one in its place.
    del forward.__wrapped__
    forward.__dict__["__signature__"] = signature
    return forward


# diffusers is typed by halves, and otherwise in every version.
_Model: Any = ModelMixin


class _Shares(_Model):  # type: ignore[misc]  # as said above
    """What our four classes have in common: the setting lives in the configuration, and nowhere else.

    Attributes:
        stock: The class that is given back.
    """

    stock: ClassVar[Any]  # Any: diffusers is typed by halves
    _sharing: Sharing | None = None

    @property
    def sharing(self) -> Sharing:
        """The setting, ready for use; it follows the configuration.

        Raises:
            UsageError: The model was built by our class' constructor, which has none.
        """
        if self._sharing is None:
            raise UsageError(
                f"{type(self).__name__} is not built by its constructor: build a {self.stock.__name__} and call "
                "share_timesteps, or load a saved model"
            )
        return self._sharing

    def register_to_config(self, **kwargs: Any) -> None:  # Any: JSON values
        """Keep `sharing` and the mark at one with the configuration, whoever writes it (diffusers' name)."""
        super().register_to_config(**kwargs)
        config, sharing = unmark(self.config)
        if sharing is not None:  # while a constructor runs there is none yet
            self._sharing = sharing
            marked = mark(config, sharing, stock=self.stock.__name__)
            self.__dict__["_internal_dict"] = type(self.config)(marked)

    @classmethod
    def extract_init_dict(
        cls, config_dict: Mapping[str, Any], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:  # Any: JSON values
        """Give the constructor the stock configuration, and hand our entry on (diffusers' name).

        Raises:
            UsageError: The configuration is of a model without sharing.
        """
        config, sharing = unmark(config_dict)
        if sharing is None:
            raise UsageError(
                f"this configuration has no {ENTRY!r}: the model was trained without; load it as "
                f"{cls.stock.__name__}, and for fine-tuning call share_timesteps(model, start='finetune')"
            )
        init, unused, hidden = super().extract_init_dict(config, **kwargs)
        return init, unused, {**hidden, ENTRY: config_dict[ENTRY]}

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:  # Any: as diffusers has them
        """Save the model (diffusers' name).

        Raises:
            UsageError: Sharing was switched on by way of experiment.
        """
        if self.sharing.start == "experiment":
            raise UsageError(
                f"{type(self).__name__}: its weights were trained without shared timesteps, which are on by way of "
                "experiment; a folder would claim otherwise. Take them off with unshare_timesteps before saving"
            )
        super().save_pretrained(*args, **kwargs)


class SharedTimestepsUNet2DModel(_Shares, UNet2DModel):
    """A `UNet2DModel` that is told shared timesteps. Made by `share_timesteps`, or loaded."""

    stock = UNet2DModel
    forward = _telling(UNet2DModel)


class SharedTimestepsUNet2DConditionModel(_Shares, UNet2DConditionModel):
    """A `UNet2DConditionModel` that is told shared timesteps. Made by `share_timesteps`, or loaded."""

    stock = UNet2DConditionModel
    forward = _telling(UNet2DConditionModel)


class SharedTimestepsDiTTransformer2DModel(_Shares, DiTTransformer2DModel):
    """A `DiTTransformer2DModel` that is told shared timesteps. Made by `share_timesteps`, or loaded."""

    stock = DiTTransformer2DModel
    forward = _telling(DiTTransformer2DModel)


class SharedTimestepsSD3Transformer2DModel(_Shares, SD3Transformer2DModel):
    """An `SD3Transformer2DModel` that is told shared timesteps. Made by `share_timesteps`, or loaded."""

    stock = SD3Transformer2DModel
    forward = _telling(SD3Transformer2DModel)


_OURS: dict[Any, type[_Shares]] = {  # Any: as above
    ours.stock: ours
    for ours in (
        SharedTimestepsUNet2DModel,
        SharedTimestepsUNet2DConditionModel,
        SharedTimestepsDiTTransformer2DModel,
        SharedTimestepsSD3Transformer2DModel,
    )
}


def _shared(model: nn.Module) -> _Shares:
    if not isinstance(model, _Shares):
        raise UsageError(
            f"{type(model).__name__} does not share its timesteps; of wrapped models, give the model inside"
        )
    return model


def _check_forward(model: nn.Module) -> None:
    """Changing the class has no effect where the instance has a forward of its own."""
    own = model.__dict__.get("forward")
    if own is None:
        return
    # accelerate's unwrap_model leaves the class' own forward behind, bound to the instance.
    if getattr(own, "__func__", None) is type(model).forward:
        del model.__dict__["forward"]
        return
    raise UsageError(
        f"the forward of this {type(model).__name__} is replaced (by accelerate, offloading hooks or a patch); call "
        "this before, or unwrap the model first"
    )


def _refuse_trained(model: nn.Module, history: str, instead: str) -> None:
    """Refuse under start "fresh" a model that shows signs of training."""
    config: Mapping[str, Any] = model.config  # type: ignore[assignment]  # a frozen dict
    signs = {
        f"it was loaded from {config.get('_name_or_path')!r}": bool(config.get("_name_or_path")),
        "it is in evaluation mode (a fresh model trains: call train() on it)": not model.training,
        "it holds gradients": any(weight.grad is not None for weight in model.parameters()),
        "its norms have left their initial values": any(map(_is_trained, model.modules())),
    }
    seen = [sign for sign, is_there in signs.items() if is_there]
    if seen:
        raise UsageError(f"this {type(model).__name__} looks {history}: {', '.join(seen)}. {_PRICE}. Say {instead}")


def _is_trained(module: nn.Module) -> bool:
    """Whether a norm's scale and shift have left the one and zero of their initialisation."""
    if not isinstance(module, nn.GroupNorm | nn.LayerNorm) or module.weight is None:
        return False
    shift = module.bias
    return bool((module.weight != 1).any()) or (shift is not None and bool((shift != 0).any()))
