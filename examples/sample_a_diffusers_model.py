"""Sample a diffusers U-Net with our solvers: convert its folder once, then treat it as any run.

Run: python examples/sample_a_diffusers_model.py [folder]     (a tiny random model is made when none is given)
"""

import sys
import tempfile
from pathlib import Path

from suffuse.data import contact_sheet, to_uint8
from suffuse.interop.convert import to_suffuse
from suffuse.models.denoiser import Denoiser
from suffuse.sampling import DPMSolverPP, LogSNR, sample

with tempfile.TemporaryDirectory() as place:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(place) / "tiny"
    if len(sys.argv) == 1:
        from diffusers import UNet2DModel

        UNet2DModel(sample_size=16, block_out_channels=(32, 64), layers_per_block=1,
                    down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
                    ).save_pretrained(folder)  # fmt: skip
    config = to_suffuse(folder, Path(place) / "ours", note=print)
    model = Denoiser.from_pretrained(Path(place) / "ours")
    made = sample(model, 16, shape=config.shape, solver=DPMSolverPP(), grid=LogSNR(steps=20), seed=0)
    Path("runs").mkdir(exist_ok=True)
    contact_sheet(to_uint8(made.x)).save("runs/diffusers.png")
    print(f"runs/diffusers.png: {made.nfe:g} evaluations a sample, {made.seconds:.1f} s")
