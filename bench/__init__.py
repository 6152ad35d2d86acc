"""The measured work: ours and the peers', asked the same questions on the same machine."""
