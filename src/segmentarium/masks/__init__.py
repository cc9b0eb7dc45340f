"""Mask classification: a few masks, each with one class.  Semantic, instance and panoptic segmentation from one network."""
