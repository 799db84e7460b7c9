"""Data sets as LightningDataModules; the models know nothing of them, and they nothing of the models."""

from cbam_lightning.data.batch import Batch
from cbam_lightning.data.cifar import CIFAR10, CIFAR100
from cbam_lightning.data.classification import ImageDataModule
from cbam_lightning.data.data_module import BaseDataModule
from cbam_lightning.data.detection.coco import CocoDetection
from cbam_lightning.data.detection.detection_batch import DetectionBatch
from cbam_lightning.data.detection.fashion_scenes import FashionScenes
from cbam_lightning.data.detection.module import DetectionDataModule
from cbam_lightning.data.detection.voc import VOCDetection
from cbam_lightning.data.fashion_mnist import FashionMNIST
from cbam_lightning.data.image_folder import ImageFolder
from cbam_lightning.data.imagenet import ImageNet
from cbam_lightning.data.torch_dataset import TorchDataset
from cbam_lightning.data.unlabelled_images import UnlabelledImages

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "BaseDataModule",
    "Batch",
    "CocoDetection",
    "DetectionBatch",
    "DetectionDataModule",
    "FashionMNIST",
    "FashionScenes",
    "ImageDataModule",
    "ImageFolder",
    "ImageNet",
    "TorchDataset",
    "UnlabelledImages",
    "VOCDetection",
]
