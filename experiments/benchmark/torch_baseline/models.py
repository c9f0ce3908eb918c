"""The networks of ``l2rw_jax.models`` in PyTorch: the same layers, by the same names.

A network is called as ``network(images, update_moments=False)`` with images ``[b, c, h, w]`` and
returns logits ``[b, num_classes]``; only the pass that trains updates running moments. With
``features=True`` it returns what its last layer, ``output``, sees, ``[b, d]``. Convolutions with
stride 2 and poolings pad as XLA's SAME does: at the end of an even side, at both ends of an odd
one. Initial values come from the JAX side, by ``convert``.
"""

import math
import re

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def create_network(name, *, num_classes, image_shape, dropout=0.0):
    """Returns the ``nn.Module`` of a name that the JAX side knows; see ``convert``.

    Args:
      name: as in ``l2rw_jax.models.create_model``.
      num_classes: number of logits.
      image_shape: ``(h, w, c)``, the order of the JAX side.
      dropout: rate between the convolutions of a wrn's blocks.

    Raises:
      ValueError: an unknown name.
    """
    if name == "lenet":
        return LeNet(num_classes, image_shape)
    if match := re.fullmatch(r"vit-(\d+)-(\d+)", name):
        return ViT(int(match[1]), int(match[2]), num_classes, image_shape)
    if re.fullmatch(r"mlp(-\d+)+", name):
        return MLP([int(size) for size in name.split("-")[1:]], num_classes, image_shape)
    match = re.fullmatch(r"resnet-(\d+)|wrn-(\d+)-(\d+)", name)
    if match is None:
        raise ValueError(
            f"name: got {name!r}; takes mlp-H1-..., lenet, resnet-D, wrn-D-K or vit-W-L"
        )
    resnet_depth, wrn_depth, widening = match.groups()
    layers = int(resnet_depth) - 2 if resnet_depth else int(wrn_depth) - 4
    width = 16 * int(widening or 1)
    filters = (16, width, 2 * width, 4 * width)
    return ResNet(layers // 6, filters, num_classes, image_shape[-1], dropout)


class MLP(nn.Module):
    """Flattened image, hidden layers with ReLU, linear output."""

    def __init__(self, hidden, num_classes, image_shape):
        super().__init__()
        self.hidden, width = [], math.prod(image_shape)
        for i, units in enumerate(hidden):
            self.hidden.append(f"hidden_{i}")
            self.add_module(self.hidden[-1], nn.Linear(width, units))
            width = units
        self.output = nn.Linear(width, num_classes)

    def forward(self, x, update_moments=False, features=False):
        """Logits of a batch; there are no moments to update."""
        x = x.permute(0, 2, 3, 1).flatten(1)
        for name in self.hidden:
            x = F.relu(getattr(self, name)(x))
        return x if features else self.output(x)


class LeNet(nn.Module):
    """Three 5x5 convolutions with max-pooling, one hidden layer, one sigmoid unit for 2 classes."""

    def __init__(self, num_classes, image_shape):
        super().__init__()
        height, width, channels = image_shape
        self.conv_0 = nn.Conv2d(channels, 16, 5, padding="same")
        self.conv_1 = nn.Conv2d(16, 32, 5, padding="same")
        self.conv_2 = nn.Conv2d(32, 64, 5, padding="same")
        flat = 64 * math.ceil(height / 8) * math.ceil(width / 8)
        self.hidden = nn.Linear(flat, 100)
        self.output = nn.Linear(100, 1 if num_classes == 2 else num_classes)

    def forward(self, x, update_moments=False, features=False):
        """Logits of a batch; there are no moments to update."""
        for conv in (self.conv_0, self.conv_1, self.conv_2):
            x = conv(x)
            odd = (x.shape[2] % 2, x.shape[3] % 2)
            x = F.relu(F.max_pool2d(x, 3, 2, padding=odd, ceil_mode=True))
        # Flattened in the order h, w, c, as on the JAX side.
        x = F.relu(self.hidden(x.permute(0, 2, 3, 1).flatten(1)))
        if features:
            return x
        z = self.output(x)
        return F.pad(z, (1, 0)) if z.shape[1] == 1 else z


class NormReLU(nn.Module):
    """Batch normalisation, then ReLU."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x, update_moments):
        """By the batch's own moments in training mode; the running ones follow if asked to."""
        running = update_moments or not self.training
        mean, var = (self.running_mean, self.running_var) if running else (None, None)
        return F.relu(F.batch_norm(x, mean, var, self.weight, self.bias, self.training, 0.1, 1e-5))


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution without bias."""

    def __init__(self, n_in, n_out, stride=1):
        super().__init__(n_in, n_out, 3, stride, padding=1 if stride == 1 else 0, bias=False)

    def forward(self, x):
        """Pads a strided convolution as XLA's SAME does."""
        if self.stride[0] > 1:
            height, width = x.shape[2] % 2, x.shape[3] % 2
            x = F.pad(x, (width, 1, height, 1))
        return super().forward(x)


class Block(nn.Module):
    """x + conv(dropout(relu(norm(conv(relu(norm(x))))))), with a shortcut free of parameters."""

    def __init__(self, n_in, n_out, stride, dropout):
        super().__init__()
        self.stride, self.grow = stride, n_out - n_in
        self.norm_0 = NormReLU(n_in)
        self.conv_0 = Conv3x3(n_in, n_out, stride)
        self.norm_1 = NormReLU(n_out)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv_1 = Conv3x3(n_out, n_out)

    def forward(self, x, update_moments):
        """The block's output ``[b, n_out, h', w']``."""
        y = self.conv_0(self.norm_0(x, update_moments))
        y = self.conv_1(self.dropout(self.norm_1(y, update_moments)))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        if self.grow:
            before = self.grow // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.grow - before))
        return y + x


class ResNet(nn.Module):
    """Pre-activation residual network for small images; wide ones have larger ``filters``."""

    def __init__(self, blocks_per_stage, filters, num_classes, channels, dropout):
        super().__init__()
        self.conv = Conv3x3(channels, filters[0])
        self.blocks, width = [], filters[0]
        for stage, n_out in enumerate(filters[1:]):
            for i in range(blocks_per_stage):
                stride = 2 if stage > 0 and i == 0 else 1
                self.blocks.append(f"stage_{stage}_block_{i}")
                self.add_module(self.blocks[-1], Block(width, n_out, stride, dropout))
                width = n_out
        self.norm = NormReLU(width)
        self.output = nn.Linear(width, num_classes)

    def forward(self, x, update_moments=False, features=False):
        """Logits of a batch."""
        x = self.conv(x)
        for name in self.blocks:
            x = getattr(self, name)(x, update_moments)
        x = self.norm(x, update_moments).mean((2, 3))
        return x if features else self.output(x)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width):
        super().__init__()
        self.heads = max(1, width // 64)
        self.norm_0 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_1 = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        """The block's output ``[b, t, width]``."""
        b, t, width = x.shape
        qkv = self.qkv(self.norm_0(x)).view(b, t, 3, self.heads, width // self.heads)
        y = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.out(y.transpose(1, 2).reshape(b, t, width))
        return x + self.down(F.gelu(self.up(self.norm_1(x)), approximate="tanh"))


class ViT(nn.Module):
    """Patches, learned positions, pre-norm blocks, and the mean over patches."""

    def __init__(self, width, layers, num_classes, image_shape):
        super().__init__()
        height, breadth, channels = image_shape
        self.side = 4 if min(height, breadth) >= 16 else 2
        tokens = height // self.side * (breadth // self.side)
        self.patch = nn.Linear(self.side**2 * channels, width)
        self.position = nn.Parameter(torch.zeros(tokens, width))
        self.blocks = nn.ModuleList(TransformerBlock(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.output = nn.Linear(width, num_classes)

    def forward(self, x, update_moments=False, features=False):
        """Logits of a batch; there are no moments to update."""
        b, channels, height, breadth = x.shape
        side, rows, columns = self.side, height // self.side, breadth // self.side
        x = x.reshape(b, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        x = self.patch(x.reshape(b, rows * columns, side**2 * channels)) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x).mean(1)
        return x if features else self.output(x)
