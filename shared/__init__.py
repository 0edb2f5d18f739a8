"""What every service says to the others (`contract`), what Replicate says (`replicate`), and what a process stands on (`runtime`)."""
