"""Corpora of images that can be prepared."""

from typing import Literal

ImageKind = Literal["cifar10", "images"]
