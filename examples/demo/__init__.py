"""The main job shown on this machine in under a minute: `python -m examples.demo`."""
