"""What the parts of Flash share: the words they exchange and the pipes they use."""
