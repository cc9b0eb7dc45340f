"""Losses: logits (B, K, H, W) and labels (B, H, W) in, a float32 scalar out; of masks with classes, segments in. One file an
idea."""

from segmentarium.losses.balanced_groups import BalancedGroups, group_by_instances
from segmentarium.losses.base import PixelLoss, check_target
from segmentarium.losses.boundary_band import OnBoundary
from segmentarium.losses.boundary_focal import BoundaryAwareFocal
from segmentarium.losses.category_consistency import CategoryConsistency
from segmentarium.losses.class_boundary import ClassBoundary
from segmentarium.losses.class_masks import ClassMaskDice, ClassMaskFocal, ClassOrNone
from segmentarium.losses.class_presence import ClassPresence
from segmentarium.losses.connectivity import Connectivity
from segmentarium.losses.consistency import Consistency
from segmentarium.losses.cross_entropy import CrossEntropy
from segmentarium.losses.descriptor_hinge import DescriptorHinge
from segmentarium.losses.detail import DetailLoss
from segmentarium.losses.dice import Dice
from segmentarium.losses.diversity import Diversity
from segmentarium.losses.entropy_distillation import EntropyDistillation
from segmentarium.losses.equalization import EqualizationLoss, init_rare
from segmentarium.losses.equalization_v2 import EqualizationLossV2
from segmentarium.losses.factory import LABEL_LOSSES, LOSSES, WeightedSum, build_label_loss, build_loss
from segmentarium.losses.federated import FederatedLoss, answered, asked_classes, known_of
from segmentarium.losses.focal import Focal
from segmentarium.losses.joints_mse import JointsMSE, joint_heatmaps, weighted_mse
from segmentarium.losses.label_cross_entropy import LabelCrossEntropy
from segmentarium.losses.logit_laplace import LogitLaplace
from segmentarium.losses.lovasz import Lovasz
from segmentarium.losses.masked_patches import MaskedPatches
from segmentarium.losses.masked_tokens import MaskedTokens
from segmentarium.losses.ohem import OhemCrossEntropy
from segmentarium.losses.regions import RegionLoss
from segmentarium.losses.seesaw import SeesawLoss
from segmentarium.losses.segments import Segments, segments_of
from segmentarium.losses.set_loss import FocalSetLoss, PointSetLoss, SetLoss
from segmentarium.losses.softmax_bce import SoftmaxBCE
from segmentarium.losses.token_labels import MixedLabelCrossEntropy, TokenLabelCrossEntropy
from segmentarium.losses.uniform_kl import UniformKL
from segmentarium.losses.weighting import class_weights

__all__ = [
    "LABEL_LOSSES",
    "LOSSES",
    "BalancedGroups",
    "BoundaryAwareFocal",
    "CategoryConsistency",
    "ClassBoundary",
    "ClassMaskDice",
    "ClassMaskFocal",
    "ClassOrNone",
    "ClassPresence",
    "Connectivity",
    "Consistency",
    "CrossEntropy",
    "DescriptorHinge",
    "DetailLoss",
    "Dice",
    "Diversity",
    "EntropyDistillation",
    "EqualizationLoss",
    "EqualizationLossV2",
    "FederatedLoss",
    "Focal",
    "FocalSetLoss",
    "JointsMSE",
    "LabelCrossEntropy",
    "LogitLaplace",
    "Lovasz",
    "MaskedPatches",
    "MaskedTokens",
    "MixedLabelCrossEntropy",
    "OhemCrossEntropy",
    "OnBoundary",
    "PixelLoss",
    "PointSetLoss",
    "RegionLoss",
    "SeesawLoss",
    "Segments",
    "SetLoss",
    "SoftmaxBCE",
    "TokenLabelCrossEntropy",
    "UniformKL",
    "WeightedSum",
    "answered",
    "asked_classes",
    "build_label_loss",
    "build_loss",
    "check_target",
    "class_weights",
    "group_by_instances",
    "init_rare",
    "joint_heatmaps",
    "known_of",
    "segments_of",
    "weighted_mse",
]
