"""Tables in files: what is written is there whole or not at all, and what is read is checked before memory is asked for."""
