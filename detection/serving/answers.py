"""The answers of a server, as OpenAPI describes them."""

from __future__ import annotations

from pydantic import BaseModel, Field


class DetectionAnswer(BaseModel):
    """One detection."""

    label: str
    score: float
    box: list[float] = Field(description="x1, y1, x2, y2 in pixels of the image as displayed")


class ClassAnswer(BaseModel):
    """One class of a classifier, with its probability."""

    label: str
    score: float


class ImageAnswer(BaseModel):
    """The record of one image: ``detections`` of a detector or localizer, ``classes`` of a
    classifier, best first; or ``error``, the reason why it cannot be used."""

    file: str
    width: int | None = None
    height: int | None = None
    orientation: int | None = Field(None, description="EXIF orientation, which is applied")
    warnings: list[str] | None = None
    detections: list[DetectionAnswer] | None = None
    classes: list[ClassAnswer] | None = None
    error: str | None = None


class FormAnswer(BaseModel):
    """The records of the images of a form, in its order."""

    images: list[ImageAnswer]


class ErrorAnswer(BaseModel):
    """The reason why a request has no result."""

    error: str


class ModelAnswer(BaseModel):
    """The model of the server; ``weights`` are names of files, ``results`` the key of what it
    finds in a record."""

    architecture: str
    classes: list[str]
    results: str
    testing: str
    score_threshold: float
    device: str
    precision: str
    weights: list[str]
    version: str
