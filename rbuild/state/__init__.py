"""What rbuild keeps on disk about a project: its record, generations, lock, logs."""
