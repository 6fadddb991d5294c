"""Where torch's layers and Flax's or Equinox's keep the same numbers, as maps and permutations."""

from typing import Any

from parity_tests.harness.maps import Map, chain, flip, permutation

LINEAR = (1, 0)  # torch [out, in] -> flax [in, out]
CONV1D = (2, 1, 0)  # torch [out, in, width] -> flax [width, in, out]
CONV2D = (2, 3, 1, 0)  # torch [out, in, height, width] -> flax [height, width, in, out]
CONV3D = (2, 3, 4, 1, 0)  # torch [out, in, depth, height, width] -> flax [depth, ..., in, out]

# The kernel of Flax's ConvTranspose; with transpose_kernel=True it is that of CONV1D to CONV3D.
CONV_TRANSPOSE1D = chain((2, 0, 1), flip(0))  # torch [in, out, width] -> [width, in, out], reversed
CONV_TRANSPOSE2D = chain((2, 3, 0, 1), flip(0, 1))
CONV_TRANSPOSE3D = chain((2, 3, 4, 0, 1), flip(0, 1, 2))


def flip_groups(groups: int) -> Map:
    """A transposed convolution's weight, [in, out / groups, *width], to Equinox's, which is that
    of the convolution it amounts to: [out, in / groups, *width], reversed along the widths.
    """

    def there(x: Any) -> Any:
        n_in, n_out, *width = x.shape
        x = x.reshape(groups, n_in // groups, n_out, *width).swapaxes(1, 2)
        x = x.reshape(groups * n_out, n_in // groups, *width)
        return x[(slice(None),) * 2 + (slice(None, None, -1),) * len(width)]

    return permutation(there, there)  # the same way back: the groups of in and out change places


def trailing_ones(n: int) -> Map:
    """[C] -> [C 1 … 1] with n ones: the bias of an Equinox convolution."""
    return permutation(lambda x: x.reshape(x.shape + (1,) * n), lambda x: x.reshape(x.shape[:-n]))
