"""A detector as an MLflow model: files in base64 come in, scores go out.

MLflow runs this file when it loads the model ("models from code"): nothing is pickled. The model
carries the package `dn2` with it, and needs neither torch nor timm.
"""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

import dn2
from dn2.calibration import default_rate
from dn2.image_detector import Scores
from dn2.images import CorruptImageError
from dn2.serving import MOST_SENT_PIXELS
from dn2.serving.uploads import check_header, decode_base64


class RefusedRequest(MlflowException):
    """The error of a request that is not answered as it is: the message is the reason alone.

    MLflow's server would put the whole request before it, images and all.
    """

    @property
    def message(self) -> str:
        """The reason."""
        return self._reason

    @message.setter
    def message(self, text: str) -> None:
        self._reason: str = vars(self).get("_reason", text)


class ServedDetector(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """Score images: one row each, and one object each in the answer, in the same order.

    An image that cannot be read has an ``error`` in place of its score, and costs no other. If none
    can be read, the request is refused.
    """

    def load_context(self, context: Any) -> None:
        """Load the detector."""
        self.detector = dn2.load(context.artifacts["detector"])
        self.detector.score([])

    # MLflow reads type hints of the input as its signature, which is given already.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # noqa: ARG002
        """Score the column ``image``; ``fpr`` or ``fdr`` in the parameters say what is flagged."""
        contents: list[bytes] = []
        errors: dict[int, str] = {}
        rows: list[int] = []
        for row, text in enumerate(model_input["image"]):
            try:
                content = decode_base64(text)
                check_header(content, "image", MOST_SENT_PIXELS)
            except CorruptImageError as error:
                errors[row] = error.reason
            except ValueError as error:
                errors[row] = f"it is no base64 ({error})"
            else:
                rows.append(row)
                contents.append(content)
        scores = self.detector.score(contents)
        unread = {int(one.path.split()[1]) - 1: one.reason for one in scores.left_out}
        errors |= {rows[place]: reason for place, reason in unread.items()}
        if not scores.images:
            raise RefusedRequest.invalid_parameter_value(
                "no image can be read: "
                + ("there is none" if not errors else f"the first: {errors[min(errors)]}")
            )
        flags = self._flags(scores, params or {})
        found = iter(zip(scores.images, flags, strict=True))
        answers: list[dict[str, Any]] = []
        for row in range(len(model_input)):
            if row in errors:
                answers.append({"error": errors[row]})
                continue
            image, flag = next(found)
            nearest = [vars(near) for near in image.nearest]
            answers.append(
                {"score": image.score, "p_value": image.p_value, "flag": flag, "nearest": nearest}
            )
        return answers

    def _flags(self, scores: Scores, params: dict[str, float | None]) -> list[bool | None]:
        """Flag at the rate that is asked for, or at the usual one if there are images enough."""
        rates = {name: rate for name, rate in params.items() if rate is not None}
        if not rates:
            usual = default_rate(scores.n_calibration)
            if usual is None:
                return [None] * len(scores.images)
            rates = {"fpr": usual}
        try:
            flags: list[bool | None] = scores.flag(**rates).tolist()
        except ValueError as error:
            raise RefusedRequest.invalid_parameter_value(str(error)) from None
        return flags


mlflow.models.set_model(ServedDetector())
