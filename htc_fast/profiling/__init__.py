"""What a detector costs, part by part, beside what this device could do; `python -m htc_fast.profile` prints it."""
