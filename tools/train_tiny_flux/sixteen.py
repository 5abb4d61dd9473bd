"""The first tiny checkpoint's autoencoder with sixteen channels, without any training.

A latent of Flux's checkpoint is a fixed linear map of one of `pictures.latent`, so the autoencoder needs
new weights only next to the latent. The map is chosen such that the two are equal at the edges too,
where convolutions see zeros: a latent of zeros must stand for zeros behind `post_quant_conv`, or its
bias would have to be added inside the picture alone.
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL

from flux_networks import CHANNELS, SCALE, SHIFT

from networks import SCALING_FACTOR

SIZE = 1.5  # of the map's columns, so that a channel's deviation is near 1
# The decoder pays almost no heed to one direction of its latent except for its mean, which tells it where
# the picture ends. That direction is made smaller, and with it the mean.
LITTLE = 0.22


def hadamard() -> torch.Tensor:
    """Four orthogonal columns [16, 4] of equal numbers with both signs, all orthogonal to ones."""
    h = torch.ones(1, 1)
    while len(h) < CHANNELS:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h[:, [1, 2, 4, 8]] / CHANNELS**0.5 * SIZE


@dataclass
class Sixteen:
    """`latent` = `matrix` @ `pictures.latent` + `offset`, in Flux's scale; `decoded` @ `latent` is what
    the first checkpoint's decoder sees behind `post_quant_conv`."""

    matrix: torch.Tensor
    offset: torch.Tensor
    decoded: torch.Tensor

    def latents(self, flat: torch.Tensor) -> torch.Tensor:
        """[batch, 4, height, width] as [batch, 16, height, width]."""
        return torch.einsum("oc,bchw->bohw", self.matrix, flat) + self.offset[:, None, None]

    def aside(self) -> torch.Tensor:
        """The projection [16, 16] on the twelve directions that say nothing."""
        return torch.eye(CHANNELS) - self.matrix @ torch.linalg.pinv(self.matrix)


def sixteen(vae: AutoencoderKL) -> Sixteen:
    """The map for an autoencoder with four channels."""
    conv = vae.post_quant_conv
    u, s, v = torch.linalg.svd(conv.weight.detach()[:, :, 0, 0])
    spread = hadamard() * torch.tensor([1, 1, 1, LITTLE])
    mean = SCALING_FACTOR * (u.T @ conv.bias.detach()) / s
    back = torch.linalg.pinv(spread)
    return Sixteen(spread @ v, spread @ mean, u @ torch.diag(s / SCALING_FACTOR) @ back)


@torch.no_grad()
def widened(vae: AutoencoderKL) -> AutoencoderKL:
    """The autoencoder with sixteen channels, as Flux's file has it: without 1 x 1 convolutions."""
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    config |= dict(latent_channels=CHANNELS, scaling_factor=SCALE, shift_factor=SHIFT)
    wide = AutoencoderKL(**config | dict(use_quant_conv=False, use_post_quant_conv=False))
    own, map_ = wide.state_dict(), sixteen(vae)
    new = {key: value for key, value in vae.state_dict().items() if "quant_conv" not in key}
    # The encoder: mean and logarithm of the variance, each of four channels.
    conv, quant = vae.encoder.conv_out, vae.quant_conv
    weight = torch.einsum("oc,cikl->oikl", quant.weight[:, :, 0, 0], conv.weight)
    bias = quant.weight[:, :, 0, 0] @ conv.bias + quant.bias
    to = map_.matrix * SCALING_FACTOR / SCALE
    mean = to @ bias[:4] + map_.offset / SCALE + SHIFT
    # A sum of four has the sum of their variances; where these are alike, its logarithm is near to this.
    variance = to.square().sum(1).log() + bias[4:].mean()
    new["encoder.conv_out.weight"] = torch.cat(
        [torch.einsum("oc,cikl->oikl", to, weight[:4]), weight[4:].mean(0, keepdim=True).repeat(CHANNELS, 1, 1, 1)]
    )
    new["encoder.conv_out.bias"] = torch.cat([mean, variance])
    # `decoded` maps ones to zeros, so that the shift of the latents drops out.
    new["decoder.conv_in.weight"] = torch.einsum(
        "ocij,cd->odij", vae.decoder.conv_in.weight, map_.decoded * SCALE
    )
    assert own.keys() == new.keys()
    wide.load_state_dict(new)
    return wide.eval().requires_grad_(False)
