"""A model of many devices, and measurements of the trainer's programs on this one."""
