"""DN2: score an image by its distance to its nearest normal training images in the features of a pretrained network."""
