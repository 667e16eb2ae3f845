"""Find, load, adapt and run models."""
