"""Metrics: numbers on arrays, and the ruler that every number carries. Knows base only."""

from suffuse.metrics.exact import Modes, Transport, kl_divergence, mode_coverage, sliced_wasserstein, wasserstein
from suffuse.metrics.features import FeatureExtractor, Inception, Pixels, extract
from suffuse.metrics.frechet import Moments, frechet, frechet_floor, frechet_infinity
from suffuse.metrics.kernel import Averaged, cubic, gaussian, kernel_distance, median_distance, mmd2
from suffuse.metrics.lipschitz import time_lipschitz
from suffuse.metrics.memorisation import MemorisationReport, Pair, memorisation
from suffuse.metrics.points import Features, nearest_neighbours
from suffuse.metrics.precision_recall import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from suffuse.metrics.quality import CostPoint, Fidelity, pareto_front
from suffuse.metrics.ruler import Comparison, Measurement, Ruler, Versions, dumps, loads, side_by_side
from suffuse.metrics.similarity import SquaredError, psnr
from suffuse.metrics.spread import Spread, spread
from suffuse.metrics.structural import ssim

__all__ = [
    "Averaged",
    "Comparison",
    "CostPoint",
    "DensityCoverage",
    "FeatureExtractor",
    "Features",
    "Fidelity",
    "Inception",
    "Measurement",
    "MemorisationReport",
    "Modes",
    "Moments",
    "Pair",
    "Pixels",
    "PrecisionRecall",
    "Ruler",
    "Spread",
    "SquaredError",
    "Transport",
    "Versions",
    "cubic",
    "density_coverage",
    "dumps",
    "extract",
    "frechet",
    "frechet_floor",
    "frechet_infinity",
    "gaussian",
    "kernel_distance",
    "kl_divergence",
    "loads",
    "median_distance",
    "memorisation",
    "mmd2",
    "mode_coverage",
    "nearest_neighbours",
    "pareto_front",
    "precision_recall",
    "psnr",
    "side_by_side",
    "sliced_wasserstein",
    "spread",
    "ssim",
    "time_lipschitz",
    "wasserstein",
]
