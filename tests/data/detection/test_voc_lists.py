import unicodedata

import pytest

from cbam_lightning.data.detection.voc_files import read_voc
from cbam_lightning.data.detection.voc_lists import NamedFiles, read_names
from cbam_lightning.errors import UsageError
from tests.data.detection.written import voc_object, write_voc


def folder_of(tmp_path, *names, suffix="jpg"):
    """Write a data set whose images have these names."""
    folder = write_voc(tmp_path, *[voc_object()] * len(names))
    for number, name in enumerate(names):
        (folder / "Annotations" / f"{number:06d}.xml").rename(folder / "Annotations" / f"{name}.xml")
        (folder / "JPEGImages" / f"{number:06d}.jpg").rename(folder / "JPEGImages" / f"{name}.{suffix}")
    return folder


def write_list(folder, *lines, encoding="utf-8"):
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text(
        "".join(f"{line}\n" for line in lines), encoding=encoding
    )


def read(folder):
    annotations = read_voc([folder], "trainval", ("cat",))
    paths = [annotations.name(index) for index in range(len(annotations))]
    return [path.removeprefix(f"{folder}/JPEGImages/") for path in paths]


NAMES = ("my photo 1", "IMG1 (copy)", "a  b -1", "x.y")


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "jpeg", "png", "Png"])
def test_names_with_spaces_and_images_of_any_format(tmp_path, suffix):
    folder = folder_of(tmp_path, *NAMES, suffix=suffix)
    write_list(folder, *NAMES)
    assert read(folder) == [f"{name}.{suffix}" for name in NAMES]


@pytest.mark.parametrize("flags", [(" 1", " -1", " 0", "\t1"), ("  1", " -1  ", "  0", "  1")])
def test_flags_are_no_part_of_a_name(tmp_path, flags):
    folder = folder_of(tmp_path, *NAMES)
    write_list(folder, *[name + flag for name, flag in zip(NAMES, flags, strict=True)])
    assert read(folder) == [f"{name}.jpg" for name in NAMES]


def test_names_that_all_end_like_a_flag(tmp_path):
    folder = folder_of(tmp_path, "photo 1", "photo 0", "cat -1")
    write_list(folder, "photo 1", "photo 0", "cat -1")
    assert read(folder) == ["photo 1.jpg", "photo 0.jpg", "cat -1.jpg"]
    folder = folder_of(tmp_path / "both", "photo 1", "photo")
    write_list(folder, "photo 1", "photo")
    assert read(folder) == ["photo 1.jpg", "photo.jpg"]


def test_what_can_be_read_in_both_ways_is_refused(tmp_path):
    folder = folder_of(tmp_path, "a", "a 1", "b", "b 0")
    write_list(folder, "a 1", "b 0")
    with pytest.raises(UsageError, match=r"not clear whether 'a 1' is a name or a name and a flag, as there"):
        read(folder)


def test_a_missing_annotation_is_named_as_the_list_is_read(tmp_path):
    folder = folder_of(tmp_path, "a b", "c")
    write_list(folder, "a b 1", "c -1", "d 1")
    with pytest.raises(UsageError, match=r"there is no .*Annotations/d\.xml"):
        read(folder)
    write_list(folder, "a b", "c", "d 1")
    with pytest.raises(UsageError, match=r"there is no .*Annotations/d 1\.xml"):
        read(folder)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_and_annotations_with_a_byte_order_mark(tmp_path, encoding):
    folder = folder_of(tmp_path, "läufe", "b")
    write_list(folder, "läufe", "b", encoding=encoding)
    for path in (folder / "Annotations").iterdir():
        path.write_text(path.read_text(), encoding=encoding)
    assert read(folder) == ["läufe.jpg", "b.jpg"]


def test_lines_of_windows_and_empty_ones(tmp_path):
    folder = folder_of(tmp_path, "a b", "c")
    (folder / "ImageSets" / "Main" / "trainval.txt").write_bytes(b"a b\r\n\r\n c \r\n\x1a"[:-1])
    assert read(folder) == ["a b.jpg", "c.jpg"]


def test_a_list_in_another_encoding_is_one_line(tmp_path):
    folder = folder_of(tmp_path, "b")
    write_list(folder, "läufe", encoding="latin-1")
    with pytest.raises(UsageError, match=r"trainval\.txt is not text in UTF-8: .*Save it as UTF-8\."):
        read(folder)


def test_the_unicode_form_of_a_name_does_not_matter(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "läufe") for form in ("NFC", "NFD"))
    folder = folder_of(tmp_path, decomposed)
    write_list(folder, composed)
    assert read(folder) == [f"{decomposed}.jpg"]


def test_two_images_of_one_name_are_refused(tmp_path):
    folder = folder_of(tmp_path, "a")
    write_list(folder, "a")
    (folder / "JPEGImages" / "a.PNG").touch()
    with pytest.raises(UsageError, match=r"a\.xml may describe a\.PNG or a\.jpg; remove one from"):
        read(folder)


def test_names_may_start_with_folders(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a b.xml").touch()
    files = NamedFiles(tmp_path, (".xml",))
    assert files.find("sub/a b") == [tmp_path / "sub" / "a b.xml"]
    assert files.find("none/a b") == files.find("a b") == []
    (tmp_path / "list.txt").write_text("sub/a b\n")
    assert read_names(tmp_path / "list.txt", files) == ["sub/a b"]
