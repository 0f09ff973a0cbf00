"""Where the time goes, part by part, beside what this device could do at best.

profile(ProfileRun(models=("htc_r50",), image_size=(400, 667)))
"""

__all__ = ["ProfileRun", "profile"]


def __getattr__(name: str):
    # Asking for a device's name or limits must not import detectors.
    if name in __all__:
        from htc_fast.profiling import run

        return getattr(run, name)
    raise AttributeError(f"module 'htc_fast.profiling' has no attribute {name!r}")
