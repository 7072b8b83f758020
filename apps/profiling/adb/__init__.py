"""Android devices over adb: push, run, read, pull, clean up."""
