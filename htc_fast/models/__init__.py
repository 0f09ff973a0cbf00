"""The network: backbone, pyramid, proposals, semantic branch, and the cascade of box and mask heads."""
