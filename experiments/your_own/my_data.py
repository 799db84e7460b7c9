"""Data: any torch Dataset of (image, label); images are PIL images, arrays or tensors."""

from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset


class Listed(Dataset):
    def __init__(self, file: str):  # a text file with one line for each image: path,class
        self.rows = [line.split(",") for line in Path(file).read_text().split()]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        path, label = self.rows[index]
        return Image.open(path), int(label)
