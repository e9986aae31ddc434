"""Arrays written into files of their own, larger than memory if need be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def create_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Any:
    """A new .npy file of zeros, mapped for writing, whose room on the disk is taken at once.

    Left to be filled page by page, a disk without room would end the process by a signal.

    Args:
        file: to write.
        dtype: of the array.
        shape: of the array.

    Raises:
        OSError: there is no room; names the file.
    """
    array = np.lib.format.open_memmap(file, "w+", dtype, shape)
    try:
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
    return array
