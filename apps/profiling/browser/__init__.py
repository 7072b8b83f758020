"""A browser as a device: any phone with one runs the very .tflite of an artifact, without an SDK.

``profile_in_browser`` in :mod:`apps.profiling.browser.session` serves a page that measures and posts its samples back.
"""
