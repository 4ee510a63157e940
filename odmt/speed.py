"""How fast an epoch trains, and how much of the card that takes."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.utils.flop_counter import FlopCounterMode

from odmt.precision import Precision
from odmt.task import EpochBatches

OVER_SECONDS = "_over_seconds"

# Dense matrix products, 10^12 operations a second in bf16 or fp16 and in float32, by what PyTorch's name of a card holds; of two
# such names the longer comes first. From NVIDIA's data sheets.
TERA = 1e12
CARDS = {
    "B200": (2250, 75),
    "H200": (989, 67),
    "H100 NVL": (835, 60),
    "H100 PCIe": (756, 51),
    "H100": (989, 67),
    "A100": (312, 19.5),
    "L40S": (362, 91.6),
    "L4": (121, 30.3),
    "A40": (149.7, 37.4),
    "A10G": (70, 35),
    "A10": (125, 31.2),
    "V100": (125, 15.7),
    "T4": (65, 8.1),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71, 35.6),
}


def peak_of(card: str, dtype: torch.dtype) -> float | None:
    """Floating-point operations a second that a card can do at most in a type; None: nobody noted them."""
    half, single = next((peaks for name, peaks in CARDS.items() if name in card), (None, None))
    peak = single if dtype == torch.float32 else half
    return peak and TERA * peak


@dataclass
class Speed:
    """What an epoch's steps take.

    Attributes:
        steps: the epoch's.
        device: where they run.
        processes: that run as many.
        num_steps: finished, or begun.
        trained: what they were trained on in this process, by the names of `EpochBatches.sizes`.
        waited: seconds for batches.
    """

    steps: EpochBatches
    device: torch.device
    processes: int = 1
    num_steps: int = 0
    trained: Counter[str] = field(default_factory=Counter)
    waited: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def batches(self) -> Iterator:
        """The epoch's batches, watched."""
        batches = iter(self.steps.batches)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            self.num_steps += 1
            self.trained.update(self.steps.sizes(batch))
            yield batch

    def measure(self) -> dict[str, float]:
        """The means so far by name; to be called where the device has just been waited for.

        Returns:
            `step_seconds`, `wait_seconds` (of these, for data) and `NAMEs_over_seconds`, the quotients, such as
            `items_over_seconds`; on a GPU `peak_memory_gb`.
        """
        seconds = time.perf_counter() - self.started
        measured = {
            "step_seconds": seconds / self.num_steps,
            "wait_seconds": self.waited / self.num_steps,
            **{f"{name}{OVER_SECONDS}": self.processes * number / seconds for name, number in self.trained.items()},
        }
        if self.device.type == "cuda":
            measured["peak_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        return measured


class Utilisation:
    """Model FLOPs utilisation: what a first step's matrix products are of those that the card could do in a step's time.

    Args:
        device: a GPU with a known peak, or nothing is counted.
        precision: whose peak counts.
        compiled: whether the step is; then nothing is counted, since PyTorch does not compile what it counts, then or later.
    """

    def __init__(self, device: torch.device, precision: Precision, compiled: bool = False):
        card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self.peak = None if compiled else peak_of(card, precision.dtype)
        self.flop: int | None = None

    def count(self, step):
        """Take a step, the first with its operations counted; returns what it returns."""
        if self.peak is None or self.flop is not None:
            return step()
        with FlopCounterMode(display=False) as counter:
            result = step()
        self.flop = counter.get_total_flops()
        return result

    def measure(self, step_seconds: float) -> dict[str, float]:
        """`flops_utilisation`, from 0 to 1, where it is known."""
        return {"flops_utilisation": self.flop / step_seconds / self.peak} if self.peak and self.flop else {}


def in_words(measured: dict[str, float]) -> str:
    """What `Speed` and `Utilisation` measured, for a line of the log."""
    words = [
        f"{1000 * measured['step_seconds']:.1f} ms a step, {1000 * measured['wait_seconds']:.1f} of it waiting for data",
    ]
    rates = {name.removesuffix(OVER_SECONDS): rate for name, rate in measured.items() if name.endswith(OVER_SECONDS)}
    words += [f"{rate:,.0f} {name}/s" for name, rate in rates.items()]
    if "peak_memory_gb" in measured:
        words.append(f"{measured['peak_memory_gb']:.1f} GB")
    if "flops_utilisation" in measured:
        words.append(f"{measured['flops_utilisation']:.0%} of the card's FLOPs")
    return ", ".join(words)
