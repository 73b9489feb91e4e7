"""One table of sources: what `Source:` lines in docstrings point to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PAPERS", "Paper"]


@dataclass(frozen=True)
class Paper:
    """A source.

    Attributes:
        authors: First author and company.
        title: As published.
        year: Of publication.
        where: arXiv number, or venue.
    """

    authors: str
    title: str
    year: int
    where: str

    @property
    def line(self) -> str:
        """In one line."""
        return f"{self.authors} ({self.year}). {self.title}. {self.where}."


PAPERS: dict[str, Paper] = {
    "aiello2023mmd": Paper(
        "Aiello et al.", "Fast Inference in Denoising Diffusion Models via MMD Finetuning", 2023, "arXiv 2301.07969"
    ),
    "gu2023boot": Paper(
        "Gu et al.",
        "BOOT: Data-free Distillation of Denoising Diffusion Models with Bootstrapping",
        2023,
        "arXiv 2306.05544",
    ),
    "dao2025slct": Paper(
        "Dao et al.", "Improved Training Technique for Latent Consistency Models", 2025, "arXiv 2502.01441"
    ),
    "dou2024rates": Paper(
        "Dou et al.", "Provable Statistical Rates for Consistency Diffusion Models", 2024, "arXiv 2406.16213"
    ),
    "geng2024ect": Paper("Geng et al.", "Consistency Models Made Easy", 2024, "arXiv 2406.14548"),
    "geng2025meanflow": Paper("Geng et al.", "Mean Flows for One-step Generative Modeling", 2025, "arXiv 2505.13447"),
    "kim2024ctm": Paper(
        "Kim et al.",
        "Consistency Trajectory Models: Learning Probability Flow ODE Trajectory of Diffusion",
        2024,
        "arXiv 2310.02279",
    ),
    "lee2025tcm": Paper("Lee et al.", "Truncated Consistency Models", 2025, "arXiv 2410.14895"),
    "pooladian2023multisample": Paper(
        "Pooladian et al.", "Multisample Flow Matching: Straightening Flows with Minibatch Couplings", 2023, "ICML"
    ),
    "song2023consistency": Paper("Song et al.", "Consistency Models", 2023, "arXiv 2303.01469"),
    "song2024ict": Paper(
        "Song, Dhariwal", "Improved Techniques for Training Consistency Models", 2024, "arXiv 2310.14189"
    ),
    "tong2024improving": Paper(
        "Tong et al.",
        "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport",
        2024,
        "arXiv 2302.00482",
    ),
    "alpaydin1998optdigits": Paper(
        "Alpaydin, Kaynak", "Optical Recognition of Handwritten Digits", 1998, "UCI Machine Learning Repository"
    ),
    "binkowski2018kid": Paper("Bińkowski et al.", "Demystifying MMD GANs", 2018, "arXiv 1801.01401"),
    "bonneel2015sliced": Paper(
        "Bonneel et al.", "Sliced and Radon Wasserstein Barycenters of Measures", 2015, "J. Math. Imaging and Vision 51"
    ),
    "choi2022p2": Paper("Choi et al.", "Perception Prioritized Training of Diffusion Models", 2022, "arXiv 2204.00227"),
    "chong2020fdinf": Paper(
        "Chong, Forsyth",
        "Effectively Unbiased FID and Inception Score and where to find them",
        2020,
        "arXiv 1911.07023",
    ),
    "dhariwal2021adm": Paper(
        "Dhariwal, Nichol", "Diffusion Models Beat GANs on Image Synthesis", 2021, "arXiv 2105.05233"
    ),
    "esser2024sd3": Paper(
        "Esser et al.",
        "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
        2024,
        "arXiv 2403.03206",
    ),
    "gretton2012mmd": Paper("Gretton et al.", "A Kernel Two-Sample Test", 2012, "JMLR 13"),
    "hang2023minsnr": Paper(
        "Hang et al.", "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023, "arXiv 2303.09556"
    ),
    "heusel2017fid": Paper(
        "Heusel et al.",
        "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
        2017,
        "arXiv 1706.08500",
    ),
    "ho2020ddpm": Paper("Ho, Jain, Abbeel", "Denoising Diffusion Probabilistic Models", 2020, "arXiv 2006.11239"),
    "ho2022cfg": Paper("Ho, Salimans", "Classifier-Free Diffusion Guidance", 2022, "arXiv 2207.12598"),
    "karras2022edm": Paper(
        "Karras et al.", "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, "arXiv 2206.00364"
    ),
    "kingma2021vdm": Paper("Kingma et al.", "Variational Diffusion Models", 2021, "arXiv 2107.00630"),
    "kingma2023understanding": Paper(
        "Kingma, Gao",
        "Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation",
        2023,
        "arXiv 2303.00848",
    ),
    "kozachenko1987entropy": Paper(
        "Kozachenko, Leonenko", "Sample Estimate of the Entropy of a Random Vector", 1987, "Probl. Inf. Transm. 23"
    ),
    "kynkaanniemi2019precision": Paper(
        "Kynkäänniemi et al.",
        "Improved Precision and Recall Metric for Assessing Generative Models",
        2019,
        "arXiv 1904.06991",
    ),
    "kynkaanniemi2024interval": Paper(
        "Kynkäänniemi et al.",
        "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models",
        2024,
        "arXiv 2404.07724",
    ),
    "lin2024flawed": Paper(
        "Lin et al.", "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024, "arXiv 2305.08891"
    ),
    "lipman2023flow": Paper("Lipman et al.", "Flow Matching for Generative Modeling", 2023, "arXiv 2210.02747"),
    "liu2023rectified": Paper(
        "Liu, Gong, Liu",
        "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        2023,
        "arXiv 2209.03003",
    ),
    "lu2022dpmsolver": Paper(
        "Lu et al.",
        "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
        2022,
        "arXiv 2206.00927",
    ),
    "lu2022dpmsolverpp": Paper(
        "Lu et al.",
        "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        2022,
        "arXiv 2211.01095",
    ),
    "liu2020radam": Paper(
        "Liu et al.", "On the Variance of the Adaptive Learning Rate and Beyond", 2020, "arXiv 1908.03265"
    ),
    "lu2025scm": Paper(
        "Lu, Song", "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", 2025, "arXiv 2410.11081"
    ),
    "naeem2020density": Paper(
        "Naeem et al.", "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, "arXiv 2002.09797"
    ),
    "nichol2021iddpm": Paper(
        "Nichol, Dhariwal", "Improved Denoising Diffusion Probabilistic Models", 2021, "arXiv 2102.09672"
    ),
    "chen2024pixart": Paper(
        "Chen et al.",
        "PixArt-alpha: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis",
        2024,
        "arXiv 2310.00426",
    ),
    "habibi2024ccdm": Paper(
        "Habibi, Fuge", "Inverse Design with Conditional Cascaded Diffusion Models", 2024, "arXiv 2408.08526"
    ),
    "ho2022cascaded": Paper(
        "Ho et al.", "Cascaded Diffusion Models for High Fidelity Image Generation", 2022, "arXiv 2106.15282"
    ),
    "podell2024sdxl": Paper(
        "Podell et al.",
        "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis",
        2024,
        "arXiv 2307.01952",
    ),
    "shazeer2020glu": Paper("Shazeer", "GLU Variants Improve Transformer", 2020, "arXiv 2002.05202"),
    "peebles2023dit": Paper("Peebles, Xie", "Scalable Diffusion Models with Transformers", 2023, "arXiv 2212.09748"),
    "pernias2024wuerstchen": Paper(
        "Pernias et al.",
        "Würstchen: An Efficient Architecture for Large-Scale Text-to-Image Diffusion Models",
        2024,
        "arXiv 2306.00637",
    ),
    "radford2021clip": Paper(
        "Radford et al.",
        "Learning Transferable Visual Models From Natural Language Supervision",
        2021,
        "arXiv 2103.00020",
    ),
    "rombach2022ldm": Paper(
        "Rombach et al.", "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, "arXiv 2112.10752"
    ),
    "saharia2021sr3": Paper(
        "Saharia et al.", "Image Super-Resolution via Iterative Refinement", 2021, "arXiv 2104.07636"
    ),
    "salimans2022progressive": Paper(
        "Salimans, Ho", "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, "arXiv 2202.00512"
    ),
    "shao1989jackknife": Paper(
        "Shao, Wu", "A General Theory for Jackknife Variance Estimation", 1989, "Annals of Statistics 17"
    ),
    "song2021ddim": Paper("Song, Meng, Ermon", "Denoising Diffusion Implicit Models", 2021, "arXiv 2010.02502"),
    "song2021sde": Paper(
        "Song et al.",
        "Score-Based Generative Modeling through Stochastic Differential Equations",
        2021,
        "arXiv 2011.13456",
    ),
    "srivastava2017veegan": Paper(
        "Srivastava et al.",
        "VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational Learning",
        2017,
        "arXiv 1705.07761",
    ),
    "szegedy2016rethinking": Paper(
        "Szegedy et al.", "Rethinking the Inception Architecture for Computer Vision", 2016, "arXiv 1512.00567"
    ),
    "tukey1977exploratory": Paper("Tukey", "Exploratory Data Analysis", 1977, "Addison-Wesley"),
    "vaswani2017attention": Paper("Vaswani et al.", "Attention Is All You Need", 2017, "arXiv 1706.03762"),
    "wang2024subspace": Paper(
        "Wang et al.",
        "Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering",
        2024,
        "arXiv 2409.02426",
    ),
    "esser2021vqgan": Paper(
        "Esser, Rombach, Ommer", "Taming Transformers for High-Resolution Image Synthesis", 2021, "arXiv 2012.09841"
    ),
    "isola2017pix2pix": Paper(
        "Isola et al.", "Image-to-Image Translation with Conditional Adversarial Networks", 2017, "arXiv 1611.07004"
    ),
    "pandey2022diffusevae": Paper(
        "Pandey et al.",
        "DiffuseVAE: Efficient, Controllable and High-Fidelity Generation from Low-Dimensional Latents",
        2022,
        "arXiv 2201.00308",
    ),
    "bohan2023taesd": Paper(
        "Bohan", "Tiny AutoEncoder for Stable Diffusion", 2023, "https://github.com/madebyollin/taesd"
    ),
    "vandenoord2017vqvae": Paper(
        "van den Oord, Vinyals, Kavukcuoglu", "Neural Discrete Representation Learning", 2017, "arXiv 1711.00937"
    ),
    "zhang2018lpips": Paper(
        "Zhang et al.",
        "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
        2018,
        "arXiv 1801.03924",
    ),
    "zhang2023deis": Paper(
        "Zhang and Chen", "Fast Sampling of Diffusion Models with Exponential Integrator", 2023, "arXiv 2204.13902"
    ),
    "zhao2023unipc": Paper(
        "Zhao et al.",
        "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
        2023,
        "arXiv 2302.04867",
    ),
    "liu2022pndm": Paper(
        "Liu et al.", "Pseudo Numerical Methods for Diffusion Models on Manifolds", 2022, "arXiv 2202.09778"
    ),
    "sadat2025apg": Paper(
        "Sadat et al.",
        "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
        2025,
        "arXiv 2410.02416",
    ),
    "bansal2023universal": Paper("Bansal et al.", "Universal Guidance for Diffusion Models", 2023, "arXiv 2302.07121"),
    "chung2023dps": Paper(
        "Chung et al.", "Diffusion Posterior Sampling for General Noisy Inverse Problems", 2023, "arXiv 2209.14687"
    ),
    "chung2024cfgpp": Paper(
        "Chung et al.",
        "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models",
        2024,
        "arXiv 2406.08070",
    ),
    "karras2024autoguidance": Paper(
        "Karras et al.", "Guiding a Diffusion Model with a Bad Version of Itself", 2024, "arXiv 2406.02507"
    ),
    "sabour2024ays": Paper(
        "Sabour et al.", "Align Your Steps: Optimizing Sampling Schedules in Diffusion Models", 2024, "arXiv 2404.14507"
    ),
    "lee2024beta": Paper(
        "Lee et al.",
        "Beta Sampling is All You Need: Efficient Image Generation for Diffusion Models",
        2024,
        "arXiv 2407.12173",
    ),
    "xue2023sasolver": Paper(
        "Xue et al.",
        "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models",
        2023,
        "arXiv 2309.05019",
    ),
    "yang2024etsdm": Paper("Yang et al.", "Lipschitz Singularities in Diffusion Models", 2024, "arXiv 2306.11251"),
    "bolya2023tomesd": Paper("Bolya and Hoffman", "Token Merging for Fast Stable Diffusion", 2023, "arXiv 2303.17604"),
    "chen2024deltadit": Paper(
        "Chen et al.",
        "Delta-DiT: A Training-Free Acceleration Method Tailored for Diffusion Transformers",
        2024,
        "arXiv 2406.01125",
    ),
    "li2024fasterdiffusion": Paper(
        "Li et al.",
        "Faster Diffusion: Rethinking the Role of the Encoder for Diffusion Model Inference",
        2024,
        "arXiv 2312.09608",
    ),
    "liu2025ras": Paper("Liu et al.", "Region-Adaptive Sampling for Diffusion Transformers", 2025, "arXiv 2502.10389"),
    "liu2025taylorseer": Paper(
        "Liu et al.",
        "From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers",
        2025,
        "arXiv 2503.06923",
    ),
    "liu2025teacache": Paper(
        "Liu et al.", "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", 2025, "arXiv 2411.19108"
    ),
    "ma2024deepcache": Paper(
        "Ma et al.", "DeepCache: Accelerating Diffusion Models for Free", 2024, "arXiv 2312.00858"
    ),
    "woo2023convnextv2": Paper(
        "Woo et al.",
        "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders",
        2023,
        "arXiv 2301.00808",
    ),
    "wang2004ssim": Paper(
        "Wang et al.",
        "Image Quality Assessment: From Error Visibility to Structural Similarity",
        2004,
        "IEEE Transactions on Image Processing 13",
    ),
}
