"""What the six commands share: options, output files, how they begin and end."""
