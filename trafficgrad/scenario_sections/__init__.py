"""The sections of a scenario file, as pydantic models. Names are full words; every description ends with the unit."""
