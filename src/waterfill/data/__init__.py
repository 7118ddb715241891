"""Images in and out: files, folders, crops for training."""
