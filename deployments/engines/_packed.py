"""Layers on weights packed for oneDNN, where torch would pack them anew in each call or multiply by something slower.

Linear layers of encoders: docs/adr/0022. Convolutions of a vocoder: docs/adr/0023. Knows no task.
"""

import functools
import logging
import os
import platform
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
ENCODERS = frozenset("albert bert camembert deberta-v2 distilbert electra modernbert mpnet roberta xlm-roberta".split())
"""Architectures that call their linear layers, and look at the weights of none."""
ROWS, WIDTH = 128, 768
"""The multiplication by which the two are compared: some sentences in a small encoder."""
WORTH = 0.8
"""Packing is to take at most this share of the time, or the weights stay as they are."""
CACHED = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"
"""How many of its programs oneDNN keeps, one for each number of rows. Of its own 1,024, texts of many lengths fill all:
130 to 280 MB more, for no less time."""
OPERATORS = (
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_convolution_pointwise",
    "_reorder_convolution_weight",
    "_convolution_transpose_pointwise",
    "_reorder_convolution_transpose_weight",
)
"""Those of torch's oneDNN that are used here. They are not documented, so that another torch may be without them."""
TYPICAL, SHORT = 64, 2048
"""Frames of input that convolutions are packed for, and up to how many they are computed so. For more there is less to
gain, and more memory to lose: oneDNN keeps what it computes by for each length."""
Forward = Callable[["torch.Tensor"], "torch.Tensor"]


def pack_linears(model: "torch.nn.Module") -> None:
    """Have the float32 linear layers of the encoders in a model compute faster on a CPU, if they can.

    The results are equal but for rounding, and the memory is what it was: the file that the weights are in is let go.
    """
    import torch
    from transformers import PreTrainedModel

    encoders = [one for one in model.modules() if isinstance(one, PreTrainedModel)]
    inside = {part for one in encoders if one.config.model_type in ENCODERS for part in one.modules()}
    layers = [part for part in inside if type(part) is torch.nn.Linear and _can_pack(part)]
    if not layers or not is_faster():
        return
    log.info("this CPU multiplies faster by packed weights")
    for layer in layers:
        layer.forward = packed(layer.weight, layer.bias)  # type: ignore[assignment, method-assign]
        del layer.weight, layer.bias
    for left in model.parameters():
        left.data = left.data.clone()  # which may be a view of the whole file in memory


def pack_convolutions(model: "torch.nn.Module") -> None:
    """Have the float32 `Conv1d` and `ConvTranspose1d` of a model keep their weights packed too, on an x86 CPU.

    torch packs them anew in each call, which for a short input takes as long as what it computes. Short inputs are
    computed by the packed ones, to the same results but for rounding; longer ones as before. To be called when the
    model is where it is to stay.
    """
    import torch

    if not _has_onednn():
        return
    kinds = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
    for layer in [part for part in model.modules() if type(part) in kinds]:
        if _can_pack(layer) and _pads_with_zeros(layer):
            layer.forward = _short_by(packed_convolution(layer), layer.forward)


def _can_pack(layer: Any) -> bool:
    """Whether it has weights of float32 on a CPU, which those that are packed already have not."""
    import torch

    weight = getattr(layer, "weight", None)
    return weight is not None and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _pads_with_zeros(layer: Any) -> bool:
    """Whether a convolution pads by as many zeros as it says, and its output by none."""
    return layer.padding_mode == "zeros" and isinstance(layer.padding, tuple) and not any(layer.output_padding)


def _short_by(by_packed: Forward, as_before: Forward) -> Forward:
    return lambda given: by_packed(given) if given.shape[-1] <= SHORT else as_before(given)


def packed_convolution(layer: Any) -> Forward:
    """What a `Conv1d` or `ConvTranspose1d` makes of float32 `[n, in, frames]` or `[in, frames]`."""
    import torch

    by = torch.ops.mkldnn  # which knows images: here they are one row high
    how: list[Any] = [[0, *layer.padding], [1, *layer.stride], [1, *layer.dilation], layer.groups]
    if isinstance(layer, torch.nn.Conv1d):
        pack, convolve = by._reorder_convolution_weight, by._convolution_pointwise
    else:
        pack, convolve = by._reorder_convolution_transpose_weight, by._convolution_transpose_pointwise
        how.insert(1, [0, 0])  # no padding of the output
    held = pack(layer.weight.detach().unsqueeze(-2), *how, [1, layer.in_channels, 1, TYPICAL])
    bias = None if layer.bias is None else layer.bias.detach()

    def compute(given: "torch.Tensor") -> "torch.Tensor":
        images = given.unsqueeze(-2) if given.ndim == 3 else given[None, :, None]
        made: torch.Tensor = convolve(images, held, bias, *how, "none", [], "").squeeze(-2)
        return made if given.ndim == 3 else made[0]

    return compute


def packed(weight: "torch.Tensor", bias: "torch.Tensor | None") -> Forward:
    """`x @ weight.T + bias` of float32 `[..., in]`, for `weight` `[out, in]` and `bias` `[out]`."""
    import torch

    multiply = torch.ops.mkldnn._linear_pointwise
    held = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    added = None if bias is None else bias.detach().clone()
    return lambda given: multiply(given, held, added, "none", [], "")


@functools.cache
def is_faster() -> bool:
    """Whether this machine multiplies by packed weights in clearly less time, found out by doing so for 10 to 20 ms."""
    import torch

    if not _has_onednn():
        return False
    os.environ.setdefault(*CACHED)  # read when oneDNN is first used
    rows, weight = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    by_packed = packed(weight, None)
    with torch.inference_mode():
        took_s = [(_seconds(lambda: by_packed(rows)), _seconds(lambda: torch.mm(rows, weight))) for _ in range(9)]
    return min(one for one, _ in took_s) < WORTH * min(other for _, other in took_s)


def _has_onednn() -> bool:
    """Whether this is an x86 CPU, and a torch that has all of oneDNN that is used here."""
    import torch

    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return is_x86 and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)


def _seconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s
