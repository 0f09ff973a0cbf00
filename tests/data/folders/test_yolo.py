"""YOLO's folders as people have them, and what their files must not say."""

import pytest
from PIL import Image

from htc_fast import UserError
from htc_fast.data import CocoDataset
from tests.data.folders.kit import areas, picture

SQUARE = "0.125 0.25 0.375 0.25 0.375 0.5 0.125 0.5"  # 16 x 12 pixels
NAMES = "names: [cat, dog]\n"


def write(root, lines=None, yaml=NAMES + "train: images/train\nval: images/val\n", file="data.yaml"):
    """Two pictures to train on and one held out, each with a square; `lines` are those of the first."""
    (root / file).write_text(yaml)
    for place in ("train/a", "train/b", "val/c"):
        picture(root / "images" / f"{place}.png")
        label = root / "labels" / f"{place}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"1 {SQUARE}\n" if lines is None or place != "train/a" else "\n".join(lines))
    return root


YAMLS = {
    "names by number": "names: {1: dog, 0: cat}\ntrain: images/train\nval: images/val\n",
    "with a path": NAMES + "path: .\ntrain: images/train\nval: images/val\n",
    "a path that is elsewhere": NAMES + "path: ../datasets/coco8\ntrain: images/train\nval: images/val\n",
    "lists of folders": NAMES + "train: [images/train]\nval: [images/val]\ntest:\n",
    "Roboflow's": "train: ../images/train\nval: ../images/val\nnc: 2\n" + NAMES,
    "on Windows": NAMES + "train: images\\train\nval: .\\images\\val\n",
    "of another machine": NAMES + "train: /content/fruit-1/images/train\nval: C:\\fruit\\images\\val\n",
    "far above": NAMES + "train: ../../data/images/train\nval: ../../data/images/val\n",
    "valid for val": NAMES + "train: images/train\nvalid: images/val\n",
    "with a mark and a comment": "\ufeff# c\n" + NAMES + "train: images/train # x\nval: images/val\n",
}


@pytest.mark.parametrize("yaml", YAMLS.values(), ids=YAMLS)
def test_what_a_yaml_file_may_say(tmp_path, yaml):
    write(tmp_path, yaml=yaml)
    assert areas(tmp_path) == {"images/train/a": [("dog", 192)], "images/train/b": [("dog", 192)]}
    assert areas(tmp_path, "val") == {"images/val/c": [("dog", 192)]}


def test_the_file_itself_may_be_named(tmp_path):
    write(tmp_path, file="mine.yml")
    write(tmp_path, file="other.yaml", yaml="names: [x, y]\ntrain: images/train\nval: images/val\n")
    assert areas(tmp_path / "other.yaml", "val") == {"images/val/c": [("y", 192)]}
    with pytest.raises(
        UserError, match=r"holds mine\.yml, other\.yaml: name the one to read, such as --data .*mine\.yml"
    ):
        CocoDataset(tmp_path)


@pytest.mark.parametrize("word, other", [("Images", "Labels"), ("IMAGES", "LABELS"), ("Images", "labels")])
def test_folders_in_capitals(tmp_path, word, other):
    write(tmp_path, yaml=NAMES + f"train: {word}/train\nval: {word}/val\n")
    (tmp_path / "images").rename(tmp_path / word)
    (tmp_path / "labels").rename(tmp_path / other)
    assert areas(tmp_path) == {f"{word}/train/a": [("dog", 192)], f"{word}/train/b": [("dog", 192)]}
    (tmp_path / "data.yaml").unlink()
    assert areas(tmp_path, "val") == {f"{word}/val/c": [("1", 192)]}


def test_labels_beside_pictures(tmp_path):
    root = tmp_path / "images" / "fruit"  # whose own name is no part of the layout
    (root / "train").mkdir(parents=True)
    (root / "data.yaml").write_text(NAMES + "train: train\n")
    for stem in "ab":
        picture(root / "train" / f"{stem}.png")
        (root / "train" / f"{stem}.txt").write_text(f"1 {SQUARE}\n")
    assert areas(root, "all") == {"train/a": [("dog", 192)], "train/b": [("dog", 192)]}


