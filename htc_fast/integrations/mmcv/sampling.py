"""mmcv's operators that torch's own sampling does: masked convolution, CARAFE, deformable attention."""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fill `col` [C * kernel_h * kernel_w, n] with what the kernel sees of `im` [1, C, H, W] at n places."""
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns].flatten(0, 2))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Put `col` [C, n] at n places of `im` [1, C, H, W]."""
    im[0, :, mask_h_idx, mask_w_idx] = col


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Fill `output` [N, C, s * H, s * W]: around each place, the features [N, C, H, W] that its mask weighs.

    masks  [N, group_size * kernel_size ** 2, s * H, s * W]
    """
    output.copy_(_carafe(features, masks, kernel_size, group_size, scale_factor))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add to the gradients of features and masks."""
    with torch.enable_grad():
        inputs = features.detach().requires_grad_(), masks.detach().requires_grad_()
        out = _carafe(*inputs, kernel_size, group_size, scale_factor)
    for grad, one in zip((bottom_grad, mask_grad), torch.autograd.grad(out, inputs, top_grad)):
        grad += one


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_forward`; `rfeatures` keeps the features for `carafe_backward`."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add to the gradients of features and masks."""
    options = kernel_size, group_size, scale_factor
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, *options)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sample every level of a pyramid where each query points, and sum by its weights.

    value                 [N, places of all levels, heads, D]
    value_spatial_shapes  [L, 2]  height, width
    sampling_locations    [N, Q, heads, L, P, 2]  x, y from 0 to 1
    attention_weights     [N, Q, heads, L, P]
    returns               [N, Q, heads * D]
    source                Deformable DETR, equation 3
    """
    images, queries = sampling_locations.shape[:2]
    shapes = value_spatial_shapes.tolist()
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in shapes], dim=2)
    grids = (2 * sampling_locations - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)
    sampled = [
        F.grid_sample(one.unflatten(2, shape), grids[:, level], align_corners=False)
        for level, (one, shape) in enumerate(zip(maps, shapes))
    ]
    weights = attention_weights.permute(0, 2, 3, 1, 4).flatten(0, 1)
    total = sum(one * weights[:, None, level] for level, one in enumerate(sampled)).sum(dim=3)  # type: ignore
    return total.view(images, -1, queries).transpose(1, 2).contiguous()


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add to the gradients of values, locations and weights."""
    with torch.enable_grad():
        value, at, weights = (one.detach().requires_grad_() for one in (value, sampling_loc, attn_weight))
        out = ms_deform_attn_forward(value, spatial_shapes, level_start_index, at, weights, im2col_step)
    found = torch.autograd.grad(out, (value, at, weights), grad_output)
    for grad, one in zip((grad_value, grad_sampling_loc, grad_attn_weight), found):
        grad += one


def _carafe(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    images, channels, height, width = features.shape
    seen = F.unfold(features, kernel, padding=kernel // 2).view(images, groups, -1, kernel**2, height, width)
    weights = masks.view(images, groups, kernel**2, height, scale, width, scale)
    summed = torch.einsum("ngckhw,ngkhswt->ngchswt", seen, weights)
    return summed.reshape(images, channels, height * scale, width * scale)


OPERATORS = {
    one.__name__: one
    for one in (
        masked_im2col_forward,
        masked_col2im_forward,
        carafe_naive_forward,
        carafe_naive_backward,
        carafe_forward,
        carafe_backward,
        ms_deform_attn_forward,
        ms_deform_attn_backward,
    )
}
