"""From one network to artifacts for phones: lowerings, artifact folders and the runners that execute them.

Importing this package loads no toolchain: each lowering and each runner imports its own when it is used.
"""
