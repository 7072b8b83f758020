"""Photos made larger: which files, with what, into which files, and what each of them keeps."""
