"""Which trainings ended without anybody telling us? Asked of Replicate, within a budget; told as the receiver would."""