def test_a_folder_in_the_folder(tmp_path):
    """As an archive unpacks; its classes have names then too."""
    (tmp_path / "fruit").mkdir()
    write(tmp_path / "fruit")
    assert areas(tmp_path, "val") == {"fruit/images/val/c": [("dog", 192)]}
    (tmp_path / "more").mkdir()
    write(tmp_path / "more")
    with pytest.raises(UserError, match=r"holds fruit/data\.yaml, more/data\.yaml: name the one to read"):
        CocoDataset(tmp_path)


def test_lists_of_pictures(tmp_path):
    write(tmp_path, yaml=NAMES + "train: train.txt\nval: val.txt\n")
    (tmp_path / "train.txt").write_text("./images/train/a.png\r\nimages/val/c.png\n\n")
    (tmp_path / "val.txt").write_text("images\\train\\b.png\n./images/train/gone.png\n")
    assert areas(tmp_path).keys() == {"images/train/a", "images/val/c"}
    assert areas(tmp_path, "val").keys() == {"images/train/b"}


@pytest.mark.parametrize("name", ["data/images/{}", "/home/me/x/images/{}", "C:\\x\\images\\{}", "./images/{}"])
def test_lists_of_another_machine(tmp_path, capsys, name):
    """CVAT writes data/ before each name; a list in a folder of its own may be relative to the data's."""
    write(tmp_path, yaml=NAMES + "path: .\ntrain: lists/train.txt\nval: lists/val.txt\n")
    (tmp_path / "lists").mkdir()
    for split, stems in (("train", "ax"), ("val", "c")):
        names = [name.format(f"{split}/{stem}.png") for stem in stems]
        (tmp_path / "lists" / f"{split}.txt").write_text("\n".join(names))
    assert areas(tmp_path) == {"images/train/a": [("dog", 192)]} and areas(tmp_path, "val").keys() == {"images/val/c"}
    said = capsys.readouterr().err
    assert "1 of 3 pictures are not used (1 missing or unreadable, such as" in said
    assert ("train.txt: 1 pictures lie elsewhere than their names say" in said) == (not name.startswith("."))


