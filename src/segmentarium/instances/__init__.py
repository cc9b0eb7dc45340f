"""Instance segmentation by boxes: regions are proposed, classified, and masked one by one."""
