"""What today's parser would make of the past."""
