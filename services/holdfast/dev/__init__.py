"""One command that brings the whole suite up on this machine and takes all of it down again."""
