"""What long work leaves behind: checkpoints, a history, progress on the screen, files that are complete or absent.

Nothing of it is loaded with the package: orbax and rich come in with the modules that use them.
"""
