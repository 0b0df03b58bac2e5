"""The wire formats, one file per API: pydantic models for what comes in, msgspec structs for what goes out."""
