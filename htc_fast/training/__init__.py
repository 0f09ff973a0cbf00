"""Training: matching, sampling, losses, and the loop around them."""
