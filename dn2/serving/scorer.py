"""Images of many requests -> scores, with all cores busy.

A thread takes one image at a time, from the file to its features, in the order in which they came,
whatever request they belong to. There are more threads than cores, so that some decode while the
network runs in others. A network takes one image at a time anyway: see `dn2.engines`.

NumPy's products run in one thread each. With several, the product of a request of 16 images leaves
cores spinning for longer than it computes: that took a third of the throughput.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from dn2.crops import LeftOut, read_crop
from dn2.engines import available_cores, compile_for_cpu
from dn2.features import NORMALIZATIONS
from dn2.image_detector import ImageDetector, ScoredImage, Scores
from dn2.images import CorruptImageError
from dn2.networks import SHAPE
from dn2.serving.uploads import Upload, check_header

EXTRA_THREADS = 1


class Scorer:
    """Score images for several callers at a time.

    Parameters
    ----------
    detector : ImageDetector
        Fitted, or loaded.
    most_pixels : int
        Of an image; a larger one is left out before it is decoded.
    """

    def __init__(self, detector: ImageDetector, most_pixels: int) -> None:
        self.detector, self.most_pixels = detector, most_pixels
        self._view = replace(detector.view, most_pixels=most_pixels)
        cores = available_cores()
        self._compiled = [
            compile_for_cpu(network.model(), cores, cores) for network in detector.networks_
        ]
        self._normalise = NORMALIZATIONS[detector.normalize]
        self._own = threading.local()  # a thread's requests to the networks
        self._encoding = ThreadPoolExecutor(cores + EXTRA_THREADS, "encode", self._start)
        self._searching = ThreadPoolExecutor(cores, "search")
        self._one_thread = threadpool_limits(1, user_api="blas")
        # the first run of a network takes longer
        self._encoding.submit(self._run, np.zeros(SHAPE, np.uint8)).result()

    async def score(self, uploads: Sequence[Upload]) -> tuple[list[int], Scores]:
        """Score the images of a request.

        Returns
        -------
        rows : list of int
            The positions, from 0, of the images that could be read: those of the scores.
        scores : Scores
        """
        found = await asyncio.gather(
            *(
                asyncio.wrap_future(self._encoding.submit(self._encode, upload))
                for upload in uploads
            )
        )
        rows = [row for row, one in enumerate(found) if not isinstance(one, LeftOut)]
        images: list[ScoredImage] = []
        if rows:
            features = np.stack([one for one in found if not isinstance(one, LeftOut)])
            names = [uploads[row].name for row in rows]
            images = await asyncio.wrap_future(
                self._searching.submit(self.detector.score_features, names, features)
            )
        left_out = tuple(one for one in found if isinstance(one, LeftOut))
        return rows, Scores(tuple(images), left_out, len(self.detector.calibration_))

    def close(self) -> None:
        """End the threads, when they have done what they are at."""
        self._encoding.shutdown(cancel_futures=True)
        self._searching.shutdown(cancel_futures=True)
        self._one_thread.restore_original_limits()

    def _start(self) -> None:
        self._own.requests = [compiled.create_infer_request() for compiled in self._compiled]

    def _encode(self, upload: Upload) -> np.ndarray | LeftOut:
        try:
            content = upload.read()
            check_header(content, upload.name, self.most_pixels)
            crop = read_crop(content, upload.name, self._view)
        except CorruptImageError as error:
            return LeftOut(upload.name, error.reason)
        except MemoryError:
            return LeftOut(upload.name, "it needs more memory than there is")
        finally:
            upload.close()
        return self._run(crop)

    def _run(self, crop: np.ndarray) -> np.ndarray:
        parts = []
        for request in self._own.requests:
            request.infer({0: crop[None]})
            parts.append(self._normalise(request.get_output_tensor(0).data.copy()))
        features: np.ndarray = np.concatenate(parts, axis=1)[0]
        return features
