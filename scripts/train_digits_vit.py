"""Train the demo's digits transformer and write its checkpoint: python scripts/train_digits_vit.py (a few
minutes on a CPU).

Trained on the 1,000 images that the demo calibrates with; the 797 validation images are only measured at the
end. One thread and one seed, so that the same machine and versions give the same file.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import vitq.demo
from vitq.demo.digits_vit import CHECKPOINT, digits_images, digits_module

STEPS = 1000
BATCH = 64
LEARNING_RATE = 2e-3
NORM_LEARNING_RATE = 2e-2  # norm gains grow uneven, as they are in large pretrained transformers
WEIGHT_DECAY = 0.05
WARMUP = 50


def main() -> None:
    """Train, measure with the stored precision, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(vitq.demo.__file__).with_name(CHECKPOINT))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)

    module = train(digits_module(), *digits_images("calibration"), steps=arguments.steps)
    stored = {name: tensor.half() for name, tensor in module.state_dict().items()}
    module.load_state_dict(stored)
    print(f"validation accuracy with stored weights: {accuracy(module, *digits_images('validation')):.2f} %")
    save_file(stored, arguments.out)
    print(f"wrote {arguments.out.name}, {arguments.out.stat().st_size / 1e6:.2f} MB")


def train(module: nn.Module, x_NCHW: Tensor, labels_N: Tensor, steps: int) -> nn.Module:
    """Minimise the cross-entropy of augmented digits with AdamW, a warm-up and a cosine."""
    norm_gains = [parameter for name, parameter in module.named_parameters() if "norm" in name]
    others = [parameter for name, parameter in module.named_parameters() if "norm" not in name]
    optimizer = torch.optim.AdamW(
        [
            {"params": others, "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
            {"params": norm_gains, "lr": NORM_LEARNING_RATE, "weight_decay": 0.0},
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, step / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    began = time.monotonic()
    module.train()
    for step, (x_BCHW, labels_B) in enumerate(batches(x_NCHW, labels_N, steps)):
        loss = F.cross_entropy(module(augment(x_BCHW)), labels_B)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
    return module.eval()


def batches(x_NCHW: Tensor, labels_N: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield random batches (B, C, H, W) and (B,)."""
    for _ in range(steps):
        chosen_B = torch.randint(len(x_NCHW), (BATCH,))
        yield x_NCHW[chosen_B], labels_N[chosen_B]


def augment(x_BCHW: Tensor) -> Tensor:
    """Turn, scale, shear and shift every image a little; what comes in from outside is black (-1)."""
    count = len(x_BCHW)
    angle_B, scale_B, shear_B = (torch.rand(3, count) - 0.5) * torch.tensor([[0.5], [0.3], [0.2]])
    shift_B2 = (torch.rand(count, 2) - 0.5) * 0.25
    scale_B = scale_B + 1
    rows = [
        torch.stack([scale_B * angle_B.cos(), -scale_B * (angle_B.sin() + shear_B), shift_B2[:, 0]], 1),
        torch.stack([scale_B * angle_B.sin(), scale_B * angle_B.cos(), shift_B2[:, 1]], 1),
    ]
    grid_BHW2 = F.affine_grid(torch.stack(rows, 1), list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW + 1, grid_BHW2, align_corners=False) - 1


@torch.no_grad()
def accuracy(module: nn.Module, x_NCHW: Tensor, labels_N: Tensor) -> float:
    """Return top-1 in percent."""
    return 100 * float((module(x_NCHW).argmax(1) == labels_N).float().mean())


if __name__ == "__main__":
    main()