def test_pictures_elsewhere_and_changed_there(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    write(tmp_path / "b")
    (tmp_path / "a" / "data.yaml").write_text(NAMES + f"path: {tmp_path / 'b'}\ntrain: images/train\nval: images/val\n")
    assert areas(tmp_path / "a") == {"b/images/train/a": [("dog", 192)], "b/images/train/b": [("dog", 192)]}
    (tmp_path / "b" / "labels" / "train" / "a.txt").write_text(f"0 {SQUARE}\n1 {SQUARE}\n")
    assert areas(tmp_path / "a")["b/images/train/a"] == [("cat", 192), ("dog", 192)]


def test_pictures_without_labels_are_backgrounds(tmp_path, capsys):
    (write(tmp_path) / "labels" / "train" / "a.txt").unlink()
    (tmp_path / "labels" / "train" / "b.txt").write_text("")
    (tmp_path / "labels" / "val" / "c.txt").write_text(f"0 {SQUARE}\n")
    assert areas(tmp_path) == {"images/train/a": [], "images/train/b": []}
    said = "1 of 3 pictures have no label file and are taken for empty ones, such as images/train/a.png"
    assert said in capsys.readouterr().err


def test_no_val_and_one_folder_for_both(tmp_path, capsys):
    write(tmp_path, yaml=NAMES + "train: images\nval: images\n")
    assert len(areas(tmp_path)) == 2 and len(areas(tmp_path, "val")) == 1
    assert (
        "the same pictures are named for training and for validation, so they are divided anew"
        in capsys.readouterr().err
    )


def test_upright_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    (write(tmp_path) / "images" / "train" / "a.png").unlink()
    picture(tmp_path / "images" / "train" / "a.jpg", exif=exif)
    # 64 x 48 pixels lie turned: shares count of 48 x 64.
    assert areas(tmp_path)["images/train/a"] == [("dog", 12 * 16)]
    assert CocoDataset(tmp_path).picture(0).width == 48


LINES = {
    "0 0.5 0.5 0.2 0.2": "1 with a box alone, such as '0 0.5 0.5 0.2 0.2'",
    "0 0.5 0.5 0.2 0.2 0.9": "1 with a box alone",
    "0 0.1 0.1 0.2 0.2": "1 with a box alone",
    "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4": "1 with no outline of three corners",
    "0 0.1": "1 with no outline of three corners",
    "0": "1 with no outline of three corners",
    f"2 {SQUARE}": "1 of a class number that data.yaml does not name, such as 2",
    f"-1 {SQUARE}": "1 in a line that is no numbers",
    f"0.5 {SQUARE}": "1 in a line that is no numbers",
    f"cat {SQUARE}": "1 in a line that is no numbers, such as 'cat",
    "0 0.1 0.1 nan 0.2 0.3 0.3": "1 in a line that is no numbers",
    "0 8 12 24 12 24 24 8 24": "1 with corners that are no shares of the picture, from 0 to 1",
    "0 1.2 1.2 1.4 1.2 1.4 1.4": "1 without a pixel in the picture",
    "0 0.1 0.1 0.1 0.1 0.1 0.1": "1 without a pixel in the picture",
    "\0\xff": "1 in a line that is no numbers",
}


@pytest.mark.parametrize("line, said", LINES.items(), ids=range(len(LINES)))
def test_lines_that_are_not_used_are_counted(tmp_path, capsys, line, said):
    root = write(tmp_path, [line, f"0 {SQUARE}", f"0 {SQUARE}", "", f"1.0 {SQUARE}"])
    assert areas(root)["images/train/a"] == [("cat", 192), ("dog", 192)]
    assert f"1 of 5 objects are not used ({said}" in capsys.readouterr().err


WHOLE = {
    "boxes": (
        NAMES + "train: images/train\n",
        "0 0.5 0.5 0.2 0.2",
        "is YOLO with boxes alone .2 lines.*needs outlines",
    ),
    "no names": ("train: images/train\nnames:\n", "", "has nothing for 'names': expected a list of class names"),
    "names of nothing": ("train: images/train\nnames: 5\n", "", r"has 5 \(number\) for 'names'"),
    "names that grow without end": (
        "a: &a [x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 8)}]\n" for a, b in zip("abcdefghij", "bcdefghijk"))
        + "train: images/train\nnames: [*k, cat]\n",
        "",
        "for 'names': expected a list",
    ),
    "names by name": ("train: images/train\nnames: {a: b}\n", "", "for 'names': expected a list"),
    "a place that is missing": (
        NAMES + "train: pictures\n",
        "",
        "names pictures of train in pictures, which is missing",
    ),
    "no YAML": ("names: [a\ntrain: x", "", "cannot be read as YAML"),
    "a tag that runs code": ("!!python/object/apply:os.system ['true']", "", "cannot be read as YAML"),
    "a list": ("- names\n", "", "expected train, val and names"),
    "no objects": (NAMES + "train: images/train\n", "", "its 2 pictures have no object with an outline"),
}


@pytest.mark.parametrize("yaml, line, said", WHOLE.values(), ids=WHOLE)
def test_useless_as_a_whole(tmp_path, yaml, line, said):
    write(tmp_path, yaml=yaml)
    for name in ("a", "b"):
        (tmp_path / "labels" / "train" / f"{name}.txt").write_text(line)
    with pytest.raises(UserError, match=said):
        CocoDataset(tmp_path)


def test_a_picture_that_cannot_be_read(tmp_path, capsys):
    (write(tmp_path) / "images" / "train" / "a.png").write_text("hello")
    assert areas(tmp_path).keys() == {"images/train/b"}
    assert "1 of 3 pictures are not used (1 missing or unreadable, such as 'a.png'" in capsys.readouterr().err


def test_no_yaml_at_all(tmp_path, capsys):
    (write(tmp_path) / "data.yaml").unlink()
    assert areas(tmp_path, "val") == {"images/val/c": [("1", 192)]}
    assert "classes are called by their numbers" in capsys.readouterr().err
