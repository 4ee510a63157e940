"""In which floating-point type a run computes, and what is ranked.

The encoders of items and, in training, of users compute in the run's type; weights, gradients, optimizer, losses and metrics are
float32 throughout. Three decisions, none of which a run can set otherwise:

- An evaluation ranks the item vectors that training scores, those of the run's type: in bf16 their 8 bits are the model's own
  rounding, which the losses have seen at every step, and the catalogue is most of what an evaluation encodes. Users and scores,
  little beside it, are float32, since scores in bf16 would tie by the hundred. Float32 throughout is `train.precision=fp32`.
- float32 means float32: PyTorch's matrix products are so by default, but its convolutions and recurrent layers on a GPU would be
  TF32, of 11 bits. That is switched off, so that NextItNet and GRU4Rec are what the others are.
- TF32 is no type of a run's: where it would be accepted, bf16 is as good and twice as fast.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """The type of encoders and scores; weights, losses and metrics are float32 throughout.

    Attributes:
        device_type: `cuda` or `cpu`.
        dtype: torch.float32, torch.bfloat16 or torch.float16.
    """

    device_type: str
    dtype: torch.dtype

    @classmethod
    def choose(cls, name: str, device: torch.device) -> "Precision":
        """Resolve `fp32`, `bf16`, `fp16` or `auto`, and have float32 be float32 in this process.

        Deviation: the official code trains in fp16 with loss scaling; bf16, where the GPU has it, needs none.
        """
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        if name == "auto":
            if device.type != "cuda":
                name = "fp32"
            else:
                # Older GPUs emulate bf16, which is slower than fp16.
                name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return cls(device.type, {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name])

    def autocast(self) -> AbstractContextManager:
        """Compute in this type."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device_type, self.dtype)

    def loss_scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for fp16, a pass-through for the others."""
        return torch.amp.GradScaler(self.device_type, enabled=self.dtype == torch.float16)


def in_full_precision(device: torch.device) -> AbstractContextManager:
    """Compute in the tensors' own types within what is computed in a run's."""
    if device.type == "meta":  # nothing is computed there, in no type
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
