"""Which files are pictures: by suffix in a folder, by content where no reader wants them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from htc_fast.errors import UserError, few
from htc_fast.models.weights.files import instead

# What Pillow reads, and what it may not but a user means as a picture: one sentence is better than left out unseen.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpf", ".jpx", ".tga", ".qoi", ".avif"),
    *(".heic", ".heif", ".jxl"),
)
VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv"),
    *(".f4v", ".3gp", ".3g2", ".ogv", ".vob", ".mxf", ".h264", ".h265", ".hevc", ".mjpeg", ".mjpg", ".y4m", ".ivf"),
)
RAW = (".arw", ".cr2", ".dng", ".nef", ".nrw", ".orf", ".pef", ".rw2", ".srw")
VIDEO = "a video: python -m htc_fast.predict takes it under a video's name, such as .mp4; else take pictures out of it"
CONVERT = "which Pillow does not read: convert it to JPEG or PNG"
MAGIC = (
    (b"%PDF", f"a PDF, {CONVERT}"),
    (b"%!PS", f"PostScript, {CONVERT}"),
    (b"\xff\x0a", f"JPEG XL, {CONVERT} (in Python, the package pillow-jxl-plugin adds a reader)"),
    (b"\x00\x00\x00\x0cJXL ", f"JPEG XL, {CONVERT} (in Python, the package pillow-jxl-plugin adds a reader)"),
    (b"\x76\x2f\x31\x01", f"OpenEXR, {CONVERT}"),
    (b"#?RADIANCE", f"a Radiance HDR picture, {CONVERT}"),
    (b"\x93NUMPY", "a NumPy file: save the array as PNG, or in Python give it as np.load(path)"),
    (b"PK\x03\x04", "a ZIP archive: unpack it"),
    (b"\x89HDF", f"HDF5, {CONVERT}"),
    (b"\x1aE\xdf\xa3", VIDEO),
    (b"\0\0\1\xba", VIDEO),
    (b"FLV\1", VIDEO),
    (b"OggS", VIDEO),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", VIDEO),
    (b"\xff\xd8", "a JPEG that is truncated, or of 12 bits, lossless or arithmetic-coded, which Pillow does not read"),
    (b"\x89PNG", "a PNG that is truncated or damaged in its header"),
    (b"II*\0", "a TIFF that is truncated, or of channels and bits that Pillow does not read: convert it to 8-bit RGB"),
    (b"MM\0*", "a TIFF that is truncated, or of channels and bits that Pillow does not read: convert it to 8-bit RGB"),
    (b"II+\0", "a TIFF that is truncated, or of channels and bits that Pillow does not read: convert it to 8-bit RGB"),
    (b"RIFF", "a WebP that is truncated, or a video or sound"),
    (b"GIF8", "a GIF that is truncated"),
)
BRANDS = {
    "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "AVIF": (b"avif", b"avis"),
    "raw": (b"crx ",),
}
CONTAINERS = {
    "HEIC": f"HEIC, {CONVERT} (in Python, the package pillow-heif adds a reader)",
    "AVIF": "an AVIF that is damaged, or that this Pillow does not read: pip install -U pillow (11.3 or newer does)",
    "raw": "a camera's raw file: develop it to JPEG",
}


def pictures_in(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The pictures in a folder by their suffixes, sorted, without hidden files (such as ._a.jpg, which macOS leaves).

    Links that lead nowhere are among them, so that whoever reads them says what is missing.
    suffixes  in small letters: those of what is looked for
    raises    UserError that counts what is there instead if there are none, or where the folder cannot be read
    """
    try:
        items = [item for item in sorted(folder.iterdir()) if not item.name.startswith(".")]
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({error.strerror}): check its rights.") from None
    found = [item for item in items if item.suffix.lower() in suffixes and (item.is_file() or not item.exists())]
    if found:
        return found
    folders = sum(item.is_dir() for item in items)
    suffixes = sorted({item.suffix or item.name for item in items if not item.is_dir()})
    there = f"{len(items) - folders} other files ({few(suffixes)})" if suffixes else "no files"
    inside = f" and {folders} folders, whose pictures {folder / '**' / '*.jpg'} would name" if folders else ""
    raise UserError(f"folder {folder} holds no pictures: expected files such as .jpg or .png, found {there}{inside}.")


def kind_of_file(file: Any) -> str:
    """What a file is that is no picture to Pillow, by its first bytes."""
    try:
        file.seek(0)
        head = file.read(2048)
    except (OSError, ValueError, AttributeError):
        head = b"?"
    if not head:
        return "empty (0 bytes) and not a picture"
    if head[4:8] == b"ftyp":
        return next((CONTAINERS[kind] for kind, names in BRANDS.items() if head[8:12] in names), VIDEO)
    if head[8:12] == b"AVI " or (head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G"):
        return VIDEO
    if head[128:132] == b"DICM":
        return f"DICOM, {CONVERT}"
    start = head.lstrip().lower()
    if b"<svg" in start:
        return f"SVG, {CONVERT}"
    known = instead(head) or next((said for magic, said in MAGIC if head.startswith(magic)), None)
    if known:
        return known
    text = all(byte >= 32 or byte in b"\t\n\r" for byte in head)
    return "text and not a picture" if text else "not a picture, or of a format that Pillow does not read"
