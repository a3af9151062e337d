"""What the embedded world, whose truth is known, says of the method."""
