"""Everything that tries to break the marketplace: simulation, chaos, load and fuzzing."""
