"""Photo files in and out, with everything that they hold: depth, alpha, frames, colour profile, EXIF.

Networks see RGB alone. What else a file holds is read here, named where it cannot be kept, and written back.
"""
