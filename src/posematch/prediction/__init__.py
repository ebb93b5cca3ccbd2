"""One picture of people, whatever it comes as, to joints in its pixels: nothing annotated."""

from posematch.prediction.batches import Request, estimated
from posematch.prediction.crops import Crops, checked_boxes, people_crops, whole_picture
from posematch.prediction.pictures import AnyPicture, Picture, as_rgb, decoded, read_upright
from posematch.prediction.poses import Poses

__all__ = [
    "AnyPicture",
    "Crops",
    "Picture",
    "Poses",
    "Request",
    "as_rgb",
    "checked_boxes",
    "decoded",
    "estimated",
    "people_crops",
    "read_upright",
    "whole_picture",
]
