"""The commands, one file each: reads arguments, calls `nas_theseus.api`, prints."""
