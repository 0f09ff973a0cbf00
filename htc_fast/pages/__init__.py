"""Pages that open from disk: what is in a data set, and how a detector did on it."""
