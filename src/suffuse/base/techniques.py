"""The table of techniques: under one key, where each one's code, recipes, tests and page are."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TECHNIQUES", "Technique"]


@dataclass(frozen=True)
class Technique:
    """A technique's places.

    Attributes:
        title: Its name.
        papers: Keys into the table of sources.
        module: Where the code is: a module, or the package of a family.
        recipes: Which recipes use it.
        no_recipe: Why none does; empty where some do.
        claims: Where its claims are.
        test: Its test file.
        page: Its page.
    """

    title: str
    papers: tuple[str, ...]
    module: str
    recipes: tuple[str, ...]
    claims: str
    test: str
    page: str
    no_recipe: str = ""


_SAMPLED = "a plan is chosen when a run is sampled, whatever recipe trained it"

TECHNIQUES: dict[str, Technique] = {
    "etsdm": Technique(
        title="E-TSDM: shared timesteps near clean data",
        papers=("yang2024etsdm",),
        module="suffuse.process.time_condition",
        recipes=(
            "digits-etsdm",
            "mnist14-etsdm",
            "cifar10-etsdm",
            "digits-sr-etsdm",
            # The alternatives that it is compared with.
            "digits-edm",
            "digits-min-snr",
            "digits-p2",
            "digits-penalty",
            "digits-remap",
            "digits-score",
            "digits-straight",
            "digits-v",
            "digits-x0",
            "digits-zero-snr",
        ),
        claims="suffuse.claims.etsdm",
        test="tests/process/test_time_condition.py",
        page="docs/techniques/etsdm.md",
    ),
    "consistency": Technique(
        title="Consistency models: generators of one or two evaluations",
        papers=("song2023consistency", "song2024ict", "geng2024ect", "lee2025tcm", "dao2025slct"),
        module="suffuse.objectives.consistency",
        recipes=(
            "digits-ict",
            "digits-ect",
            "digits-diffusion",
            "mnist14-ct",
            "mnist14-ict",
            "mnist14-ect",
            "mnist14-tcm",
            "mnist14-cd",
            "mnist14-diffusion",
            "folder-fewstep",
            "cifar10-ict",
            "cifar10-ect",
            "cifar10-tcm",
            "imagenet64-ict",
            # In the latents of autoencoders, whose recipes belong to no technique of their own.
            "digits-latent-ict",
            "digits-latent-slct",
            "mnist28-latent-ict",
            "mnist28-latent-slct",
            "latent256-slct",
            # Eight Gaussians in the plane, on which ablations take a minute.
            "ring-ict",
            "ring-ct",
            "ring-cd",
            "ring-ect",
            "ring-tcm",
            "ring-edm",
            "ring-v",
            "cloud-ict",
            "cloud-slct",
            "ring-boot",
            "ring-progressive",
            "ring-mmd",
        ),
        claims="suffuse.claims.consistency",
        test="tests/objectives/test_consistency.py",
        page="docs/techniques/consistency.md",
    ),
    "solvers": Technique(
        title="Solvers: from noise to data in few evaluations",
        papers=(
            "ho2020ddpm",
            "song2021ddim",
            "karras2022edm",
            "lu2022dpmsolver",
            "lu2022dpmsolverpp",
            "liu2022pndm",
            "zhang2023deis",
            "zhao2023unipc",
            "xue2023sasolver",
        ),
        module="suffuse.sampling.solvers",
        recipes=(),
        claims="suffuse.claims.solvers",
        test="tests/sampling/test_solvers.py",
        page="docs/techniques/solvers.md",
        no_recipe="a solver is chosen when a run is sampled, whatever recipe trained it; all recipes name one",
    ),
    "deepcache": Technique(
        title="DeepCache: the deep part of a U-Net now and then",
        papers=("ma2024deepcache",),
        module="suffuse.acceleration.deepcache",
        recipes=(),
        claims="suffuse.claims.plans.deepcache",
        test="tests/acceleration/test_deepcache.py",
        page="docs/techniques/deepcache.md",
        no_recipe=_SAMPLED,
    ),
    "faster-diffusion": Technique(
        title="Faster Diffusion: a U-Net's encoder at key steps only",
        papers=("li2024fasterdiffusion",),
        module="suffuse.acceleration.encoder_reuse",
        recipes=(),
        claims="suffuse.claims.plans.faster_diffusion",
        test="tests/acceleration/test_encoder_reuse.py",
        page="docs/techniques/faster-diffusion.md",
        no_recipe=_SAMPLED,
    ),
    "ras": Technique(
        title="RAS: the regions of an image that need it",
        papers=("liu2025ras",),
        module="suffuse.acceleration.region_adaptive",
        recipes=(),
        claims="suffuse.claims.plans.ras",
        test="tests/acceleration/test_region_adaptive.py",
        page="docs/techniques/ras.md",
        no_recipe=_SAMPLED,
    ),
    "caches": Technique(
        title="Caches for transformers: residuals, forecasts, thresholds, merged tokens",
        papers=("chen2024deltadit", "liu2025taylorseer", "liu2025teacache", "bolya2023tomesd"),
        module="suffuse.acceleration.caches",
        recipes=(),
        claims="suffuse.claims.plans.caches",
        test="tests/acceleration/test_caches.py",
        page="docs/techniques/caches.md",
        no_recipe=_SAMPLED,
    ),
    "latent-diffusion": Technique(
        title="Latent diffusion: an autoencoder first, diffusion in its latents",
        papers=("rombach2022ldm",),
        module="suffuse.training.latents",
        recipes=("shapes-ldm", "shapes-alignment", "folder-text", "emoji-ldm", "ldm4-imagenet256"),
        claims="suffuse.claims.cascades.latent_diffusion",
        test="tests/training/test_latents.py",
        page="docs/techniques/latent-diffusion.md",
    ),
    "wuerstchen": Technique(
        title="Wuerstchen: text to image through a strongly compressed code",
        papers=("pernias2024wuerstchen",),
        module="suffuse.models.semantic",
        recipes=("shapes-wuerstchen", "emoji-wuerstchen", "wuerstchen-full"),
        claims="suffuse.claims.cascades.wuerstchen",
        test="tests/models/test_semantic.py",
        page="docs/techniques/wuerstchen.md",
    ),
    "ccdm": Technique(
        title="cCDM: inverse design by a cascade of two resolutions",
        papers=("habibi2024ccdm",),
        module="suffuse.models.low_resolution",
        recipes=("trusses-ccdm",),
        claims="suffuse.claims.cascades.inverse_design",
        test="tests/models/test_low_resolution.py",
        page="docs/techniques/ccdm.md",
    ),
    "diffusevae": Technique(
        title="DiffuseVAE: a small vector, its blurred image, and a denoiser that refines it",
        papers=("pandey2022diffusevae",),
        module="suffuse.models.reconstruction",
        recipes=("digits-diffusevae", "mnist28-diffusevae"),
        claims="suffuse.claims.cascades.diffusevae",
        test="tests/models/test_reconstruction.py",
        page="docs/techniques/diffusevae.md",
    ),
}
