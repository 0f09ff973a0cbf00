"""The paper's ablations in miniature: all rows of its Tables 2 to 6 trained on one data set."""
