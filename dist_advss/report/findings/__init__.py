"""What the numbers of a launch say."""
