"""In which floating-point type a run computes."""

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
        """Resolve `fp32`, `bf16`, `fp16` or `auto`.

        Deviation: the official code trains in fp16 with loss scaling; bf16, where the GPU has it, needs none.
        """
        if name == "auto":
            if device.type == "cpu":
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
