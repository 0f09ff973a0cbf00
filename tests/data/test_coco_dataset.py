"""CocoDataset: samples, layouts, semantic maps, and every bad picture."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from htc_fast import UserError
from htc_fast.data import CocoDataset, load_image
from htc_fast.data.coco import say_maps
from tests.data.builder import CATEGORIES, image, instance, two_pictures, write


def test_sample(tmp_path):
    dataset = CocoDataset(write(tmp_path), "val")
    assert len(dataset) == 2 and dataset.classes == ["dog", "cat", "owl"] and dataset.groups == [1, 0]
    sample = dataset[0]
    assert sample["image"].shape == (3, 48, 64) and sample["image"].dtype == torch.uint8
    assert sample["boxes"].tolist() == [[8, 4, 28, 20], [30, 10, 54, 40]]
    assert sample["labels"].tolist() == [0, 2] and sample["name"] == "000000000010.png"
    mask = torch.zeros(48, 64, dtype=torch.uint8)
    mask[4:20, 8:28] = 1
    assert torch.equal(sample["masks"][0].as_subclass(torch.Tensor), mask)
    truth = dataset.truth(0)
    assert torch.equal(truth.masks[0], mask.bool()) and truth.name(1) == "owl"


def test_pictures_without_instances_leave_training_only(tmp_path):
    content = two_pictures()
    content["images"] += [image(12), image(13, 64, 20)]
    content["annotations"].append(instance(13, 3, 1, 1, 9, 9))
    root = write(tmp_path, content, "train")
    assert len(CocoDataset(root, "train")) == 2
    everything = CocoDataset(root, "train", keep_empty=True)
    assert len(everything) == 4
    empty = everything[2]
    assert empty["boxes"].shape == (0, 4) and empty["masks"].shape == (0, 48, 64)


def test_nothing_left_to_train_on(tmp_path):
    content = {"images": [image(1)], "annotations": [instance(1, 5, 1, 1, 9, 9)], "categories": CATEGORIES}
    with pytest.raises(UserError, match="leaves nothing to train on"):
        CocoDataset(write(tmp_path, content, "train"), "train")


LAYOUTS = [
    "annotations/val.json val",
    "annotations/instances_val.json images/val",
    "val.json images",
    "valid/_annotations.coco.json valid",
    "annotations/instances_val2017.json .",
]


@pytest.mark.parametrize("names", LAYOUTS)
def test_layouts(tmp_path, names):
    file, folder = names.split()
    write(tmp_path, folder=folder)
    target = tmp_path / file
    target.parent.mkdir(exist_ok=True)
    (tmp_path / "annotations" / "instances_val2017.json").rename(target)
    assert CocoDataset(tmp_path, "val")[1]["image"].shape == (3, 72, 40)
    assert len(CocoDataset(annotations=target, images=tmp_path / folder, split="val")) == 2


def test_missing_places(tmp_path):
    with pytest.raises(UserError, match="needs its root folder"):
        CocoDataset()
    with pytest.raises(UserError, match="is missing"):
        CocoDataset(tmp_path / "no")
    write(tmp_path)
    with pytest.raises(UserError, match=r"no annotation file for split 'train'.*found .*instances_val2017.json"):
        CocoDataset(tmp_path, "train")
    with pytest.raises(UserError, match=r"image folder .* is missing"):
        CocoDataset(tmp_path, "val", images=tmp_path / "no")


def test_missing_picture_is_found_at_once(tmp_path):
    root = write(tmp_path)
    (root / "val2017" / "000000000011.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 pictures are missing.*000000000011\.png"):
        CocoDataset(root, "val")
    (root / "val2017" / "000000000010.png").unlink()
    with pytest.raises(UserError, match=r"picture 000000000010\.png .* is missing"):
        CocoDataset(root, "val")


def truncate(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:900])


BAD_PICTURES = {
    "truncated": (truncate, "cannot be read"),
    "no picture": (lambda path: path.write_text("hello"), "it is text and not a picture"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "another size": (lambda path: Image.new("RGB", (64, 50)).save(path), "64 x 50 pixels.*say 64 x 48"),
    "below 0": (lambda path: Image.new("F", (64, 48), -1).save(path, "TIFF"), "float32 from -1 to -1: expected uint8"),
    "gone": (lambda path: path.unlink(), "is missing"),
}


@pytest.mark.parametrize("damage, sentence", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_bad_picture(tmp_path, damage, sentence):
    dataset = CocoDataset(write(tmp_path), "val")
    damage(tmp_path / "val2017" / "000000000010.png")
    with pytest.raises(UserError, match=sentence) as error:
        dataset[0]
    assert "000000000010.png" in str(error.value)


def test_a_worker_hands_over_the_sentence_alone(tmp_path):
    dataset = CocoDataset(write(tmp_path), "val")
    truncate(tmp_path / "val2017" / "000000000010.png")
    with pytest.raises(UserError, match=r"^picture .*000000000010.png cannot be read") as error:
        list(DataLoader(dataset, num_workers=1, batch_size=None))
    assert "Traceback" not in str(error.value)


PICTURES = {
    "grey": Image.new("L", (4, 3), 7),
    "palette": Image.new("RGB", (4, 3), (7, 7, 7)).quantize(4),
    "alpha": Image.new("RGBA", (4, 3), (7, 7, 7, 9)),
    "bilevel": Image.new("1", (4, 3), 0),
    "8 bits in 16": Image.fromarray(np.full((3, 4), 7, dtype=np.uint16)),
    "array": np.full((3, 4, 3), 7, dtype=np.uint8),
    "grey array": np.full((3, 4), 7, dtype=np.uint8),
}


@pytest.mark.parametrize("name", PICTURES)
def test_kinds_of_pictures(tmp_path, name):
    source = PICTURES[name]
    if isinstance(source, Image.Image):
        source.save(tmp_path / "a.png")
        source = tmp_path / "a.png"
    pixels = load_image(source)
    assert pixels.shape == (3, 4, 3) and pixels.dtype == np.uint8
    assert (pixels == (0 if name == "bilevel" else 7)).all()


@pytest.mark.parametrize(
    "source", [None, 5, {"a": "b"}, [[1, 2]], np.zeros((3, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_wrong_arguments(source):
    with pytest.raises(UserError, match="expected"):
        load_image(source)


def test_rotation_by_exif(tmp_path):
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, exif=exif)
    assert load_image(path).shape == (64, 48, 3) and load_image(path)[0, 0, 0] == 255
    # Some data sets were annotated on the raw pixels: the size says so.
    assert load_image(path, (48, 64)).shape == (48, 64, 3)
    assert load_image(path, (64, 48)).shape == (64, 48, 3)


def test_derived_maps(tmp_path, capsys):
    content = two_pictures()
    content["annotations"] += [instance(10, 7, 10, 6, 4, 4), instance(10, 3, 0, 44, 4, 4, iscrowd=1)]
    dataset = CocoDataset(write(tmp_path, content), "val")
    assert dataset.semantic_classes == 4
    semantic = dataset[0]["semantic"]
    assert semantic[5, 9] == 0 and semantic[20, 40] == 2 and semantic[0, 0] == 3
    assert semantic[7, 11] == 1, "the smaller instance lies on top"
    assert semantic[46, 2] == 255, "a crowd is ignored"
    say_maps(dataset)
    say_maps(dataset)
    assert capsys.readouterr().err.count("derived from the instance masks") <= 1
    assert "semantic" not in CocoDataset(tmp_path, "val", semantic="none")[0]


@pytest.fixture
def stuff(tmp_path):
    root = write(tmp_path)
    folder = root / "stuffthingmaps" / "val2017"
    folder.mkdir(parents=True)
    for name, (height, width) in (("000000000010", (48, 64)), ("000000000011", (72, 40))):
        values = np.full((height, width), 181, dtype=np.uint8)
        values[0], values[1] = 255, 90
        Image.fromarray(values).save(folder / f"{name}.png")
    return root


def test_pixel_maps(stuff):
    dataset = CocoDataset(stuff, "val")
    assert dataset.semantic_classes == 183
    assert dataset[0]["semantic"][:3, 0].tolist() == [255, 90, 181]
    assert CocoDataset(stuff, "val", semantic=stuff / "stuffthingmaps" / "val2017")[1]["semantic"].shape == (72, 40)
    assert CocoDataset(stuff, "val", semantic="derive").semantic_classes == 4


def test_bad_pixel_maps(stuff):
    with pytest.raises(UserError, match="holds class 181: expected below 100"):
        CocoDataset(stuff, "val", semantic_classes=100)[0]
    path = stuff / "stuffthingmaps" / "val2017" / "000000000010.png"
    for content, sentence in (
        (np.zeros((48, 60), np.uint8), "60 x 48 pixels"),
        (np.zeros((48, 64, 3), np.uint8), "colour picture"),
    ):
        Image.fromarray(content).save(path)
        with pytest.raises(UserError, match=sentence):
            CocoDataset(stuff, "val")[0]
    path.write_text("hello")
    with pytest.raises(UserError, match="cannot be read"):
        CocoDataset(stuff, "val")[0]
    path.unlink()
    with pytest.raises(UserError, match=r"semantic map .* is missing"):
        CocoDataset(stuff, "val")[0]
    with pytest.raises(UserError, match=r"semantic maps .* are missing"):
        CocoDataset(stuff, "val", semantic=stuff / "no")


def write_panoptic(root, segments):
    """Left half segment 300 (id beyond one byte), right half 70000, upper row no segment."""
    folder = root / "annotations" / "panoptic_val2017"
    folder.mkdir()
    for name, (height, width) in (("000000000010", (48, 64)), ("000000000011", (72, 40))):
        ids = np.full((height, width), 300)
        ids[:, width // 2 :] = 70000
        ids[0] = 0
        Image.fromarray(np.dstack([ids % 256, ids // 256 % 256, ids // 65536]).astype(np.uint8)).save(
            folder / f"{name}.png"
        )
    content = {
        "categories": [{"id": 200}, {"id": 1}, {"id": 17}],
        "annotations": [
            {"image_id": int(name), "file_name": f"{name}.png", "segments_info": segments}
            for name in ("000000000010", "000000000011")
        ],
    }
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))


def test_panoptic_maps(tmp_path):
    root = write(tmp_path)
    write_panoptic(root, [{"id": 70000, "category_id": 17}, {"id": 300, "category_id": 200}])
    dataset = CocoDataset(root, "val")
    assert dataset.semantic_classes == 3
    semantic = dataset[0]["semantic"]
    assert semantic[5, 0] == 2 and semantic[5, 63] == 1 and semantic[0, 0] == 255
    (root / "annotations" / "panoptic_val2017.json").write_text('{"annotations": []}')
    with pytest.raises(UserError, match="no COCO panoptic file"):
        CocoDataset(root, "val")


def test_panoptic_numbers_as_text(tmp_path):
    root = write(tmp_path)
    write_panoptic(root, [{"id": "70000", "category_id": "17"}, {"id": 300.0, "category_id": 200}])
    path = root / "annotations" / "panoptic_val2017.json"
    path.write_text(path.read_text().replace('"image_id": 10', '"image_id": "10"').replace('"0000', '"./0000'))
    semantic = CocoDataset(root, "val")[0]["semantic"]
    assert semantic[5, 0] == 2 and semantic[5, 63] == 1 and semantic[0, 0] == 255


WRONG_SEGMENTS = {
    "id": ({"id": "many", "category_id": 17}, r"has the 'id' 'many' \(text\): expected a whole number"),
    "category": ({"id": 300, "category_id": 5}, r"has the 'category_id' 5 \(number\): expected one that is listed"),
}


@pytest.mark.parametrize("segment, sentence", WRONG_SEGMENTS.values(), ids=WRONG_SEGMENTS)
def test_wrong_segments(tmp_path, segment, sentence):
    root = write(tmp_path)
    write_panoptic(root, [segment])
    with pytest.raises(UserError, match=sentence):
        CocoDataset(root, "val")
