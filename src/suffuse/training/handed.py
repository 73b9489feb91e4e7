"""What a run hands to its objective beside the model: a feature network trained on its data."""

from __future__ import annotations

from dataclasses import dataclass

from suffuse.data import Dataset
from suffuse.data.cache import default_cache
from suffuse.models.codec import Codec
from suffuse.objectives import Objective
from suffuse.objectives.autoencoding import Autoencoding
from suffuse.objectives.perceptual import FeatureDistance
from suffuse.training.codec_recipe import CodecRecipe
from suffuse.training.extractor import TrainedFeatures, train_extractor
from suffuse.training.recipes import AnyRecipe
from suffuse.training.trainer import ObjectiveOf
from suffuse.training.world import World

__all__ = ["objective_of"]


@dataclass(frozen=True)
class _WithFeatures:
    """An objective, and what its perceptual distance asks for."""

    objective: Autoencoding
    features: TrainedFeatures

    def build(self, model: Codec) -> Objective:
        """Make it."""
        return self.objective.build(model, self.features.to(model.device))


def objective_of(recipe: AnyRecipe, dataset: Dataset, world: World) -> ObjectiveOf:
    """The objective of a recipe, with all that it needs.

    A feature network is trained when there is none in the user's cache; equal data and seed give equal ones.

    Args:
        recipe: Resolved.
        dataset: What is learned from.
        world: All processes; the first one trains for the others.
    """
    if not isinstance(recipe, CodecRecipe) or not isinstance(
        perceptual := recipe.objective.perceptual, FeatureDistance
    ):
        return recipe.objective

    def features() -> TrainedFeatures:
        return train_extractor(dataset, cache=default_cache(), seed=perceptual.seed)

    return _WithFeatures(recipe.objective, world.first_alone(features, "train the features") or features())
