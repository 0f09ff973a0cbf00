"""What the commands share: options, output files, how they begin and end."""
