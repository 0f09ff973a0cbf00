"""The parts of a picture's and a step's way through the network, as a report names and a chart colours them."""

# In the order in which data flow through them.
COLOURS = {
    "data": "#9e9e9e",
    "preprocess": "#9e9e9e",
    "backbone": "#1b5e8c",
    "FPN": "#4a90c2",
    "RPN head": "#8fc1e3",
    "proposals": "#c5dff2",
    "semantic": "#5b9a4b",
    "context": "#9ccc65",
    "box stage 1": "#f2b134",
    "box stage 2": "#e59a1a",
    "box stage 3": "#cc7f0a",
    "detections": "#f7d794",
    "mask RoIAlign": "#e8a6a1",
    "feature relay": "#f4b8a5",
    "mask stages": "#f3d0cc",
    "mask stage 1": "#d97a6c",
    "mask stage 2": "#c8564b",
    "mask stage 3": "#a83a32",
    "paste + RLE": "#7b5ea7",
    "forward": "#b5cf6b",
    "backward": "#6a4c93",
    "optimizer": "#a28ccf",
    "rest": "#d9d9d9",
}
ORDER = tuple(COLOURS)
# Words for what is left of a part once others inside it are taken out.
REMAINS = {"mask stages": "mask mean", "forward": "targets + losses"}


def in_order(parts: dict) -> list[str]:
    """The names of parts as data flow through them."""
    return sorted(parts, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def label(name: str, parts: dict) -> str:
    """A part as it is printed."""
    inner = {"mask stages": "mask stage 1", "forward": "backbone"}
    return REMAINS[name] if name in REMAINS and inner[name] in parts else name


def short(dtype: str) -> str:
    """bfloat16 as bf16, float32 as fp32."""
    return dtype.replace("bfloat", "bf").replace("float", "fp")
